"""From the command line to MLflow: every name of the public contract, with every option."""

import csv
import io
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.commands import environment, small_run
from support.warm import Train

from pneumo.evaluation import metrics

EPOCH_METRICS = (
    "train/loss train/accuracy train/f1 val/loss val/accuracy val/f1 val/precision val/recall val/auroc "
    "optim/lr time/epoch_s time/images_per_s"
).split()
FINAL_METRICS = (
    "best/epoch best/val_auroc best/val_accuracy test/accuracy test/precision test/recall test/specificity "
    "test/f1 test/auroc test/auprc test/brier test/ece"
).split()
FIGURES = (
    "class_distribution curves_loss curves_accuracy curves_f1 confusion_val confusion_test roc_test pr_test "
    "calibration_test"
).split()
ARTIFACTS = {
    "config.yaml",
    *(f"figures/{name}.png" for name in FIGURES),
    *(f"reports/classification_{split}.{end}" for split in ("val", "test") for end in ("txt", "json")),
    "predictions/val.csv",
    "predictions/test.csv",
    "checkpoints/best.safetensors",
    "checkpoints/best.json",
}
PARAMS = (
    "model.name model.dropout model.pretrained model.in_channels sampler.name augment.name optim.name "
    "optim.lr optim.weight_decay schedule.name trainer.epochs trainer.batch_size trainer.class_weights "
    "trainer.label_smoothing trainer.ema_decay data.name data.image_size data.val_protocol seed"
).split()
SMALL = small_run()
TINY = {"PNEUMO_TEST_TINY": "on"}  # where the architecture does not matter
FLOAT32 = "trainer.precision=float32"  # where figures are computed again and compared
MODELS, SAMPLERS, AUGMENTS = (
    ("resnet18", "resnet50", "densenet121"),
    ("shuffle", "imbalanced", "weighted"),
    ("none", "light", "strong"),
)


def train(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a training command with all its state in `folder`, and `more` in its environment."""
    line = [*arguments, f"output_dir={folder}/outputs"]
    with tempfile.TemporaryDirectory() as aside:
        out, errors = Path(aside) / "out", Path(aside) / "errors"
        code = Train(line, folder, out, environment(folder, **more), errors=errors).wait()
        return subprocess.CompletedProcess(line, code, out.read_text(), errors.read_text())


def client(folder: Path):  # type: ignore[no-untyped-def]
    from mlflow.tracking import MlflowClient

    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


def runs(folder: Path) -> list:
    """The trained runs, without the sweeps' parents."""
    tracker = client(folder)
    experiment = tracker.get_experiment_by_name("pneumo")
    found = tracker.search_runs([experiment.experiment_id])
    return [run for run in found if "pneumo.fingerprint" in run.data.tags]


def artifact_names(folder: Path, run_id: str, path: str = "") -> set[str]:
    found = set()
    for entry in client(folder).list_artifacts(run_id, path or None):
        found |= artifact_names(folder, run_id, entry.path) if entry.is_dir else {entry.path}
    return found


def read_artifact(folder: Path, run_id: str, name: str) -> bytes:
    return Path(client(folder).download_artifacts(run_id, name, str(folder))).read_bytes()


@pytest.fixture(scope="module")
def every_option(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """Each sampler, each model, and then each augmentation. The figures of the last are drawn."""
    folder = tmp_path_factory.mktemp("options")
    shutil.copy(empty_store, folder / "mlflow.db")  # the run of experiment=seed_report makes its own
    for axis, switches in (
        (f"sampler={','.join(SAMPLERS)}", {}),
        (f"model={','.join(MODELS[1:])}", {}),
        (f"augment={','.join(AUGMENTS[:-1])}", {"PNEUMO_TEST_BLANK": ""}),
    ):
        done = train(folder, "--multirun", axis, "keep_best=null", FLOAT32, *SMALL, **switches)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "test AUROC" in done.stdout  # the table of the sweep
    return folder


def test_every_option_finishes_with_every_name_of_the_contract(every_option: Path) -> None:
    found = runs(every_option)
    names = {tuple(run.data.params[f"{g}.name"] for g in ("model", "sampler", "augment")) for run in found}
    for place, options in enumerate((MODELS, SAMPLERS, AUGMENTS)):
        assert {name[place] for name in names} == {*options}
    parents = {run.data.tags["mlflow.parentRunId"] for run in found}
    assert {client(every_option).get_run(parent).info.status for parent in parents} == {"FINISHED"}
    for run in found:
        assert run.info.status == "FINISHED"
        check_contract(every_option, run)
    assert not list(every_option.glob("outputs/*/state"))  # of finished runs nothing is left to continue


def check_contract(folder: Path, run) -> None:  # type: ignore[no-untyped-def]
    tracker = client(folder)
    for name in EPOCH_METRICS:
        assert [point.step for point in tracker.get_metric_history(run.info.run_id, name)] == [1, 2], name
    for name in FINAL_METRICS:
        assert len(tracker.get_metric_history(run.info.run_id, name)) == 1, name
    assert set(PARAMS) <= set(run.data.params)
    assert 25 <= len(run.data.params) <= 50
    tags = run.data.tags
    assert tags["pneumo.protocol"] == "patient_val"
    assert len(tags["pneumo.fingerprint"]) == 16
    assert (folder / "outputs" / tags["pneumo.fingerprint"] / "journal.jsonl").is_file()
    assert artifact_names(folder, run.info.run_id) >= ARTIFACTS
    digests = {one.tags[0].value: one.dataset.digest for one in run.inputs.dataset_inputs}
    assert digests == {
        "training": tags["pneumo.data_digest"][:36],
        "validation": tags["pneumo.split"][:36],
        "testing": tags["pneumo.test_set"][:36],
    }


def test_figures_reports_and_predictions_agree(every_option: Path) -> None:
    run = runs(every_option)[0]  # the newest
    read = lambda name: read_artifact(every_option, run.info.run_id, name)  # noqa: E731
    rows = list(csv.DictReader(io.StringIO(read("predictions/test.csv").decode())))
    assert list(rows[0]) == ["path", "patient", "label", "probability", "prediction"]
    labels = np.array([int(row["label"]) for row in rows])
    probabilities = np.array([float(row["probability"]) for row in rows])
    for name, value in metrics.scores(labels, probabilities).items():
        assert run.data.metrics[f"test/{name}"] == pytest.approx(value, abs=1e-12), name
    report = json.loads(read("reports/classification_test.json"))
    assert report["scores"]["accuracy"] == run.data.metrics["test/accuracy"]
    for name in FIGURES:
        with Image.open(io.BytesIO(read(f"figures/{name}.png"))) as picture:
            assert min(picture.size) > 400
    assert "ynthetic" in read("reports/classification_test.txt").decode()


def test_checkpoint_alone_rebuilds_the_model_and_its_test_figures(every_option: Path) -> None:
    """From best.safetensors and best.json, by the library's public names."""
    import torch
    from safetensors.torch import load_file

    from pneumo.data import images, phantom
    from pneumo.data.augment import normalise
    from pneumo.data.settings import PhantomSettings
    from pneumo.models import build_model

    run = next(run for run in runs(every_option) if run.data.params["model.name"] == "densenet121")
    folder = every_option / "outputs" / run.data.tags["pneumo.fingerprint"] / "artifacts"
    facts = json.loads((folder / "checkpoints/best.json").read_text())
    model = build_model(**facts["model"])
    model.load_state_dict(load_file(folder / "checkpoints/best.safetensors"))
    model.eval()
    settings = PhantomSettings(train_patients=40, test_patients=16)
    for row in list(csv.DictReader((folder / "predictions/test.csv").open()))[:4]:
        grey = images.preprocess(phantom.render(row["path"], settings), **facts["preprocess"])
        with torch.inference_mode():
            logits = model(normalise(torch.from_numpy(grey.copy())[None], facts["model"]["in_channels"]))
        assert logits.softmax(1)[0, 1].item() == pytest.approx(float(row["probability"]), abs=1e-4)


def test_the_same_command_again_is_skipped(every_option: Path) -> None:
    before = {run.info.run_id for run in runs(every_option)}
    done = train(every_option, "augment=none", FLOAT32, *SMALL)
    assert done.returncode == 0, done.stderr
    assert "done already" in done.stdout
    assert {run.info.run_id for run in runs(every_option)} == before


def test_seed_report_sees_the_test_set_every_epoch_and_says_so(tmp_path: Path) -> None:
    done = train(tmp_path, "experiment=seed_report", *SMALL, **TINY)
    assert done.returncode == 0, done.stderr
    assert "optimistic" in done.stdout
    (run,) = runs(tmp_path)
    assert run.data.tags["pneumo.protocol"] == "test_selected"
    points = client(tmp_path).get_metric_history(run.info.run_id, "test/accuracy")
    history = {point.step: point.value for point in points}
    assert sorted(history) == [1, 2, 3]  # two epochs, then the chosen one
    assert history[3] == max(history[1], history[2]) == run.data.metrics["test/accuracy"]
    assert (
        "optimistic" in read_artifact(tmp_path, run.info.run_id, "reports/classification_test.txt").decode()
    )


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("asked", ["bf16", "auto"])
def test_a_run_in_bf16_or_in_what_the_processor_has(tmp_path: Path, asked: str) -> None:
    from pneumo.models.precision import cpu_has_bf16

    short = small_run(epochs=1, limit_batches=1, batch_size=8)
    done = train(tmp_path, f"trainer.precision={asked}", "trainer.device=cpu", *short)
    assert done.returncode == 0, done.stderr
    (run,) = runs(tmp_path)
    used = "bf16" if asked == "bf16" or cpu_has_bf16() else "float32"
    assert run.data.params["precision"] == used and f", cpu, {used}; ready" in done.stdout
    facts = json.loads(read_artifact(tmp_path, run.info.run_id, "checkpoints/best.json"))
    assert facts["precision"] == used
    assert all(np.isfinite(run.data.metrics[name]) for name in (*EPOCH_METRICS, *FINAL_METRICS))


@pytest.mark.usefixtures("store")
def test_a_failing_job_does_not_stop_the_sweep(tmp_path: Path) -> None:
    done = train(tmp_path, "--multirun", "optim.lr=1e30,1e-3", *SMALL, **TINY)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "not finite" in done.stderr and "learning rate" in done.stderr
    states = {run.data.params["optim.lr"]: run.info.status for run in runs(tmp_path)}
    assert states == {"1e+30": "FAILED", "0.001": "FINISHED"}
    failed = next(run for run in runs(tmp_path) if run.info.status == "FAILED")
    assert "not finite" in failed.data.tags["pneumo.status_reason"]


@pytest.mark.usefixtures("store")
def test_a_sweep_file_runs_and_the_command_line_wins(tmp_path: Path) -> None:
    done = train(tmp_path, "sweep=dropout_lr", "model.dropout=0.2", "optim.lr=1e-3,2e-3", *SMALL, **TINY)
    assert done.returncode == 0, done.stdout + done.stderr
    params = [run.data.params for run in runs(tmp_path)]
    assert sorted((p["model.dropout"], p["optim.lr"]) for p in params) == [("0.2", "0.001"), ("0.2", "0.002")]


def test_training_needs_no_tracker(tmp_path: Path) -> None:
    done = train(tmp_path, "tracking.enabled=false", *SMALL, **TINY)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "mlflow.db").exists()
    journals: Mapping[str, object] = {str(file): file for file in tmp_path.glob("outputs/*/journal.jsonl")}
    assert len(journals) == 1
