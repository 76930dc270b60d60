"""Which weights a sweep keeps: those of its best runs. Metrics, figures and reports of every run stay."""

import contextlib
from pathlib import Path

from pneumo import UserError
from pneumo.files import LOCK_WAIT_S, locked
from pneumo.names import BEST_WEIGHTS, SWEEP_TAG, TEST_PREDICTIONS
from pneumo.sweep import jobs
from pneumo.tracking import sender
from pneumo.tracking.courier import Courier
from pneumo.tracking.journal import Journal, artifact_file
from pneumo.tracking.mlflow_client import describe
from pneumo.tracking.settings import TrackingSettings


def keep_best(folder: Path, keep: int | None, tracking: TrackingSettings) -> list[str]:
    """Delete the weights of all but the `keep` best finished runs of the sweep in `folder`.

    Weights go only from runs that this sweep made, that no process works on, and that no registered model
    comes from. Where the tracker does not answer, they stay until the next time. All weights stay while a
    finished run is not scored on its test set. Returns messages to print.
    """
    if keep is None:
        return []
    with locked(folder / "retention.lock", LOCK_WAIT_S):
        # By number, so that of equal runs the one stays that the parent names as the best.
        records = sorted(jobs.records(folder), key=lambda job: (job["number"], job["key"]))
        runs = dict.fromkeys(folder.parents[1] / str(job["fingerprint"]) for job in records)
        journals = []
        for run in (run for run in runs if artifact_file(run, BEST_WEIGHTS).exists()):
            with contextlib.suppress(UserError):  # damaged: the command that trains or sends it says so
                journals.append(Journal(run))
        finished = [journal for journal in journals if journal.status == "FINISHED"]
        if any(TEST_PREDICTIONS not in journal.artifacts for journal in finished):
            return []  # trainer.score_test=false: whatever is chosen later needs its weights
        finished.sort(key=jobs.rank_of, reverse=True)
        own = [journal for journal in finished[keep:] if journal.tags_logged.get(SWEEP_TAG) == folder.name]
        return [message for journal in own if (message := _drop_weights(journal, tracking))]


def _drop_weights(journal: Journal, tracking: TrackingSettings) -> str | None:
    """Delete a run's weights, here and in the tracker; why they stay, where they do and it matters."""
    run, uri = journal.folder, tracking.uri or ""
    if not tracking.enabled:
        if list(run.glob("sent-*.json")):
            return (
                f"{run.name} keeps its weights: tracking.enabled=false, so no registry can be asked about it"
            )
    else:
        try:
            courier = Courier(run, uri)
            if courier.left():
                return f"{run.name} keeps its weights until it is sent whole to the tracking server"
            if courier.registered():
                return None
        except Exception as error:
            return f"{run.name} keeps its weights: no answer about registered models ({describe(error, uri)})"
    if not journal.hold():
        return None
    try:
        journal.drop(BEST_WEIGHTS)
    except UserError as error:
        return f"{run.name} keeps its weights: {error}"
    finally:
        journal.close()
    if tracking.enabled:
        result = sender.sync(run, tracking, uri)
        if result.error or result.refused:
            return (
                f"{run.name}: its weights stay in the tracking server ({result.error or 'see refused.jsonl'})"
            )
    return None
