"""Every number of a comparison recomputed without this project, for unusual inputs."""

import json
from pathlib import Path

import pytest
from recompute import recompute
from support.comparison_runs import candidate, cross_validation, finished

from pneumo.comparison import out_of_fold
from pneumo.comparison.candidates import Candidate, sort_out
from pneumo.evaluation.predictions import predictions_csv
from pneumo.files import write_atomically
from pneumo.text import finite

FEW = 20  # draws; the luck of the first needs 50


def numeric_patients(runs: list[Candidate]) -> None:
    for run in runs:
        for split in (run.test, run.val):
            split.patients[:] = [str(number // 2) for number in range(len(split.patients))]
            split.patients[3] = None


def spelled_twice(runs: list[Candidate]) -> None:
    for run in runs:
        for split in (run.test, run.val):
            split.patients[:] = [("0" * (n % 3)) + str(n // 4) for n in range(len(split.patients))]
            split.subgroups = {"Sex": ["F"] * len(split.paths), "label.1": ["60,5"] * len(split.paths)}


def shared_splits(runs: list[Candidate]) -> None:
    for run in runs:
        run.val.paths[:] = [f"{run.seed // 2}/{path}" for path in run.val.paths]


def unscored(runs: list[Candidate]) -> None:
    runs[0].test, runs[0].scored = runs[0].val, False


def not_utf_8(runs: list[Candidate]) -> None:
    for run in runs:
        run.test.paths[0] = run.val.paths[0] = b"\xff.jpeg".decode(errors="surrogateescape")


def three_virus_patients(runs: list[Candidate]) -> None:
    """All are found, and some draws have none of them."""
    for run in runs:
        few = [name for name in dict.fromkeys(run.test.patients) if name and "virus" in name][:3]
        for row, name in enumerate(run.test.patients):
            if name in few:
                run.test.probabilities[row] = 0.99
            elif name and "virus" in name:
                run.test.patients[row] = name.replace("virus", "bacteria")


def perfect(runs: list[Candidate]) -> None:
    """No slope, no mistake, nothing that varies."""
    for run in runs:
        for split in (run.test, run.val):
            split.probabilities = 0.1 + 0.8 * split.labels + 0.01 * run.seed


def one_patient(runs: list[Candidate]) -> None:
    for run in runs:
        run.test.patients[:] = [f"patient {label}" for label in run.test.labels]


@pytest.mark.parametrize(
    "change",
    [
        *(numeric_patients, spelled_twice, shared_splits, unscored, one_patient, not_utf_8),
        *(three_virus_patients, perfect),
    ],
)
def test_every_number_is_recomputed(change: object, tmp_path: Path) -> None:
    models = (("resnet18", 2.0, 4), ("resnet50", 1.5, 1))
    runs = [candidate(model, seed, quality) for model, quality, seeds in models for seed in range(seeds)]
    change(runs)  # type: ignore[operator]
    draws = 60 if change is numeric_patients else FEW
    kept, _ = sort_out(runs)
    assert len(kept) == len(runs)
    for run in kept:
        folder = tmp_path / "store" / run.run_id / "artifacts" / "predictions"
        for name, split in (("test", run.test), ("val", run.val)):
            write_atomically(folder / f"{name}.csv", predictions_csv(split))
    file = tmp_path / "comparison.json"
    file.write_text(json.dumps(finite(dict(finished(kept, draws=draws))), allow_nan=False))
    done = recompute(file, tmp_path / "store")
    assert done.count > 500 and done.largest < 1e-9, done.where


@pytest.mark.parametrize("scored", [(True, False), (True, True)])
def test_every_number_of_a_cross_validation_is_recomputed(scored: tuple[bool, bool], tmp_path: Path) -> None:
    runs = [
        *cross_validation(scored=scored[0]),
        *cross_validation(seed=1, scored=scored[0]),
        *cross_validation("resnet50", 1.0, scored=scored[1]),
    ]
    for run in runs:
        folder = tmp_path / "store" / run.run_id / "artifacts" / "predictions"
        for name, split in (("val", run.val), *((("test", run.test),) if run.scored else ())):
            write_atomically(folder / f"{name}.csv", predictions_csv(split))
    draws = FEW
    joined, _ = out_of_fold.pool(runs, lambda saved, folds: "")
    kept, _ = sort_out(joined)
    file = tmp_path / "comparison.json"
    file.write_text(json.dumps(finite(dict(finished(kept, draws=draws))), allow_nan=False))
    done = recompute(file, tmp_path / "store")
    assert done.count > 500 and done.largest < 1e-9, done.where
