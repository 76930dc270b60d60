"""Where results are: whole commands that find the same store and folders, and the page that shows a run."""

import shlex
from pathlib import Path

from pneumo.config_files import project_dir
from pneumo.tracking import pages
from pneumo.tracking.courier import is_sweep, read_note
from pneumo.tracking.journal import redact


def command(words: str, *, uri: str | None = None, output_dir: str | Path | None = None, **keys: str) -> str:
    """`pneumo WORDS` with `keys`, and with `uri` and `output_dir` where they are not the defaults.

    A URI with a password is left out: the command then needs the same MLFLOW_TRACKING_URI.
    """
    parts = [f"{key}={value}" for key, value in keys.items()]
    if output_dir is not None and Path(output_dir).expanduser() != project_dir() / "outputs":
        parts.append(f"output_dir={output_dir}")
    if uri and uri != default_uri() and redact(uri) == uri:
        parts.append(f"tracking.uri={uri}")
    return " ".join(["pneumo", words, *map(shlex.quote, parts)])


def page(folder: Path, uri: str) -> str:
    """MLflow's address of the run or sweep in `folder`, or the command that serves the store and opens it."""
    note, server = read_note(folder, uri), pages.base(uri)
    if server is not None and note.run_id is not None and note.experiment_id is not None:
        path = pages.sweep if is_sweep(folder) else pages.run
        return server + path(note.experiment_id, note.run_id)
    if is_sweep(folder):
        return command("ui", uri=uri, output_dir=folder.parents[1], sweep_id=folder.name)
    return command("ui", uri=uri, output_dir=folder.parent, run=folder.name)


def default_uri() -> str:
    """The store that a command uses where neither a key nor the environment names one."""
    return f"sqlite:///{project_dir() / 'mlflow.db'}"
