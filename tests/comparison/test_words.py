"""What the page and the terminal say about a comparison."""

import pytest
from support.comparison_runs import candidate, candidates, finished

from pneumo.comparison import words
from pneumo.comparison.content import PairScore


def entry(difference: float, low: float, high: float, p_holm: float) -> PairScore:
    return {
        "difference": difference,
        "low": low,
        "high": high,
        "p": p_holm,
        "with_seeds": None,
        "p_holm": p_holm,
    }


@pytest.mark.parametrize(
    ("score", "result", "said"),
    [
        ("accuracy", (0.02, 0.005, 0.035, 0.01), "A has a higher accuracy than B by 0.0200"),
        ("accuracy", (-0.02, -0.035, -0.005, 0.01), "B has a higher accuracy than A by 0.0200"),
        ("brier", (-0.02, -0.035, -0.005, 0.01), "A has a lower Brier than B by 0.0200"),
        ("accuracy", (0.02, 0.005, 0.035, 0.08), "No difference in accuracy can be claimed between A and B"),
        ("accuracy", (0.01, -0.005, 0.025, 0.2), "No difference in accuracy can be claimed between A and B"),
    ],
)
def test_the_verdict_in_words(score: str, result: tuple[float, float, float, float], said: str) -> None:
    sentence = words.verdict("A", "B", score, entry(*result))
    assert sentence.startswith(said) and "95 % interval" in sentence
    assert f"p {result[3]:.3f} after Holm" in sentence


def test_few_pairs_are_listed_and_many_are_counted() -> None:
    few = words.verdicts(finished(candidates()))
    assert len(few) == 2 and few[0].startswith("resnet18 has a higher accuracy than resnet50")
    assert "With chance in training counted, the interval is" in few[0]
    runs = [
        candidate(seed=0, quality=q, config={"optim.lr": q}, run_id=str(q)) for q in (2.0, 1.9, 1, 0.9, 0.8)
    ]
    many = finished(runs)
    assert len(many["pairs"]) == 10
    claimed = [p for p in many["pairs"] if not p["verdicts"]["accuracy"].startswith("No difference")]
    assert 0 < len(claimed) < 10
    sentences = words.verdicts(many)
    assert sentences[0] == f"A difference in accuracy can be claimed in {len(claimed)} of 10 pairs."
    behind = 4 - sum(pair["first"] == "c1" for pair in claimed)
    assert f"differs from all but {behind} of the others in accuracy." in sentences[1]


def test_a_configuration_alone_and_optimistic_runs_only() -> None:
    (alone,) = words.verdicts(finished([candidate()]))
    assert alone.startswith("One configuration: resnet18, accuracy 0.")
    assert "nothing to compare it with" in alone
    (optimistic,) = words.verdicts(finished([candidate(protocol="test_selected")]))
    assert "there is nothing to rank" in optimistic


def test_one_seed_is_named() -> None:
    two = finished([candidate("resnet18", 0, 2.0), candidate("resnet50", 0, 1.5)])
    assert "chance in training is not counted" in words.verdicts(two)[0]
    assert any("2 configurations with one seed each" in text for text in words.limits(two))


def test_warnings_name_what_changes_the_reading() -> None:
    assert words.warnings(finished([candidate()])) == []
    run = candidate(protocol="test_selected", notes=["A note."])
    run.test.patients[0] = None
    comparison = finished([run, candidate()], synthetic=True)
    comparison["left_out"] = [{"run": "a", "reason": "b"}]
    comparison["test"]["images_without_patient"] = 1
    titles = [title for title, _ in words.warnings(comparison)]
    assert titles == [
        "Synthetic images.",
        "Patients are not known.",
        "Optimistic runs.",
        "Left out.",
        "Note.",
    ]


def test_the_limits_follow_the_data() -> None:
    public = words.limits(finished([candidate()]))
    other = words.limits(finished([candidate()], data="csv"))
    assert len(public) == len(other) + 2 and any("one centre" in text for text in public)
    epochs = [candidate(config={"trainer.epochs": n}, run_id=str(n)) for n in (1, 2)]
    assert any("different numbers of epochs" in text for text in words.limits(finished(epochs)))


def test_numbers_are_printed_as_a_reader_expects() -> None:
    assert (words.number(0.12344), words.number(0.12344, 3)) == ("0.1234", "0.123")
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
