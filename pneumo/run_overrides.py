"""The command line of a run, found from the configuration that the run saved."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pneumo import UserError, config, names
from pneumo.config_files import shipped_dir
from pneumo.fingerprint import IRRELEVANT, TABLE_KEYS, fingerprint, with_neutral
from pneumo.tracking.journal import Journal
from pneumo.versions import CORE

UNSCORED = "trainer.score_test=false"
# Keys of `data` that lead to the same images; the other keys outside the fingerprint are not needed again.
_NEEDED = ("root", "on_bad_image", "phantom", "pixels", *TABLE_KEYS)
_VALUES = ("data.labels",)  # mappings that are a value, not a group of keys
_TO_ESCAPE = re.compile(r"([\\()\[\]{}:=,\s])")


def train_again(folder: Path) -> str:
    """The command that trains the run in `folder` again, for a message."""
    try:
        typed = overrides(folder, Journal(folder))
    except UserError as error:
        return f"pneumo runs reproduce {folder} ({error})"
    unscored = [] if config.from_saved(folder / "artifacts" / names.CONFIG).trainer.score_test else [UNSCORED]
    return shlex.join(["pneumo", "train", *typed, *unscored, "force=true"])


def overrides(folder: Path, journal: Journal) -> list[str]:
    """The shortest command line that composes to the same fingerprint; UserError where there is none."""
    file = folder / "artifacts" / names.CONFIG
    if not file.exists():
        raise UserError(f"{file} is missing: the run ended before it was written.")
    loaded: Any = OmegaConf.to_container(OmegaConf.load(file))
    saved = with_neutral(loaded)
    found = overrides_of(saved)
    made = config.compose(found).as_dict()
    wanted = journal.tags_logged[names.FINGERPRINT_TAG]
    digest = journal.tags_logged[names.DATA_DIGEST_TAG]
    if fingerprint(made, digest) == wanted:
        return found
    recorded = [int(journal.tags_logged.get(tag, "1")) for tag in (names.CORE_TAG, names.PIXELS_TAG)]
    if fingerprint(made, digest, *recorded) == wanted:
        raise UserError(
            f"{wanted} was made under core {recorded[0]} and pixels {recorded[1]}; this version computes "
            f"core {CORE}, which gives other figures. Install the version that made it, or train it again: "
            f"pneumo train {shlex.join(found)}"
        )
    raise UserError(f"{wanted} was made by another version: this one knows no command that gives it.")


def overrides_of(saved: dict[str, Any]) -> list[str]:
    """A short command line that composes to the configuration `saved`."""
    groups = [f"{group}={part['name']}" for group, part in saved.items() if _is_option(group, part)]
    base = config.compose(groups).as_dict()
    found = groups
    for group, value in saved.items():
        if group in IRRELEVANT[""]:
            continue
        if not isinstance(value, dict):
            if value != base[group]:
                found.append(f"{group}={_written(value)}")
            continue
        skipped = IRRELEVANT.get(group, ())
        for key, entry in value.items():
            if entry == base[group].get(key) or (key in skipped and not (group == "data" and key in _NEEDED)):
                continue
            nested = isinstance(entry, dict) and f"{group}.{key}" not in _VALUES
            parts = entry.items() if nested else [("", entry)]
            for inner, own in parts:
                if not inner or own != base[group][key][inner]:
                    found.append(f"{group}.{key}{'.' + inner if inner else ''}={_written(own)}")
    return found


def _is_option(group: str, part: Any) -> bool:
    return isinstance(part, dict) and (shipped_dir("conf") / group / f"{part.get('name')}.yaml").exists()


def _written(value: Any) -> str:
    """A value as an override writes it."""
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, dict):  # Hydra takes no quotes around a key
        keys = (_TO_ESCAPE.sub(r"\\\1", str(key)) for key in value)
        pairs = (f"{key}: {_written(own)}" for key, own in zip(keys, value.values(), strict=True))
        return f"{{{', '.join(pairs)}}}"
    return json.dumps(str(value), ensure_ascii=False) if not str(value).isalnum() else str(value)
