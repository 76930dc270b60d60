"""A run's command, found from what the run saved; and the same run made again, every figure compared."""

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pneumo import UserError, config
from pneumo.config_files import shipped_dir
from pneumo.fingerprint import IRRELEVANT, fingerprint
from pneumo.names import (
    COMMIT_TAG,
    CONFIG,
    CORE_TAG,
    DATA_DIGEST_TAG,
    DIRTY_TAG,
    FINGERPRINT_TAG,
    MEASURED,
    PIXELS_TAG,
)
from pneumo.sweep.jobs import state_of
from pneumo.text import table
from pneumo.tracking.journal import Journal
from pneumo.versions import CORE

# Keys of `data` that lead to the same images; the other keys outside the fingerprint are not needed again.
_NEEDED = ("root", "on_bad_image", "phantom", "pixels")


def reproduce(folder: Path, output_dir: str, *, run: bool) -> int:
    """Print the command of the run in `folder`. With `run` carry it out in output_dir/reproduced and compare.

    Returns 1 if a figure differs, else 0, or the code of a training that failed.
    """
    journal = Journal(folder)
    overrides = _overrides(folder, journal)
    if commit := journal.tags_logged.get(COMMIT_TAG):
        dirty = journal.tags_logged.get(DIRTY_TAG) == "true"
        print(f"# made with commit {commit}{', and changes that were not committed' if dirty else ''}")
    print(" ".join(["python -m pneumo.train", *(shlex.quote(override) for override in overrides)]))
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
    return _compare(journal, Journal(aside / journal.tags_logged[FINGERPRINT_TAG]))


def _overrides(folder: Path, journal: Journal) -> list[str]:
    """The shortest command line that composes to the same fingerprint; UserError where there is none."""
    file = folder / "artifacts" / CONFIG
    if not file.exists():
        raise UserError(f"{file} is missing: the run ended before it was written.")
    saved: Any = OmegaConf.to_container(OmegaConf.load(file))
    overrides = overrides_of(saved)
    made = config.compose(overrides).as_dict()
    wanted = journal.tags_logged[FINGERPRINT_TAG]
    digest = journal.tags_logged[DATA_DIGEST_TAG]
    if fingerprint(made, digest) == wanted:
        return overrides
    recorded = [int(journal.tags_logged.get(tag, "1")) for tag in (CORE_TAG, PIXELS_TAG)]
    if fingerprint(made, digest, *recorded) == wanted:
        raise UserError(
            f"{wanted} was made under core {recorded[0]} and pixels {recorded[1]}; this version computes "
            f"core {CORE}, which gives other figures. Install the version that made it, or train it again: "
            f"pneumo train {shlex.join(overrides)}"
        )
    raise UserError(f"{wanted} was made by another version: this one knows no command that gives it.")


def overrides_of(saved: dict[str, Any]) -> list[str]:
    """A short command line that composes to the configuration `saved`."""
    groups = [f"{group}={part['name']}" for group, part in saved.items() if _is_option(group, part)]
    base = config.compose(groups).as_dict()
    overrides = groups
    for group, value in saved.items():
        if group in IRRELEVANT[""]:
            continue
        if not isinstance(value, dict):
            if value != base[group]:
                overrides.append(f"{group}={_written(value)}")
            continue
        skipped = IRRELEVANT.get(group, ())
        for key, entry in value.items():
            if entry == base[group].get(key) or (key in skipped and not (group == "data" and key in _NEEDED)):
                continue
            parts = entry.items() if isinstance(entry, dict) else [("", entry)]
            for inner, own in parts:
                if not inner or own != base[group][key][inner]:
                    overrides.append(f"{group}.{key}{'.' + inner if inner else ''}={_written(own)}")
    return overrides


def _is_option(group: str, part: Any) -> bool:
    return isinstance(part, dict) and (shipped_dir("conf") / group / f"{part.get('name')}.yaml").exists()


def _written(value: Any) -> str:
    """A value as an override writes it."""
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    return json.dumps(str(value), ensure_ascii=False) if not str(value).isalnum() else str(value)


def _compare(then: Journal, now: Journal) -> int:
    first, second = (
        {(key, step): value for key, value, _, step in journal.metric_rows() if not key.startswith(MEASURED)}
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
