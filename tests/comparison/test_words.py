"""What the page and the terminal say about a comparison."""

import pytest
from support.comparison_runs import candidate, candidates, finished

from pneumo.comparison import words
from pneumo.comparison.candidates import Candidate
from pneumo.comparison.content import Equivalence, PairScore, RecipeTest


def entry(difference: float, half: float, p_holm: float, seeds: bool = True) -> PairScore:
    """Where seeds count, the interval over patients alone is half as wide and claims more."""
    low, high = difference - half, difference + half
    recipes: RecipeTest = {
        "low": low, "high": high, "p": p_holm, "p_holm": p_holm, "error": half / 2, "freedom": 4.0
    }  # fmt: skip
    return {
        "difference": difference,
        "low": difference - half / 2 if seeds else low,
        "high": difference + half / 2 if seeds else high,
        "p": 0.001 if seeds else p_holm,
        "p_holm": 0.001 if seeds else p_holm,
        "with_seeds": recipes if seeds else None,
    }


@pytest.mark.parametrize(
    ("score", "result", "said"),
    [
        ("accuracy", (0.02, 0.015, 0.01), "A has a higher accuracy than B by 0.0200"),
        ("accuracy", (-0.02, 0.015, 0.01), "B has a higher accuracy than A by 0.0200"),
        ("brier", (-0.02, 0.015, 0.01), "A has a lower Brier than B by 0.0200"),
        ("accuracy", (0.02, 0.015, 0.08), "No difference in accuracy can be claimed between A and B"),
        ("accuracy", (0.01, 0.015, 0.2), "No difference in accuracy can be claimed between A and B"),
    ],
)
def test_seeds_and_patients_decide(score: str, result: tuple[float, float, float], said: str) -> None:
    sentence = words.verdict("A", "B", score, entry(*result))
    assert sentence.startswith(said) and "95 % interval over seeds and patients" in sentence
    assert f"p {result[2]:.3f} after Holm" in sentence


@pytest.mark.parametrize("p", [0.001, 0.2])
def test_with_one_seed_only_the_networks_are_compared(p: float) -> None:
    sentence = words.verdict("A", "B", "auroc", entry(0.02, 0.015, p, seeds=False))
    assert sentence.startswith("These two trained networks")
    assert ("differ in AUROC: that of A has a higher one" in sentence) == (p < 0.05)
    assert "nothing follows about the configurations" in sentence
    assert "A has a higher" not in sentence.replace("that of A has a higher one", "")


def test_equivalence_and_what_the_comparison_can_show() -> None:
    found: Equivalence = {
        "margin": 0.02, "p": 0.01, "p_holm": 0.02, "detectable": 0.011, "seeds_needed": 2
    }  # fmt: skip
    unclear = entry(0.004, 0.008, 0.4)
    sentence = words.verdict("A", "B", "auroc", unclear, found)
    assert sentence.startswith("A and B are equivalent in AUROC within the margin of 0.02 (")
    found |= {"p_holm": 0.3, "detectable": 0.031, "seeds_needed": 7}
    sentence = words.verdict("A", "B", "auroc", unclear, found)
    assert "these seeds and patients can show differences of 0.0310 or more; about 7 seeds" in sentence
    found |= {"seeds_needed": None}
    assert "more patients are needed" in words.verdict("A", "B", "auroc", unclear, found)


def test_nothing_varies_so_nothing_is_tested() -> None:
    still = entry(0.5, 0.0, 0.001)
    assert still["with_seeds"] is not None
    still["with_seeds"] |= {"p": None, "p_holm": None}
    still |= {"p": None, "p_holm": None}
    assert words.verdict("A", "B", "auroc", still).startswith("No test of AUROC between A and B")
    still["with_seeds"] = None
    assert words.verdict("A", "B", "auroc", still).startswith("No test of AUROC between the trained networks")


def five(seeds: int) -> list[Candidate]:
    return [
        candidate(seed=seed, quality=q, config={"optim.lr": q, "model.name": "resnet18"}, run_id=f"{q}{seed}")
        for q in (2.0, 1.9, 1.0, 0.9, 0.8)
        for seed in range(seeds)
    ]


def test_any_number_of_configurations_has_direction_and_seeds() -> None:
    few = words.verdicts(finished(candidates()))
    assert few[2].startswith("resnet18 has a higher AUROC than resnet50 by")
    many = finished(five(3))
    assert len(many["pairs"]) == 10
    names = {row["id"]: row["name"] for row in many["configurations"]}
    claimed = [pair for pair in many["pairs"] if words.claimed(pair["scores"]["auroc"])]
    assert 0 < len(claimed) < 10
    sentences = words.verdicts(many)
    for pair in claimed:
        better, worse = names[pair["first"]], names[pair["second"]]
        assert any(s.startswith(f"{better} has a higher AUROC than") and worse in s for s in sentences)
    rest = f"No difference in AUROC can be claimed in {10 - len(claimed)} of 10 pairs"
    assert any(sentence.startswith(rest) for sentence in sentences)


def test_five_configurations_with_one_seed_are_never_called_better() -> None:
    sentences = words.verdicts(finished(five(1)))
    assert any(
        "The trained network of lr=2.0" in s or "The trained network of resnet18" in s for s in sentences
    )
    assert "These have one seed on a side, so nothing follows about the configurations." in sentences
    for sentence in sentences:
        if "has a higher" in sentence:
            assert sentence.startswith("The trained network of")


def test_five_labels_of_one_recipe_are_not_told_apart() -> None:
    """Five names for one distribution of trained networks: nothing differs, so nothing may be claimed."""
    runs = [
        candidate(seed=10 * label + seed, config={"optim.lr": label}, run_id=f"{label}-{seed}")
        for label in range(5)
        for seed in range(3)
    ]
    comparison = finished(runs)
    assert not any(words.claimed(pair["scores"]["auroc"]) for pair in comparison["pairs"])
    sentences = words.verdicts(comparison)
    assert not any(" has a " in sentence for sentence in sentences)
    assert any("in 10 of 10 pairs" in sentence for sentence in sentences)


def test_the_first_by_accuracy_may_be_the_worst_by_auroc() -> None:
    """Its logits are shifted to the best threshold, but order the images worst."""
    runs = []
    for model, quality in (("resnet18", 1.1), ("resnet50", 2.0), ("densenet121", 2.1)):
        for seed in range(3):
            run = candidate(model, seed, quality)
            if model != "resnet18":  # order as it was, nearly all called ill
                run.test.probabilities = run.test.probabilities**0.05
            runs.append(run)
    comparison = finished(runs, rank_by="accuracy")
    assert comparison["configurations"][0]["name"] == "resnet18"
    assert comparison["rank_by"] == "accuracy" and comparison["choice"] is not None
    exploratory = [s for s in words.verdicts(comparison) if s.startswith("Exploratory: ")]
    assert any("resnet50 has a higher AUROC" in s and s.endswith("than resnet18.") for s in exploratory)
    assert not any(s.startswith("Exploratory: resnet18 has a higher AUROC") for s in exploratory)


def test_validation_chooses_first_and_admits_what_it_cannot_tell() -> None:
    comparison = finished([candidate(seed=n, config={"optim.lr": n}, run_id=str(n)) for n in range(3)])
    first, luck = words.verdicts(comparison)[:2]
    assert first.startswith("Validation prefers ") and "test AUROC" in first
    assert "Validation cannot tell it from" in first
    assert luck.startswith("First on the test images, which also picked it from 3: ")
    assert "is luck with these patients" in luck and "Chance in training comes on top" in luck


def test_confounded_settings_are_named() -> None:
    runs = [
        candidate(
            model, seed, quality, config={"model.name": model, "optim.lr": lr, "trainer.batch_size": size}
        )
        for model, quality, lr, size in (("resnet18", 2.1, 1e-3, 64), ("resnet50", 1.0, 3e-4, 32))
        for seed in range(3)
    ]
    comparison = finished(runs)
    (pair,) = comparison["pairs"]
    assert pair["differ_in"] == ["model.name", "optim.lr", "trainer.batch_size"]
    assert "They differ in model.name, optim.lr and trainer.batch_size;" in pair["verdicts"]["auroc"]
    assert "They differ in" not in finished(candidates())["pairs"][0]["verdicts"]["auroc"]


def test_runs_of_one_configuration_from_different_places_are_named() -> None:
    runs = [
        candidate(seed=n, commit=c, device=d) for n, c, d in ((0, "a" * 40, "cpu"), (1, "b" * 40, "cuda"))
    ]
    titles = dict(words.warnings(finished(runs)))
    assert "commits (aaaaaaaaaaaa, bbbbbbbbbbbb) and devices (cpu, cuda)" in titles["Mixed runs."]


def test_the_command_that_adds_seeds_is_printed() -> None:
    comparison = finished(five(1))
    comparison["configurations"][0]["more_seeds"] = "pneumo train --multirun model=resnet18 seed=1,2"
    assert words.verdicts(comparison)[-1] == "Add seeds: pneumo train --multirun model=resnet18 seed=1,2"


def test_a_configuration_alone_and_optimistic_runs_only() -> None:
    (alone,) = words.verdicts(finished([candidate()]))
    assert alone.startswith("One configuration, resnet18: test AUROC .")
    assert "nothing to compare it with" in alone
    (optimistic,) = words.verdicts(finished([candidate(protocol="test_selected")]))
    assert "there is nothing to rank" in optimistic


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        (candidates(), "It has a higher AUROC than resnet50."),
        ([candidate("a", 0, 2.0), candidate("b", 0, 1.0)], "No difference between the two can be shown; one"),
        (five(1), "No difference between the 5 configurations can be shown; one seed each."),
    ],
)
def test_the_answer_is_validations_choice_and_what_differs(runs: list[Candidate], said: str) -> None:
    comparison = finished(runs)
    sentence = words.answer(comparison)
    choice = comparison["choice"]
    assert choice is not None
    row = next(row for row in comparison["configurations"] if row["id"] == choice["id"])
    score = words.compact(row["scores"]["auroc"])
    tied = f" (tied with {words.plural(len(choice['tied']), 'other')})" if choice["tied"] else ""
    assert sentence.startswith(f"Best by validation{tied}: {row['name']}, test AUROC {score}. {said}")


def test_the_answer_counts_what_cannot_be_shown() -> None:
    runs = [
        candidate(model, seed, q, config={"model.name": model})
        for model, q in (("a", 2.0), ("b", 1.9), ("c", 0.6))
        for seed in range(3)
    ]
    comparison = finished(runs)
    pairs = {(p["first"], p["second"]): words.claimed(p["scores"]["auroc"]) for p in comparison["pairs"]}
    assert pairs == {("c1", "c2"): False, ("c1", "c3"): True, ("c2", "c3"): True}
    assert comparison["choice"] is not None
    row = next(r for r in comparison["configurations"] if r["id"] == comparison["choice"]["id"])
    other = {"a": "b", "b": "a"}[row["name"]]
    end = f"It has a higher AUROC than c; against {other}, no difference can be shown."
    assert words.answer(comparison).endswith(end)


def test_official_validation_is_not_said_to_be_carved() -> None:
    carved = " ".join(words.limits(finished([candidate()])))
    official = " ".join(words.limits(finished([candidate(protocol="official_val")])))
    assert "carved from the training folder" in carved and "carved" not in official
    assert "the set's own validation folder" in official
    assert words.protocol_words("official_val") == "the set's own validation images"


def test_one_seed_is_named() -> None:
    two = finished([candidate("resnet18", 0, 2.0), candidate("resnet50", 0, 1.5)])
    assert any("2 configurations with one seed each" in text for text in words.limits(two))


def test_warnings_name_what_changes_the_reading() -> None:
    few = words.warnings(finished([candidate()]))
    assert [title for title, _ in few] == ["Few patients."] and "has 24 patients" in few[0][1]
    run = candidate(protocol="test_selected", notes=["A note."])
    run.test.patients[0] = None
    comparison = finished([run, candidate()], synthetic=True)
    comparison["left_out"] = [{"run": "a", "reason": "b"}]
    comparison["test"]["images_without_patient"] = 1
    titles = [title for title, _ in words.warnings(comparison)]
    assert titles == [
        "Synthetic images.",
        "Patients are not known.",
        "Few patients.",
        "Optimistic runs.",
        "1 run left out.",
        "Note.",
    ]
    assert words.headlines(comparison) == [*titles[:-1], "A note."]


def test_the_limits_follow_the_data() -> None:
    public = words.limits(finished([candidate()]))
    other = words.limits(finished([candidate()], data="csv"))
    assert len(public) == len(other) + 2 and any("one centre" in text for text in public)
    epochs = [candidate(config={"trainer.epochs": n}, run_id=str(n)) for n in (1, 2)]
    assert any("different numbers of epochs" in text for text in words.limits(finished(epochs)))


def test_numbers_are_printed_as_a_reader_expects() -> None:
    assert (words.number(0.12344), words.number(0.12344, 3)) == ("0.1234", "0.123")
    assert words.compact({"value": 0.97, "low": 0.955, "high": 1.0}) == f".970 (.955{words.DASH}1.000)"
    assert words.short_number(-0.0123) == "-.012"
    assert [words.setting(value) for value in (None, True, 3e-4)] == ["null", "true", "0.0003"]
    assert words.number(None) == words.number(float("nan")) == "-"
    assert (
        words.with_interval({"value": 0.9, "low": 0.85, "high": 0.95}) == f"0.9000 (0.850{words.DASH}0.950)"
    )
    nan = float("nan")
    assert words.with_interval({"value": 1.0, "low": nan, "high": nan}) == "1.0000 (no interval)"
    assert (words.p_text(0.0001), words.p_text(0.04)) == ("< 0.001", "0.040")
    assert (words.scaled(3e6, 1e6, "M"), words.scaled(None, 1, "s")) == ("3.00 M", "-")
    assert (words.plural(1, "run"), words.plural(1200, "run")) == ("1 run", "1,200 runs")
    assert words.protocol_words("patient_val") == "validation patients"
    assert words.protocol_words("unheard_of") == "unheard_of"


@pytest.mark.parametrize(("smoothing", "equal"), [(0.0, True), (10.0, False)])
def test_two_names_of_one_sampler_are_pointed_out(smoothing: float, equal: bool) -> None:
    config = {"model.name": "resnet18", "sampler.smoothing": smoothing}
    runs = [
        candidate(config=config | {"sampler.name": name}, run_id=name) for name in ("imbalanced", "weighted")
    ]
    titles = [title for title, _ in words.warnings(finished(runs))]
    assert ("Equal samplers." in titles) == equal
