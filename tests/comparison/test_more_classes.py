"""Comparisons of runs with more than two classes: every number recomputed, the choice, the page."""

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from recompute import recompute
from support.class_runs import NAMES, candidate, candidates, cross_validation, finished
from support.comparison_runs import candidates as candidates_of_two

from pneumo import UserError
from pneumo.comparison import figures, out_of_fold, page, result, sections, words
from pneumo.comparison.candidates import Candidate, sort_out
from pneumo.comparison.class_configuration import CLASS_PAIRED, ClassConfiguration
from pneumo.comparison.content import Comparison
from pneumo.comparison.mistakes import MOST_OF_A_KIND, MOST_OF_MANY
from pneumo.evaluation import class_statistics, multiclass, statistics
from pneumo.evaluation.predictions import predictions_csv
from pneumo.files import write_atomically
from pneumo.names import CLASS_RANKED_BY
from pneumo.text import finite

FEW = 20  # draws; the luck of the first needs 50
HISTORY = [
    {"epoch": e, **{f"{s}/{m}": e / 9 for s in ("train", "val") for m in ("accuracy", "f1", "loss")}}
    for e in range(1, 5)
]


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    runs = [*candidates(), candidate(protocol="test_selected")]
    for run in runs:
        run.history = HISTORY
    return finished(runs)


def plain(runs: list[Candidate]) -> None:
    """As the runs are."""


def patients_of_several_classes(runs: list[Candidate]) -> None:
    """Some patients have images of two classes, and the rarest class has only such patients."""
    for run in runs:
        for split in (run.test, run.val):
            kept = [n for n, label in enumerate(split.labels) if label != 2]
            rare = [n for n, label in enumerate(split.labels) if label == 2][:6]
            for n, partner in zip(rare, kept[::9], strict=False):
                split.patients[n] = split.patients[partner]
            split.patients[3] = None
            rows = sorted(kept + rare)
            split.paths[:] = [split.paths[n] for n in rows]
            split.patients[:] = [split.patients[n] for n in rows]
            split.labels, split.probabilities = split.labels[rows], split.probabilities[rows]


def shared_splits(runs: list[Candidate]) -> None:
    for run in runs:
        run.val.paths[:] = [f"{run.seed // 2}/{path}" for path in run.val.paths]


def unscored(runs: list[Candidate]) -> None:
    runs[0].test, runs[0].scored = runs[0].val, False


def perfect(runs: list[Candidate]) -> None:
    """No slope, no mistake, nothing that varies."""
    for run in runs:
        for split in (run.test, run.val):
            split.probabilities = 0.1 + 0.7 * np.eye(3)[split.labels]


def one_class_in_validation(runs: list[Candidate]) -> None:
    for run in runs:
        run.val.labels[:] = 1


@pytest.mark.parametrize(
    "change",
    [plain, patients_of_several_classes, shared_splits, unscored, perfect, one_class_in_validation],
)
def test_every_number_is_recomputed(change: Callable[[list[Candidate]], None], tmp_path: Path) -> None:
    models = (("resnet18", 2.0, 2), ("resnet50", 1.5, 1))
    runs = [candidate(model, seed, quality) for model, quality, seeds in models for seed in range(seeds)]
    change(runs)
    check(runs, tmp_path, draws=60 if change is plain else FEW)


def test_every_number_of_five_classes_is_recomputed(tmp_path: Path) -> None:
    names = ("healthy", "bacterial, lobar", "viral/other", "|", "é")
    check([candidate("resnet18", seed, 1.5, names) for seed in range(2)], tmp_path)


@pytest.mark.parametrize("scored", [(True, False), (True, True)])
def test_every_number_of_a_cross_validation_is_recomputed(scored: tuple[bool, bool], tmp_path: Path) -> None:
    runs = [*cross_validation(scored=scored[0]), *cross_validation("resnet50", 1.0, scored=scored[1])]
    write(runs, tmp_path)
    joined, _ = out_of_fold.pool(runs, lambda saved, folds: "")
    found = check_written(sort_out(joined)[0], tmp_path)
    content = sections.page(found, {})
    (folds,) = (section for section in content.sections if section.title == "Cross-validation")
    assert "macro AUROC" in folds.tables[0].caption and len(folds.tables) == 1
    said = " ".join(text for section in content.sections[:1] for text in (*section.text, *section.verdicts))
    assert "hresholds" not in said and "not been read" not in said


def check(runs: list[Candidate], tmp_path: Path, draws: int = FEW) -> None:
    write(runs, tmp_path)
    kept, _ = sort_out(runs)
    assert len(kept) == len(runs)
    check_written(kept, tmp_path, draws)


def write(runs: list[Candidate], tmp_path: Path) -> None:
    for run in runs:
        folder = tmp_path / "store" / run.run_id / "artifacts" / "predictions"
        for name, split in (("val", run.val), *((("test", run.test),) if run.scored else ())):
            write_atomically(folder / f"{name}.csv", predictions_csv(split))


def check_written(kept: list[Candidate], tmp_path: Path, draws: int = FEW) -> Comparison:
    """Compare `kept` and recompute every number from the files of the runs."""
    file = tmp_path / "comparison.json"
    found = finished(kept, draws=draws)
    file.write_text(json.dumps(finite(dict(found)), allow_nan=False))
    done = recompute(file, tmp_path / "store")
    assert done.count > 500 and done.largest < 1e-9, done.where
    return found


def test_scores_are_those_of_the_run_itself() -> None:
    runs = [candidate(seed=1), candidate(seed=0)]
    test = runs[0].test
    weights = class_statistics.resample(test.labels, test.patients, 3, 100, 0)
    found = ClassConfiguration("two seeds", runs, test, weights)
    each = [run.test.scores() for run in found.runs]
    counts = class_statistics.ClassCounts.of(test.labels, test.patients, 3)
    for score, row in found.row["scores"].items():
        assert row["per_run"] == pytest.approx([scores[score] for scores in each])
        if score not in ("ece", "ece_top"):
            ends = statistics.interval(score, row["value"], found.draws[score], counts)
            assert (row["low"], row["high"]) == ends
        assert row["low"] <= row["value"] <= row["high"]
    of_class = [multiclass.class_scores(run.test.labels, run.test.probabilities) for run in found.runs]
    for label, entry in enumerate(found.row["classes"].values()):
        for score, interval in entry["scores"].items():
            assert interval["value"] == pytest.approx(np.mean([one[label][score] for one in of_class]))
            assert 0 <= interval["low"] <= interval["value"] <= interval["high"] <= 1.2
    assert found.row["temperature"] is not None
    fitted = [multiclass.temperature(run.val.labels, run.val.probabilities) for run in found.runs]
    assert found.row["temperature"]["values"] == fitted


def test_permuted_test_labels_change_no_choice() -> None:
    def choices(found: dict) -> tuple:
        rows = sorted(found["configurations"], key=lambda row: row["name"])
        chosen = next(row["name"] for row in rows if row["id"] == found["choice"]["id"])
        return chosen, [row["temperature"]["values"] for row in rows]

    honest, permuted = candidates(), candidates()
    labels = np.random.default_rng(0).permutation(honest[0].test.labels)
    for run in permuted:
        run.test.labels = labels
    first, second = result.build(honest, draws=60), result.build(permuted, draws=60)
    assert choices(first) == choices(second)
    before, after = (found["configurations"][0]["scores"]["auroc"]["value"] for found in (first, second))
    assert after < before - 0.2


def test_every_score_can_rank_and_is_compared() -> None:
    for rank_by in CLASS_RANKED_BY:
        found = result.build(candidates(), draws=50, rank_by=rank_by)
        values = [row["scores"][rank_by]["value"] for row in found["configurations"]]
        assert values == sorted(values, reverse=True) and rank_by in found["pairs"][0]["verdicts"]
        assert tuple(found["pairs"][0]["scores"]) == CLASS_PAIRED
    with pytest.raises(UserError, match="rank_by=recall is not known"):
        result.build(candidates(), rank_by="recall")
    with pytest.raises(UserError, match="rank_by=kappa is not known"):
        result.build(candidates_of_two(), rank_by="kappa")


def test_equal_validation_scores_are_decided_by_log_loss() -> None:
    runs = [candidate(seed=n, config={"optim.lr": n}, run_id=str(n)) for n in range(3)]
    for run in runs:  # the order within an image stays, so every called class does too
        power = {0: 1.0, 1: 1.4, 2: 0.7}[run.seed]
        sharpened = runs[0].val.probabilities ** power
        run.val.probabilities = sharpened / sharpened.sum(axis=1, keepdims=True)
    found = result.build(runs, draws=60, rank_by="accuracy")
    choice = found["choice"]
    assert choice is not None and len(choice["tied"]) == 2
    held = [row["validation"]["scores"] for row in found["configurations"]]
    assert len({scores["accuracy"] for scores in held}) == 1
    assert choice["log_loss"] == min(scores["log_loss"] for scores in held)


def test_a_class_that_is_missing_is_named() -> None:
    runs = candidates()
    for run in runs:
        run.val.labels[run.val.labels == 2] = 1
    found = finished(runs, draws=60)
    assert found["choice"] is None and "No choice by validation." in words.headlines(found)
    for run in runs:
        run.test.labels[run.test.labels == 2] = 1
    with pytest.raises(UserError, match="no test image has the class VIRUS"):
        result.build(runs, draws=60)


def test_mistakes_are_the_surest_of_each_kind(comparison: Comparison) -> None:
    mistakes = comparison["mistakes"]
    kinds = [(mistake["label"], mistake["called"]) for mistake in mistakes]
    assert kinds == sorted(kinds) and all(truth != called for truth, called in kinds)
    assert max(kinds.count(kind) for kind in kinds) == MOST_OF_A_KIND
    assert all(mistake["probability"] > mistake["own_probability"] for mistake in mistakes)
    many = finished(candidates(tuple("ABCDEFGHIJ")), draws=60)["mistakes"]
    assert len(many) == MOST_OF_MANY


def test_the_page_has_what_fits_and_says_why_the_rest_is_missing(comparison: Comparison) -> None:
    content = sections.page(comparison, {})
    titles = [section.title for section in content.sections]
    assert {"By class", "Calibration", "Confusion matrices", "Mistakes", "Pairs", "Ensembles"} <= {*titles}
    assert not {"Thresholds", "Decision curve", "By subtype"} & {*titles}
    by_class = content.sections[titles.index("By class")]
    assert "Thresholds, predictive values, the decision curve and subtypes are left out" in by_class.text[0]
    areas, first = by_class.tables
    assert [row[0] for row in first.rows] == list(NAMES) and len(areas.rows) == 3
    assert first.columns[2:] == ["AUROC", "sensitivity", "specificity", "precision", "F1"]
    assert len(by_class.details) == 2
    assert content.ranking is not None and content.ranking.score == "macro AUROC"
    matrices = content.sections[titles.index("Confusion matrices")].matrices
    assert [group.title for group in matrices] == ["Test images", "Validation images"]
    assert [line.name for line in matrices[0].matrices[0].lines] == list(NAMES)
    reporting = {row[0]: row[2] for row in content.sections[-2].tables[0].rows}
    assert reporting["Performance by kind of disease, and other variability"].startswith("By class; open: ")


def test_the_words_are_those_of_macro_scores(comparison: Comparison) -> None:
    lead = words.lead(comparison)
    counts = comparison["test"]["classes"]
    assert f"{counts['NORMAL']} NORMAL, {counts['BACTERIA']} BACTERIA, {counts['VIRUS']} VIRUS" in lead
    assert "The primary score is macro AUROC" in lead
    assert "higher macro AUROC than resnet50" in words.answer(comparison)
    assert comparison["pairs"][0]["verdicts"]["f1"].startswith(("resnet18 has a higher macro F1", "No diff"))
    (few,) = (text for title, text in words.warnings(comparison) if title == "Few patients.")
    assert few.startswith("The smallest class, NORMAL, has 15 patients.")
    assert not re.search(r"pneumonia\b(?! predicted)", words.lead(comparison) + words.answer(comparison))


def test_files_and_terminal(comparison: Comparison, tmp_path: Path) -> None:
    written = page.write(tmp_path, comparison, {})
    text = (tmp_path / "index.html").read_text()
    assert "called BACTERIA" in text and "called pneumonia" not in text
    scores = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert {row["score"] for row in scores} == {*comparison["configurations"][0]["scores"]}
    pairs = list(csv.DictReader(io.StringIO((tmp_path / "pairs.csv").read_text())))
    assert {row["score"] for row in pairs} == {words.CLASS_SCORE_WORDS[score] for score in CLASS_PAIRED}
    assert "macro AUROC" in written.terminal and "weighted F1" in written.terminal
    saved = json.loads((tmp_path / "comparison.json").read_text())
    assert saved["class_names"] == list(NAMES) and saved["decision"] is None
    assert all((tmp_path / name).stat().st_size for name in written.files)


def test_hostile_class_names_do_not_become_html() -> None:
    names = ("<script>alert(1)</script>", "a" * 200, "$x_{1}$ & co")
    found = finished(candidates(names), draws=60)
    text = page.html(found, figures.render(found), {})
    assert "<script>alert" not in text and text.count("<script") == 1


@pytest.mark.parametrize("classes", [3, 15])
def test_every_figure_is_drawn(classes: int, comparison: Comparison) -> None:
    if classes == 15:
        comparison = finished(candidates(tuple(f"PATTERN_{n}" for n in range(15))), draws=60)
    drawn = figures.draw(comparison)
    wanted = ["forest", "differences", "roc", "precision_recall", "classes", "calibration"]
    wanted += [f"curves_{name}" for name in ("loss", "accuracy", "f1")] if classes == 3 else []
    assert list(drawn) == [*wanted, "confusion_test", "confusion_validation", "class_distribution"]
    by_class = drawn["classes"].axes[0]
    names = [tick.get_text() for tick in by_class.get_yticklabels()]
    first = comparison["configurations"][0]
    assert names == list(first["classes"])
    points = [entry["scores"]["auroc"]["value"] for entry in first["classes"].values()]
    assert by_class.lines[0].get_xdata().tolist() == points
    assert len(drawn["confusion_test"].axes[0].texts) == classes**2
    counts = first["confusion"][0]
    assert drawn["confusion_test"].axes[0].texts[0].get_text().startswith(str(counts[0][0]))
