"""Whether the process of a run lives, for a machine that cannot see it: a time that the run renews in MLflow.

Only MLflow has it, not the journal: it says nothing about the run once that has ended.
"""

from datetime import UTC, datetime, timedelta

from pneumo.text import UTC_FORMAT

BEAT_S = 60.0  # a run renews its time this often
STALE_S = 300.0  # a run whose time is older is taken for dead; it reopens itself should it live
REASON = "its process ended without a report: kill -9, a power cut, or no memory left"


def age(beat: str | None) -> timedelta | None:
    """How long ago the last beat was. None for a run without one, of version 0.1."""
    try:
        return datetime.now(UTC) - datetime.strptime(beat or "", UTC_FORMAT).replace(tzinfo=UTC)
    except ValueError:
        return None


def is_stale(beat: str | None) -> bool:
    """True where the last beat is too old. A run without one, of version 0.1, is not judged."""
    passed = age(beat)
    return passed is not None and passed > timedelta(seconds=STALE_S)
