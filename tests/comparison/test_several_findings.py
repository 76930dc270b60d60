"""Comparisons of runs that look for several findings: every number recomputed, what is left out, the page."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from recompute import recompute
from sklearn.metrics import roc_auc_score
from support.class_runs import finished
from support.finding_runs import NAMES, candidate, split

from pneumo import UserError
from pneumo.comparison import out_of_fold, page, result, sections, words
from pneumo.comparison.candidates import Candidate, sort_out
from pneumo.comparison.content import Comparison
from pneumo.comparison.mistakes import MOST_OF_A_KIND
from pneumo.evaluation.predictions import predictions_csv
from pneumo.files import write_atomically
from pneumo.text import finite


def runs_of_two() -> list[Candidate]:
    models = (("resnet18", 2.0, 2), ("resnet50", 1.5, 1))
    return [candidate(model, seed, quality) for model, quality, seeds in models for seed in range(seeds)]


def compared(runs: list[Candidate], **keys: object) -> Comparison:
    return finished(runs, data="nih14", **keys)


def plain(runs: list[Candidate]) -> None:
    """As the runs are."""


def unknown_patients(runs: list[Candidate]) -> None:
    for run in runs:
        for part in (run.test, run.val):
            part.patients[3] = part.patients[10] = None


def unscored(runs: list[Candidate]) -> None:
    runs[0].test, runs[0].scored = runs[0].val, False


def rare_in_validation(runs: list[Candidate]) -> None:
    """Four validation patients have a nodule."""
    for run in runs:
        few = {f"patient {number}" for number in range(4)}
        run.val.labels[:, 3] = [int(patient in few) for patient in run.val.patients]


def perfect(runs: list[Candidate]) -> None:
    """No slope, no mistake, nothing that varies."""
    for run in runs:
        for part in (run.test, run.val):
            part.probabilities = 0.1 + 0.8 * (part.labels == 1)


@pytest.mark.parametrize("change", [plain, unknown_patients, unscored, rare_in_validation, perfect])
def test_every_number_is_recomputed(change: Callable[[list[Candidate]], None], tmp_path: Path) -> None:
    runs = runs_of_two()
    change(runs)
    for run in runs:
        folder = tmp_path / "store" / run.run_id / "artifacts" / "predictions"
        for name, part in (("val", run.val), *((("test", run.test),) if run.scored else ())):
            write_atomically(folder / f"{name}.csv", predictions_csv(part))
    kept, _ = sort_out(runs)
    assert len(kept) == len(runs)
    file = tmp_path / "comparison.json"
    file.write_text(json.dumps(finite(dict(compared(kept, draws=60))), allow_nan=False))
    done = recompute(file, tmp_path / "store")
    assert done.count > 500 and done.largest < 1e-9, done.where


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return compared([candidate(model, seed, q) for model, q in (("a", 2.0), ("b", 1.0)) for seed in range(3)])


def test_a_finding_of_few_patients_is_named_and_left_out(comparison: Comparison) -> None:
    assert comparison["class_names"] == ["Edema", "Mass, large", "Nodule"]
    assert comparison["findings"] == {"fewest": 5, "left_out": {"Hernia": 3}}
    said = [text for title, text in words.warnings(comparison) if title == "1 finding left out."]
    assert len(said) == 1 and "Hernia" in said[0] and "without them" in said[0]
    assert all(list(row["classes"]) == comparison["class_names"] for row in comparison["configurations"])


def test_the_means_are_those_of_scikit_learn(comparison: Comparison) -> None:
    test = candidate("a", 1, 2.0).test
    each = []
    for k in (0, 1, 3):
        known = test.labels[:, k] != -1
        each.append(roc_auc_score(test.labels[known, k], test.probabilities[known, k]))
    assert comparison["configurations"][0]["scores"]["auroc"]["per_run"][1] == pytest.approx(np.mean(each))


def test_the_better_model_is_shown_to_be_better(comparison: Comparison) -> None:
    (pair,) = comparison["pairs"]
    assert words.claimed(pair["scores"]["auroc"]) and "delong" not in pair
    assert words.answer(comparison).startswith("Best by validation: a, test mean AUROC ")
    assert "has a higher mean AUROC than b" in pair["verdicts"]["auroc"]


def test_the_page_has_what_fits(comparison: Comparison, tmp_path: Path) -> None:
    content = sections.page(comparison, {})
    titles = [section.title for section in content.sections]
    assert {"By finding", "Calibration", "Confusion matrices", "Mistakes", "Pairs", "Ensembles"} <= {*titles}
    assert not {"By class", "Thresholds", "Decision curve", "Classification reports"} & {*titles}
    written = page.write(tmp_path, comparison, {})
    html = (tmp_path / "index.html").read_text()
    assert "macro" not in html and "against the rest" not in html and "One point of" not in html
    assert "mean AUROC" in written.terminal and (tmp_path / "figures" / "classes.png").is_file()
    calls = next(section for section in content.sections if section.title == "Confusion matrices")
    table = calls.details[0].tables[0]
    known = (candidate("a", 0, 2.0).test.labels[:, 0] != -1).sum()
    assert sum(int(cell) for cell in table.rows[0][1:5]) == known


def test_mistakes_are_the_surest_of_each_finding(comparison: Comparison) -> None:
    kinds = [(mistake["finding"], mistake["label"]) for mistake in comparison["mistakes"]]
    assert len(kinds) == 12 and max(kinds.count(kind) for kind in kinds) == MOST_OF_A_KIND
    for mistake in comparison["mistakes"]:
        assert (mistake["probability"] >= 0.5) != mistake["label"]


def test_runs_without_a_testable_finding_are_refused() -> None:
    runs = runs_of_two()
    for run in runs:
        run.test.labels[:, [0, 1, 3]] = 0
    with pytest.raises(UserError, match="no finding can be compared: of each, fewer than 5 test patients"):
        result.build(runs, draws=60)


def test_a_score_of_classes_cannot_rank_findings() -> None:
    with pytest.raises(UserError, match="rank_by=kappa"):
        result.build(runs_of_two(), rank_by="kappa", draws=60)


def test_a_cross_validation_is_pooled() -> None:
    parts = []
    for fold in range(5):
        val = split("val", 0, 2.0)
        rows = [n for n, patient in enumerate(val.patients) if int(str(patient).split()[1]) % 5 == fold]
        val.paths, val.patients = [val.paths[n] for n in rows], [val.patients[n] for n in rows]
        val.labels, val.probabilities = val.labels[rows], val.probabilities[rows]
        name = f"fold={fold}"
        fields: dict = {
            "config": {"model.name": "resnet18", "data.val_protocol": "fold", "data.fold": fold},
            "saved": {"data": {"fold": fold}},
            "pool": "p",
            "test_set": "t",
            "scored": False,
        }
        parts.append(candidate(run_id=name, name=name, fingerprint=name, val=val, test=val, **fields))
    joined, left = out_of_fold.pool(parts, lambda saved, folds: "")
    found = compared(sort_out(joined)[0], draws=60)
    assert not left and found["cross_validation"] is not None
    (row,) = found["cross_validation"]["rows"]
    assert 0.7 < row["score"]["low"] < row["score"]["value"] < row["score"]["high"] <= 1
    heats = row["networks"][0]["temperature"]
    assert isinstance(heats, list) and len(heats) == len(found["class_names"]) < len(NAMES)
    assert "Cross-validation" in [section.title for section in sections.page(found, {}).sections]
