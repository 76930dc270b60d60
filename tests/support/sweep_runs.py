"""Sweeps of tiny runs: their command line, what MLflow and the disk hold of them, runs without training."""

from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from pneumo.names import BEST_WEIGHTS, FINGERPRINT_TAG, OVERRIDES_TAG, PARENT_TAG, SWEEP_TAG, TEST_PREDICTIONS
from pneumo.sweep.parent import Sweep
from pneumo.tracking.journal import Journal, artifact_file
from support.commands import small_run

SWEEP = small_run(train_patients=24, test_patients=12, batch_size=8, more=["schedule=constant"])
# Holds a run's journal until the file argv[2] appears. Then it ends the run, or dies without ending it.
HOLDER = """
import os, signal, sys, time
from pathlib import Path
from pneumo.tracking.journal import Journal
journal = Journal(Path(sys.argv[1]))
assert journal.hold()
journal.resume()
print("held", flush=True)
while not Path(sys.argv[2]).exists():
    time.sleep(0.05)
if sys.argv[3] == "ends":
    journal.end("FINISHED")
os.kill(os.getpid(), signal.SIGKILL)
"""


def runs(folder: Path) -> list[Any]:
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("pneumo")
    return list(client.search_runs([experiment.experiment_id]))


def family(folder: Path) -> tuple[Any, list[Any]]:
    """The only parent run, and its children."""
    parents = [run for run in runs(folder) if OVERRIDES_TAG in run.data.tags]
    assert len(parents) == 1
    (parent,) = parents
    return parent, [run for run in runs(folder) if run.data.tags.get(PARENT_TAG) == parent.info.run_id]


def weights(folder: Path) -> set[str]:
    return {file.parents[2].name for file in folder.glob(f"outputs/*/artifacts/{BEST_WEIGHTS}")}


def epochs_trained(folder: Path) -> int:
    return sum(
        len(Journal(file.parent).history("val/loss")) for file in folder.glob("outputs/*/journal.jsonl")
    )


def finished(output_dir: Path, name: str, score: float, sweep_id: str = "s", scored: bool = True) -> Path:
    """A finished run with weights, from its journal alone; without `scored` it has no test predictions."""
    journal = Journal(output_dir / name)
    journal.start(name, "pneumo", {FINGERPRINT_TAG: name, SWEEP_TAG: sweep_id})
    journal.params({"trainer.monitor": "val/auroc"})
    journal.metrics({"val/auroc": score}, 1)
    journal.metrics({"best/epoch": 1.0, "best/val_auroc": score}, 1)
    for artifact in (BEST_WEIGHTS, *([TEST_PREDICTIONS] if scored else [])):
        file = artifact_file(journal.folder, artifact)
        file.parent.mkdir(parents=True)
        file.write_bytes(name.encode())
        journal.artifact(artifact)
    journal.end("FINISHED")
    journal.close()
    return journal.folder


def parent(output_dir: Path, names: list[str]) -> Path:
    """The folder of the sweep `s` whose jobs made the runs `names`."""
    whole = Sweep(
        id="s", root=str(output_dir), experiment="pneumo", overrides=["seed=0,1"], planned={}, question="why?"
    )
    whole.begin(trains=True)
    for number, name in enumerate(names):
        whole.job([f"seed={number}"], number).update(fingerprint=name, state="FINISHED")
    return whole.folder
