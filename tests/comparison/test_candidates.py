"""Which runs are compared, and what is known about their images."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.comparison_runs import SIZES, candidate, candidates, finished, make, split
from support.images import make_kaggle, picture, save

from pneumo.comparison import figures, page, result, words
from pneumo.comparison.candidates import image_root, read, sort_out, split_sizes, unscored
from pneumo.evaluation.predictions import SplitResult
from pneumo.tracking.reading import Found, Reader, TrackedRun


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    root = tmp_path_factory.mktemp("candidates")
    uri = f"sqlite:///{root}/mlflow.db"
    make(root / "outputs", uri, "resnet18", 1, data_root="/images")
    return Reader(uri)


@pytest.fixture
def tracked(reader: Reader) -> TrackedRun:
    (run,) = reader.find("pneumo").runs
    return run


def only(run: TrackedRun, reader: Reader) -> tuple[list, list]:
    return read(Found(runs=[run], unfinished=[], parent=None), reader)


def test_a_tracked_run_becomes_a_candidate(tracked: TrackedRun, reader: Reader) -> None:
    (run,), left = only(tracked, reader)
    assert not left
    assert (run.seed, run.protocol, run.epoch, run.device) == (1, "patient_val", 4, "cpu")
    assert run.config["model.name"] == "resnet18" and "seed" not in run.config
    assert run.data_root == "/images" and run.weights_bytes == 4096 and not run.synthetic
    assert run.measured == {"time/images_per_s": 91, "time/epoch_s": 50, "memory/peak_mib": 2001}
    assert run.test.probabilities.tolist() == split("test", 1, 1.3).probabilities.tolist()
    assert [row["epoch"] for row in run.history] == [1, 2, 3, 4]


def test_the_history_comes_from_mlflow_where_the_run_has_none(tracked: TrackedRun, reader: Reader) -> None:
    del tracked.files["checkpoints/best.json"]
    (run,), _ = only(tracked, reader)
    assert [row["epoch"] for row in run.history] == [1, 2, 3, 4] and not run.images
    assert run.history[1]["val/auroc"] == pytest.approx(0.92)


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("config.yaml", "a: [", "cannot be read: config.yaml is damaged: while parsing"),
        ("config.yaml", "3", "cannot be read: config.yaml does not contain a configuration"),
        ("predictions/val.csv", "path,patient,label,probability\na,,0,7\n", "not in \\[0, 1\\]"),
        (
            "predictions/test.csv",
            "path,patient,label,probability,prediction\na,,0,0.2,0\nb,,",
            "cannot be read: not a table of predictions .*: line 3: it does not have the 5 cells",
        ),
        ("config.yaml", "a: \udcff", "cannot be read: config.yaml is damaged"),
        ("predictions/test.csv", None, "incomplete: predictions/test.csv missing .*pneumo.runs sync"),
    ],
)
def test_damaged_artifacts_leave_a_run_out(
    tracked: TrackedRun, reader: Reader, file: str, content: str | None, reason: str
) -> None:
    tracked.files.pop(file)
    if content is not None:
        tracked.files[file] = content
    kept, (left,) = only(tracked, reader)
    assert not kept and left["run"] == tracked.name
    assert re.search(reason, left["reason"])


def test_notes_name_smoke_runs_and_uncommitted_code(tracked: TrackedRun, reader: Reader) -> None:
    tracked.tags["pneumo.git_dirty"] = "true"
    tracked.files["config.yaml"] = tracked.files["config.yaml"].replace(
        "limit_batches: null", "limit_batches: 2"
    )
    (run,), _ = only(tracked, reader)
    assert "smoke runs" in run.notes[0] and "uncommitted changes" in run.notes[1]
    tracked.tags["pneumo.mixed"] = "the code (pneumo/run.py)"
    (run,), _ = only(tracked, reader)
    assert "Some runs were continued after a change: the code (pneumo/run.py)." in run.notes


def test_the_precision_is_the_one_that_was_computed_with(tracked: TrackedRun, reader: Reader) -> None:
    """trainer.precision=auto becomes bf16 or float32, which only the recorded param tells."""
    runs = []
    for seed, precision in ((0, "bf16"), (1, "float32")):
        tracked.run_id, tracked.params["precision"] = str(seed), precision
        tracked.files["config.yaml"] = tracked.files["config.yaml"].replace("seed: 1", f"seed: {seed}")
        (run,), _ = only(tracked, reader)
        assert run.saved["trainer"]["precision"] == "auto"
        runs.append(run)
    (row,) = finished(runs)["configurations"]
    assert [entry["precision"] for entry in row["runs"]] == ["bf16", "float32"]
    assert dict(words.warnings(finished(runs)))["Mixed runs."].endswith(
        "different precisions (bf16, float32)."
    )


def test_file_names_need_not_be_utf_8(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Two runs with an image b'\xff.jpeg' are read from a store, compared and shown."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for seed in (0, 1):
        make(tmp_path / "outputs", uri, seed=seed)
    reader = Reader(uri)
    for file in tmp_path.rglob("mlartifacts/**/predictions/test.csv"):
        file.write_bytes(file.read_bytes().replace(b"test/NORMAL/IM-0000-0000", b"test/NORMAL/\xff"))
    runs, left = read(reader.find("pneumo"), reader)
    assert not left and len(runs) == 2
    assert "test/NORMAL/\udcff.jpeg" in runs[0].test.paths
    for run in runs:
        run.test.probabilities[0] = 1.0  # so that it is among the mistakes
    kept, left = sort_out(runs)
    assert not left
    assert image_root(kept, str(tmp_path)) is None
    assert "test/NORMAL/\\udcff.jpeg" in capsys.readouterr().out
    comparison = finished(kept)
    assert comparison["mistakes"][0]["path"] == "test/NORMAL/\udcff.jpeg"
    page.write(tmp_path / "page", comparison, {})
    assert "test/NORMAL/\\udcff.jpeg" in (tmp_path / "page" / "index.html").read_text("utf-8")


def test_the_same_run_made_twice_counts_once() -> None:
    runs = candidates()
    for number, run in enumerate(runs):
        run.fingerprint, run.started_ms = f"f{min(number, 2)}", number
    kept, left = sort_out(runs)
    assert [run.name for run in kept] == ["resnet18-0", "resnet18-1", "resnet50-1"]
    assert left == [{"run": "resnet50-0", "reason": "the same run was made again later"}]


def test_other_images_and_other_data_sets_are_left_out() -> None:
    runs = candidates()
    runs[1].digest, runs[1].test.labels = "e" * 64, 1 - runs[1].test.labels
    runs[2].test.paths[0] = "another.jpeg"
    kept, left = sort_out(runs)
    assert [run.name for run in kept] == ["resnet18-0", "resnet50-1"]
    assert [entry["run"] for entry in left] == ["resnet18-1", "resnet50-0"]
    assert left[0]["reason"].startswith("another test set (data digest eeeeeeeeeeee)")
    assert "test predictions are of other images" in left[1]["reason"]


def test_of_two_data_sets_as_common_the_larger_wins() -> None:
    small, large = candidates()[:2]
    small.digest, small.started_ms = "e" * 64, 99
    small.test = SplitResult(
        paths=["a", "b"], patients=[None, None], labels=np.array([0, 1]), probabilities=np.array([0.1, 0.9])
    )
    kept, _ = sort_out([small, large])
    assert kept == [large]


def test_the_images_are_found_where_the_runs_found_them(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = candidate(data_root=str(tmp_path))
    assert image_root([run], None) is None
    save(picture(0, 0), tmp_path / "chest_xray" / run.test.paths[0])
    assert image_root([run], None) == tmp_path / "chest_xray"
    assert image_root([run], str(tmp_path / "nothing")) == tmp_path / "chest_xray"
    assert not capsys.readouterr().out
    shutil.rmtree(tmp_path / "chest_xray")
    assert image_root([run], str(tmp_path)) is None
    assert f"data.root={tmp_path} does not contain the test images" in capsys.readouterr().out


def test_the_splits_are_what_a_run_recorded() -> None:
    images = {name: {"NORMAL": s["normal"], "PNEUMONIA": s["pneumonia"]} for name, s in SIZES.items()}
    patients = {name: size["patients"] for name, size in SIZES.items()}
    assert split_sizes([candidate(), candidate(images=images, patients=patients)], None) == SIZES
    assert split_sizes([candidate()], None) is None


def test_the_splits_are_counted_where_no_run_recorded_them(tmp_path: Path) -> None:
    root = make_kaggle(tmp_path / "chest_xray")
    paths = sorted(str(path.relative_to(root)) for path in root.glob("test/*/*"))
    run = candidate()
    run.test.paths[:] = (paths + ["-"] * 999)[: len(run.test.paths)]
    run.val.paths[:] = ["-"] * len(run.val.paths)
    sizes = split_sizes([run], root)
    assert sizes == {
        "train": {"images": 44, "normal": 22, "pneumonia": 22, "patients": 22},  # val's folder joins it
        "val": {"images": 0, "normal": 0, "pneumonia": 0, "patients": None},
        "test": {"images": 16, "normal": 8, "pneumonia": 8, "patients": 8},
    }


def test_a_run_whose_protocol_is_not_known_is_left_out(tracked: TrackedRun, reader: Reader) -> None:
    del tracked.tags["pneumo.protocol"]
    kept, (left,) = only(tracked, reader)
    assert not kept and "nobody knows which images chose its epoch" in left["reason"]


def test_split_seeds_are_pooled_as_chance() -> None:
    """Another split has other validation images and another data digest, but the same test set."""
    runs = []
    for split_seed in range(3):
        run = candidate(seed=split_seed, run_id=str(split_seed), digest=str(split_seed) * 64)
        run.config = {"model.name": "resnet18", "data.split_seed": split_seed}
        run.val.paths[:] = [f"{split_seed}/{path}" for path in run.val.paths]
        runs.append(run)
    kept, left = sort_out(runs)
    assert not left and len(kept) == 3
    found = result.build(kept, draws=50)
    (row,) = found["configurations"]
    assert len(row["runs"]) == 3 and "data.split_seed" not in found["differences"]["keys"]
    assert len({run.split for run in kept}) == 3


def test_runs_that_trained_on_other_images_are_another_configuration() -> None:
    runs = [candidate(seed=seed, run_id=f"{seed}{pool}", pool=pool) for pool in "ab" for seed in range(2)]
    assert len(result.build(runs, draws=50)["configurations"]) == 2
    older = [candidate(seed=seed, run_id=f"{seed}{d}", digest=d * 64) for d in "ab" for seed in range(2)]
    found = result.build(older, draws=50)
    assert len(found["configurations"]) == 2 and found["differences"]["keys"] == ["data.digest"]


def test_the_test_set_is_what_runs_recorded_else_their_images() -> None:
    new = [candidate(seed=n, run_id=f"new{n}", test_set="t") for n in range(2)]
    old = candidate("resnet50", run_id="old", digest="e" * 64)
    kept, left = sort_out([*new, old])
    assert len(kept) == 3 and not left  # the old run has the same test images and labels
    other = candidate("resnet50", run_id="other", test_set="u")  # the same names, other contents
    kept, (left_out,) = sort_out([*new, other])
    assert len(kept) == 2 and left_out["reason"].startswith("another test set")


def test_one_unscored_run_takes_the_whole_comparison_to_validation() -> None:
    runs = [candidate(seed=0), candidate("resnet50", seed=1)]
    runs[1].test, runs[1].scored = runs[1].val, False
    for run in runs:
        run.test_set = "t"
    kept, left = sort_out(runs)
    assert not left and all(run.test is run.val for run in kept)
    (unscored_run,) = unscored(kept)
    assert unscored_run == {"run": "resnet50-1", "command": "pneumo evaluate model=resnet501 split=test"}
    found = finished(kept)
    assert found["scored_on"] == "val" and found["choice"] is None
    for row in found["configurations"]:
        assert list(row["points"]) == ["half"] and row["temperature"] is None
    found["unscored"] = unscored(kept)
    assert "validation images" in words.lead(found) and "test" not in words.lead(found)
    (warning,) = [text for title, text in words.warnings(found) if title == "Validation images."]
    assert "pneumo evaluate model=resnet501 split=test" in warning
    html = page.html(found, figures.render(found), {})
    assert "Validation images, main scores" in html and "Test images, main scores" not in html


def test_a_run_without_test_predictions_is_unscored_only_if_it_was_told_so(
    tracked: TrackedRun, reader: Reader
) -> None:
    del tracked.files["predictions/test.csv"]
    kept, (left,) = only(tracked, reader)
    assert not kept and "incomplete" in left["reason"]
    config = tracked.files["config.yaml"]
    assert "score_test: true" in config
    tracked.files["config.yaml"] = config.replace("score_test: true", "score_test: false")
    (run,), left_out = only(tracked, reader)
    assert not left_out and not run.scored and run.test is run.val
