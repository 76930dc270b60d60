"""A run's command, found from what the run saved; and the same run made again, every figure compared."""

import shlex
import subprocess
import sys
from pathlib import Path

from pneumo import UserError, names, run_overrides
from pneumo.sweep.jobs import state_of
from pneumo.text import table
from pneumo.tracking.journal import Journal


def reproduce(folder: Path, output_dir: str, *, run: bool) -> int:
    """Print the command of the run in `folder`. With `run` carry it out in output_dir/reproduced and compare.

    Returns 1 if a figure differs, else 0, or the code of a training that failed.
    """
    journal = Journal(folder)
    overrides = run_overrides.overrides(folder, journal)
    if commit := journal.tags_logged.get(names.COMMIT_TAG):
        dirty = journal.tags_logged.get(names.DIRTY_TAG) == "true"
        print(f"# made with commit {commit}{', and changes that were not committed' if dirty else ''}")
    print(" ".join(["pneumo train", *(shlex.quote(override) for override in overrides)]))
    if not run:
        return 0
    if journal.status != "FINISHED":
        raise UserError(f"{folder.name} is {state_of(journal)}: only a finished run can be compared.")
    aside = Path(output_dir).expanduser() / "reproduced"
    # Its figures are compared here. In the tracker it would be one more run of the experiment.
    extra = [f"output_dir={aside}", "force=true", "tracking.enabled=false"]
    done = subprocess.run([sys.executable, "-m", "pneumo.train", *overrides, *extra])
    if done.returncode:
        return done.returncode
    return _compare(journal, Journal(aside / journal.tags_logged[names.FINGERPRINT_TAG]))


def _compare(then: Journal, now: Journal) -> int:
    first, second = (
        {
            (key, step): value
            for key, value, _, step in journal.metric_rows()
            if not key.startswith(names.MEASURED)
        }
        for journal in (then, now)
    )
    rows = [
        # In full: four decimals could look the same.
        {
            "metric": key,
            "epoch": step,
            "then": str(first.get((key, step))),
            "now": str(second.get((key, step))),
        }
        for key, step in sorted({*first, *second})
        if first.get((key, step)) != second.get((key, step))
    ]
    if rows:
        print("\n" + table(rows))
    print(f"{len(first) - len(rows)} of {len(first)} figures are equal to the last bit")
    return 1 if rows else 0
