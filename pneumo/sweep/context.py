"""What one train command knows of its sweep.

Hydra calls the task, the callback and the sweeper, and passes none of this between them. So the command keeps
it in one object. A job in another process finds there the sweep that Hydra's callback brought along.
"""

from dataclasses import dataclass, field

from pneumo.sweep.parent import Sweep
from pneumo.tracking.settings import TrackingSettings


@dataclass
class SweepContext:
    """The sweep that this process started, the one whose job it runs, and how its jobs ended."""

    sweep: Sweep | None = None
    tracking: TrackingSettings | None = None  # of `sweep`
    sweep_of_job: Sweep | None = None
    data_shown: set[str] = field(default_factory=set)  # digests of data whose notes and splits were printed
    exit_codes: list[int] = field(default_factory=list)  # of the jobs that ran in this process


_context = SweepContext()


def current() -> SweepContext:
    """The context of the command that this process runs."""
    return _context


def begin() -> SweepContext:
    """A new context, for a new command."""
    global _context
    _context = SweepContext()
    return _context
