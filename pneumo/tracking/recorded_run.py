"""A run as its own folder records it, in the form in which the tracker gives it."""

from contextlib import suppress
from pathlib import Path

from pneumo.tracking.courier import read_note
from pneumo.tracking.journal import Journal
from pneumo.tracking.reading import FILES, TrackedRun


def read(folder: Path, uri: str) -> TrackedRun:
    """The run in `folder` as it will be in the tracker at `uri`, read from its own record.

    Its id is that of the tracker, or the folder's name while it is not there.
    """
    journal, artifacts = Journal(folder), folder / "artifacts"
    last: dict[str, tuple[int, float]] = {}
    for key, value, _, step in journal.metric_rows():
        if step >= last.get(key, (step, value))[0]:
            last[key] = step, value
    run = TrackedRun(
        run_id=read_note(folder, uri).run_id or folder.name,
        name=journal.name or folder.name,
        status=journal.status or "",
        started_ms=journal.started_ms,
        params=dict(journal.params_logged),
        tags=dict(journal.tags_logged),
        metrics={key: value for key, (_, value) in last.items()},
        artifact_uri=str(artifacts),
    )
    for name in FILES:
        with suppress(OSError):
            run.files[name] = (artifacts / name).read_text("utf-8", "surrogateescape")
    return run
