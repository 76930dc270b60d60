"""The folder of a run, from any name that people have for it."""

import os
from contextlib import suppress
from pathlib import Path

from pneumo import UserError, config, names, places
from pneumo.commands import RUN_FORMS
from pneumo.sweep import jobs
from pneumo.sweep.jobs import read_json
from pneumo.tracking.courier import is_sweep, note_path, read_note
from pneumo.tracking.journal import Journal, redact
from pneumo.tracking.registry import RUN_ID


def run_folders(output_dir: str, kind: str = "*") -> list[Path]:
    """The folder of every run (for `sweeps/*`: of every sweep), the oldest first."""
    root = Path(output_dir).expanduser()
    if not root.is_dir():
        raise UserError(f"output_dir={root} is not a folder: no run has been made there.")
    found = [file.parent for file in root.glob(f"{kind}/journal.jsonl")]
    return sorted(found, key=lambda folder: (folder / "journal.jsonl").stat().st_mtime)


def find_sweep(output_dir: str, sweep_id: str) -> Path:
    """The folder of a sweep; UserError where there is none of this id."""
    known = {folder.name: folder for folder in run_folders(output_dir, "sweeps/*")}
    if sweep_id not in known:
        raise UserError(f"sweep_id={sweep_id} is not known; there are {', '.join(known) or 'none'}.")
    return known[sweep_id]


def sweep_runs(output_dir: str, sweep_id: str) -> list[Path]:
    """The folders of the runs of a sweep's jobs, in the order of the jobs; UserError if none has a run."""
    sweep = find_sweep(output_dir, sweep_id)
    records = sorted(jobs.records(sweep), key=lambda job: (job["number"] or 0, job["key"]))
    runs = dict.fromkeys(sweep.parents[1] / job["fingerprint"] for job in records if job["fingerprint"])
    found = [folder for folder in runs if (folder / "journal.jsonl").is_file()]
    if not found:
        raise UserError(f"sweep_id={sweep_id} has no run in output_dir={output_dir}. Train it first.")
    return found


def find_run(output_dir: str, name: str, uri: str | None = None) -> Path:
    """The folder of the run that `name` means (see commands.RUN_FORMS); UserError for none or several.

    A run has an MLflow id in each tracker. Where the beginning of an id is given, the ids in the tracker at
    `uri` come first.
    """
    return _only(_matching(output_dir, name, uri), output_dir, name)


def _only(found: list[Path], output_dir: str, name: str) -> Path:
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} runs ({', '.join(folder.name for folder in found)})" if found else "not a run there"
    raise UserError(f"{name} in output_dir={output_dir}: {what}. Give {RUN_FORMS}.")


def _matching(output_dir: str, name: str, uri: str | None) -> list[Path]:
    given = Path(name).expanduser()
    if (given / "journal.jsonl").is_file():
        return [given]
    begun, begun_elsewhere, named = [], [], []
    for folder in run_folders(output_dir):
        ids = _run_ids(folder)
        if name in (folder.name, *ids.values()):
            return [folder]
        if folder.name.startswith(name) or (uri and ids.get(note_path(folder, uri), "").startswith(name)):
            begun.append(folder)
        elif any(known.startswith(name) for known in ids.values()):
            begun_elsewhere.append(folder)
        if _run_name(folder) == name:
            named.append(folder)
    return named or begun or begun_elsewhere


def model_of(model: str, output_dir: str, uri: str) -> str:
    """`model`, or the folder of the run's artifacts where it names a run in `output_dir`.

    URIs, MLflow run ids, model folders and unknown names stay as they are. UserError if several runs match.
    """
    folder = Path(model).expanduser()
    if model.startswith(("models:/", "runs:/")) or RUN_ID.fullmatch(model):
        return model
    if folder.is_dir() and not (folder / "journal.jsonl").is_file():
        return model
    found = _matching(output_dir, model, uri) if Path(output_dir).expanduser().is_dir() else []
    return str(_only(found, output_dir, model) / "artifacts") if found else model


def uri_of(folder: Path) -> str:
    """The tracker that the run or sweep in `folder` was meant for, as its own configuration names it.

    A saved URI lacks its password: the configured one is taken if it is the same without.
    """
    configured = os.environ.get("MLFLOW_TRACKING_URI") or places.default_uri()
    if is_sweep(folder):
        root = folder.parents[1]
        made = (record["fingerprint"] for record in jobs.records(folder))
        candidates = [root / fingerprint for fingerprint in made if fingerprint]
    else:
        candidates = [folder]
    for candidate in candidates:
        with suppress(OSError, UserError, ValueError):
            saved = config.from_saved(candidate / "artifacts" / names.CONFIG).tracking.uri
            if saved:
                return configured if redact(configured) == saved else saved
    return configured


def run_id_of(output_dir: str, name: str, uri: str) -> str:
    """The MLflow id that the run has in the tracker at `uri`; UserError where it has none."""
    folder = find_run(output_dir, name, uri)
    run_id = read_note(folder, uri).run_id
    if run_id is None:
        raise UserError(f"run {folder.name} is not in {redact(uri)} yet: `pneumo runs sync` sends it.")
    return run_id


def _run_ids(folder: Path) -> dict[Path, str]:
    """The run's MLflow id in each tracker, by the tracker's note."""
    ids = {note: read_json(note).get("run_id") for note in folder.glob("sent-*.json")}
    return {note: str(run_id) for note, run_id in ids.items() if run_id}


def _run_name(folder: Path) -> str | None:
    with suppress(UserError):  # damaged: it can still be found by its folder
        return Journal(folder).name
    return None
