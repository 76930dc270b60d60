"""Reads finished runs back out of MLflow, and lays a comparison's files onto a sweep's parent run."""

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pneumo import UserError
from pneumo.tracking.journal import redact
from pneumo.tracking.mlflow_run import _client, _sqlite_file, describe

SWEEP_TAG, KIND_TAG = "pneumo.sweep", "pneumo.kind"
# What a comparison needs of a run, and what it uses where it is there.
FILES = (
    "predictions/test.csv",
    "predictions/val.csv",
    "config.yaml",
    "checkpoints/best.json",
    "reports/splits.json",
)
WEIGHTS = "checkpoints/best.safetensors"
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
    files: dict[str, str] = field(default_factory=dict)
    weights_bytes: int | None = None

    def history(self) -> list[dict[str, Any]]:
        """A dict an epoch, from checkpoints/best.json; empty where that is missing."""
        return list(json.loads(self.files["checkpoints/best.json"]).get("history", ())) if self.facts else []

    @property
    def facts(self) -> dict[str, Any]:
        """What stands in checkpoints/best.json; empty where it is missing or damaged."""
        try:
            found = json.loads(self.files.get("checkpoints/best.json", ""))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


@dataclass(kw_only=True)
class Found:
    """The runs of an experiment or of one sweep, the unfinished among them, and the sweep's parent run."""

    runs: list[TrackedRun]
    unfinished: list[TrackedRun]
    parent: TrackedRun | None


class Reader:
    """One tracking server, for reading; UserError where it or an experiment is missing or does not answer."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        database = _sqlite_file(uri)
        if database is not None and not database.is_file():
            raise UserError(
                f"tracking.uri={redact(uri)}: {database} does not exist. Train first, or name the store of "
                "the runs with tracking.uri=URI or MLFLOW_TRACKING_URI."
            )
        self._client = self._ask(lambda: _client(uri))

    def find(self, experiment: str, sweep: str | None = None) -> Found:
        """The runs of `experiment` (of `sweep` only, where given), the oldest first, with their files."""
        known = self._ask(self._client.search_experiments)
        ids = {entry.name: entry.experiment_id for entry in known}
        if experiment not in ids:
            raise UserError(
                f"experiment={experiment} is not in {redact(self.uri)}; it holds "
                f"{', '.join(sorted(ids)) or 'none'}."
            )
        every = [_tracked(run) for run in self._search(ids[experiment])]
        parents = [run for run in every if run.tags.get(KIND_TAG) == "sweep"]
        runs = [run for run in every if run not in parents]
        sweeps = {run.tags[SWEEP_TAG] for run in every if SWEEP_TAG in run.tags}
        if sweep is not None:
            if sweep not in sweeps:
                names = ", ".join(sorted(sweeps)) or "no sweep"
                raise UserError(f"sweep={sweep} is not in experiment {experiment}, which holds {names}.")
            runs = [run for run in runs if run.tags.get(SWEEP_TAG) == sweep]
        finished = [run for run in runs if run.status == "FINISHED"]
        with ThreadPoolExecutor(FETCHERS) as pool:
            list(pool.map(self._fetch, finished))
        wanted = {sweep} if sweep else {run.tags.get(SWEEP_TAG) for run in finished}
        mine = [run for run in parents if {run.tags.get(SWEEP_TAG)} == wanted]
        return Found(
            runs=finished,
            unfinished=[run for run in runs if run.status != "FINISHED"],
            parent=mine[-1] if mine else None,
        )

    def histories(self, run: TrackedRun, keys: Iterable[str]) -> list[dict[str, Any]]:
        """As TrackedRun.history, from MLflow's metric points, for a run without checkpoints/best.json."""
        rows: dict[int, dict[str, Any]] = {}
        for key in keys:
            for point in self._ask(lambda key=key: self._client.get_metric_history(run.run_id, key)):
                rows.setdefault(point.step, {"epoch": point.step})[key] = point.value
        return [rows[step] for step in sorted(rows)]

    def upload(self, run: TrackedRun, folder: Path, under: str) -> None:
        """Lay every file below `folder` onto `run` as artifacts below `under`."""
        self._ask(lambda: self._client.log_artifacts(run.run_id, str(folder), under))

    def _search(self, experiment_id: str) -> list[Any]:
        runs: list[Any] = []
        token: str | None = None
        while True:
            page = self._ask(
                lambda: self._client.search_runs(
                    [experiment_id], max_results=1000, order_by=["attributes.start_time ASC"], page_token=token
                )
            )
            runs += page
            token = page.token
            if not token:
                return runs

    def _fetch(self, run: TrackedRun) -> None:
        """What is missing or cannot be read stays out of `files`: the comparison says so."""
        with TemporaryDirectory(prefix="pneumo-") as folder:
            held = self._listed(run)
            for name in FILES:
                if name not in held:
                    continue
                try:
                    path = self._client.download_artifacts(run.run_id, name, folder)
                    run.files[name] = Path(path).read_text()
                except Exception:  # each store has its own errors for a file that is not there
                    continue
            run.weights_bytes = held.get(WEIGHTS)

    def _listed(self, run: TrackedRun) -> dict[str, int]:
        folders = {str(Path(name).parent) for name in FILES}
        held: dict[str, int] = {}
        for folder in sorted(folders):
            try:
                entries = self._client.list_artifacts(run.run_id, None if folder == "." else folder)
            except Exception:
                continue
            held |= {entry.path: int(entry.file_size or 0) for entry in entries if not entry.is_dir}
        return held

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


def _tracked(run: Any) -> TrackedRun:
    return TrackedRun(
        run_id=run.info.run_id,
        name=run.info.run_name or run.info.run_id,
        status=run.info.status,
        started_ms=run.info.start_time or 0,
        params=dict(run.data.params),
        tags=dict(run.data.tags),
        metrics=dict(run.data.metrics),
    )
