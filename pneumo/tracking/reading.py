"""Reads finished runs back from MLflow, and uploads a comparison's files to a sweep's parent run."""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from pneumo import UserError
from pneumo.files import local_folder
from pneumo.names import (
    BEST_FACTS,
    BEST_WEIGHTS,
    CONFIG,
    FINGERPRINT_TAG,
    HEARTBEAT_TAG,
    REASON_TAG,
    SWEEP_TABLE,
    SWEEP_TAG,
    TEST_PREDICTIONS,
    VAL_PREDICTIONS,
)
from pneumo.tracking import heartbeat
from pneumo.tracking.journal import redact
from pneumo.tracking.mlflow_client import artifact_repository, describe, file_sizes, open_client, sqlite_file

# What a comparison needs of a run, and what it uses where it is there.
FILES = (TEST_PREDICTIONS, VAL_PREDICTIONS, CONFIG, BEST_FACTS)
PAGE = 1000  # runs or experiments that a server gives at once
COSTS = ("time/", "memory/")  # metrics of which a comparison needs every epoch; a query each
FETCHERS = 8  # artifacts at once: a server on another machine answers each in tens of milliseconds


@dataclass(kw_only=True)
class TrackedRun:
    """A run as MLflow holds it: params, tags, last metrics, and the text of the files named in FILES."""

    run_id: str
    name: str
    status: str
    started_ms: int
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]
    measured: dict[str, float] = field(default_factory=dict)  # time/... (median), memory/... (peak)
    artifact_uri: str = ""
    files: dict[str, str] = field(default_factory=dict)
    weights_bytes: int | None = None
    trouble: str = ""  # why files could not be fetched, where the tracker refused

    @property
    def facts(self) -> dict[str, Any]:
        """The content of checkpoints/best.json; empty where it is missing or damaged."""
        try:
            found = json.loads(self.files.get(BEST_FACTS, ""))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


@dataclass(kw_only=True)
class Found:
    """The runs of an experiment or of one sweep, the unfinished among them, and the sweep's parent run.

    `experiment_id` is MLflow's, which its pages need.

    `missing` are jobs in the sweep's table, as overrides, whose run is not in the experiment.
    """

    runs: list[TrackedRun]
    unfinished: list[TrackedRun]
    parent: TrackedRun | None
    experiment_id: str = ""
    missing: list[str] = field(default_factory=list)


class Reader:
    """One tracking server, for reading; UserError where it or an experiment is missing or does not answer."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        database = sqlite_file(uri)
        if database is not None and not database.is_file():
            raise UserError(
                f"tracking.uri={redact(uri)}: {database} does not exist. Train first, or name the store of "
                "the runs with tracking.uri=URI or MLFLOW_TRACKING_URI."
            )
        self._client = self._ask(lambda: open_client(uri))

    def find(self, experiment: str, sweep: str | None = None) -> Found:
        """The runs of `experiment` (of `sweep` only, where given), the oldest first, with their files."""
        found = self.listed(experiment, sweep)
        finished = found.runs
        local = all(local_folder(run.artifact_uri) for run in finished)
        with ThreadPoolExecutor(1 if local else FETCHERS) as pool:
            list(pool.map(self._fetch, finished))
            list(pool.map(self._measure, finished))
        return found

    def listed(self, experiment: str, sweep: str | None = None) -> Found:
        """As `find`, without the runs' files."""
        experiment_id = self._id_of(experiment, f"tracking.experiment={experiment}")
        every = [tracked(run) for run in self._search(experiment_id)]
        # A training run carries its fingerprint; what belongs to a sweep without one is the sweep itself.
        parents = [run for run in every if SWEEP_TAG in run.tags and FINGERPRINT_TAG not in run.tags]
        runs = [run for run in every if run not in parents]
        missing: list[str] = []
        sweeps = {run.tags[SWEEP_TAG] for run in every if SWEEP_TAG in run.tags}
        if sweep is not None:
            if sweep not in sweeps:
                names = ", ".join(sorted(sweeps)) or "no sweep"
                raise UserError(f"sweep_id={sweep} is not in experiment {experiment}, which holds {names}.")
            table = self._sweep_table([run for run in parents if run.tags.get(SWEEP_TAG) == sweep])
            there = {run.tags.get(FINGERPRINT_TAG) for run in runs}
            missing = [words for mark, words in table.items() if mark not in there]
            # The sweep skipped a job that another sweep had made: its run carries the other's tag.
            runs = [
                run
                for run in runs
                if run.tags.get(SWEEP_TAG) == sweep or run.tags.get(FINGERPRINT_TAG) in table
            ]
        finished = [run for run in runs if run.status == "FINISHED"]
        wanted = {sweep} if sweep else {run.tags.get(SWEEP_TAG) for run in finished}
        mine = [run for run in parents if {run.tags.get(SWEEP_TAG)} == wanted]
        return Found(
            runs=finished,
            unfinished=[run for run in runs if run.status != "FINISHED"],
            parent=mine[-1] if mine else None,
            experiment_id=experiment_id,
            missing=missing,
        )

    def with_artifact(self, experiment: str, artifact: str) -> list[TrackedRun]:
        """The finished runs of an experiment, of any program, that hold this text file; it is in `files`."""
        found = [tracked(run) for run in self._search(self._id_of(experiment, f"experiment {experiment}"))]
        finished = [run for run in found if run.status == "FINISHED"]
        for run in finished:
            self._fetch(run, (artifact,))
        return [run for run in finished if artifact in run.files]

    def held(self, run: TrackedRun, names: Iterable[str]) -> set[str]:
        """Those of the artifacts `names` that the run has."""
        names = list(names)
        folder = local_folder(run.artifact_uri)
        if folder is not None:
            return {name for name in names if (folder / name).is_file()}
        try:  # each kind of store has its own errors
            return set(names) & set(file_sizes(artifact_repository(run.artifact_uri, self.uri), names))
        except Exception as error:
            raise UserError(
                f"the artifacts of {run.name} cannot be listed: {describe(error, self.uri)}"
            ) from None

    def text_of(self, run: TrackedRun, artifact: str) -> str:
        """The text of one artifact; empty where it is missing."""
        self._fetch(run, (artifact,))
        return run.files.get(artifact, "")

    def running(self) -> list[TrackedRun]:
        """Every run of this project that is recorded as running, in any experiment."""
        query = f"attributes.status = 'RUNNING' AND tags.`{HEARTBEAT_TAG}` != ''"
        return [
            tracked(run) for known in self._experiments() for run in self._search(known.experiment_id, query)
        ]

    def close_stale(self) -> list[str]:
        """Close as KILLED every run of this project that shows no sign of life; their names.

        The process of a run closed wrongly, in an outage, opens it again at its next beat.
        """
        stale = [run for run in self.running() if heartbeat.is_stale(run.tags.get(HEARTBEAT_TAG))]
        for run in stale:
            self._ask(partial(self._client.set_tag, run.run_id, REASON_TAG, heartbeat.REASON))
            self._ask(partial(self._client.set_terminated, run.run_id, "KILLED"))
        return [run.name for run in stale]

    def _experiments(self) -> list[Any]:
        """Every experiment: a server gives them in pages of a thousand."""
        return self._pages(partial(self._client.search_experiments, max_results=PAGE))

    def _id_of(self, experiment: str, said: str) -> str:
        """MLflow's id of an experiment; UserError, with the name as it was `said`, if there is none."""
        ids = {known.name: known.experiment_id for known in self._experiments()}
        if experiment not in ids:
            held = ", ".join(sorted(ids)) or "none"
            raise UserError(f"{said} is not in {redact(self.uri)}; it holds {held}.")
        return str(ids[experiment])

    def _sweep_table(self, parents: list[TrackedRun]) -> dict[str, str]:
        """The sweep's jobs that have a run: its overrides by its fingerprint; empty without a table."""
        if not parents:
            return {}
        self._fetch(parents[-1], (SWEEP_TABLE,))
        try:
            jobs = json.loads(parents[-1].files.get(SWEEP_TABLE, ""))["jobs"]
            return {job["fingerprint"]: " ".join(job["overrides"]) for job in jobs if job["fingerprint"]}
        except (ValueError, KeyError, TypeError):
            return {}

    def _measure(self, run: TrackedRun) -> None:
        """What training cost: the peak of memory, and the median of the epochs' times.

        The last epoch's time alone says little on a machine that others use.
        """
        for key in run.metrics:
            if key.startswith(COSTS):
                points = self._ask(partial(self._client.get_metric_history, run.run_id, key))
                summary = max if key.startswith("memory/") else median
                run.measured[key] = summary(point.value for point in points)

    def history(self, run: TrackedRun) -> list[dict[str, Any]]:
        """A dict an epoch (`epoch`, `train/loss`, ...), from MLflow's metric points."""
        rows: dict[int, dict[str, Any]] = {}
        for key in run.metrics:
            if key.startswith(("train/", "val/", "optim/")):
                for point in self._ask(partial(self._client.get_metric_history, run.run_id, key)):
                    rows.setdefault(point.step, {"epoch": point.step})[key] = point.value
        return [rows[step] for step in sorted(rows)]

    def upload(self, run: TrackedRun, folder: Path, names: Iterable[str], under: str) -> None:
        """Upload the files `names` of `folder` to `run`, as artifacts below `under`."""
        for name in names:
            where = str(Path(under) / Path(name).parent)
            self._ask(partial(self._client.log_artifact, run.run_id, str(folder / name), where))

    def set_tag(self, run: TrackedRun, key: str, value: str) -> None:
        """Set a tag of a run that is not recorded on this machine."""
        self._ask(partial(self._client.set_tag, run.run_id, key, value))

    def log_metrics(self, run: TrackedRun, values: Mapping[str, float], step: int) -> None:
        """Log metrics of a run that is not recorded on this machine."""
        for key, value in values.items():
            self._ask(partial(self._client.log_metric, run.run_id, key, value, step=step))

    def _search(self, experiment_id: str, query: str = "") -> list[Any]:
        order = {"max_results": PAGE, "order_by": ["attributes.start_time ASC"], "filter_string": query}
        return self._pages(partial(self._client.search_runs, [experiment_id], **order))

    def _pages(self, search: Callable[..., Any]) -> list[Any]:
        """All that `search` finds, page by page."""
        found: list[Any] = []
        token: str | None = None
        while True:
            page = self._ask(partial(search, page_token=token))
            found += page
            token = page.token
            if not token:
                return found

    def _fetch(self, run: TrackedRun, names: tuple[str, ...] = FILES) -> None:
        """What is missing or cannot be read stays out of `files`: the comparison says so.

        File names in predictions need not be UTF-8.
        """
        folder = local_folder(run.artifact_uri)
        if folder is not None:  # 60 times as fast as asking the client for each file
            for name in names:
                with suppress(OSError):
                    run.files[name] = (folder / name).read_text("utf-8", "surrogateescape")
            with suppress(OSError):
                run.weights_bytes = (folder / BEST_WEIGHTS).stat().st_size
            return
        with TemporaryDirectory(prefix="pneumo-") as target:
            try:  # each kind of store has its own errors
                repository = artifact_repository(run.artifact_uri, self.uri)
                held = file_sizes(repository, names)
                run.weights_bytes = held.get(BEST_WEIGHTS)
                for name in names:
                    if name in held:
                        path = repository.download_artifacts(name, target)
                        run.files[name] = Path(path).read_text("utf-8", "surrogateescape")
            except Exception as error:
                run.trouble = describe(error, self.uri)

    def _ask(self, question: Any) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return question()
        except UserError:
            raise
        except (MlflowException, OSError) as error:
            raise UserError(
                f"tracking.uri={redact(self.uri)} does not answer: {describe(error, self.uri)}"
            ) from None


def tracked(run: Any) -> TrackedRun:
    return TrackedRun(
        run_id=run.info.run_id,
        name=run.info.run_name or run.info.run_id,
        status=run.info.status,
        started_ms=run.info.start_time or 0,
        params=dict(run.data.params),
        tags=dict(run.data.tags),
        metrics=dict(run.data.metrics),
        artifact_uri=run.info.artifact_uri or "",
    )
