"""What a run is before it starts: its identity, its folder, and the tags and params that describe it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pneumo import config, fingerprint, names
from pneumo.config import Config
from pneumo.data.cache import ImageCache
from pneumo.provenance import first_checkout
from pneumo.sweep import identity
from pneumo.sweep.jobs import SweepJob
from pneumo.sweep.parent import Sweep
from pneumo.versions import CORE

PART_TAGS = {"split": names.SPLIT_TAG, "test_set": names.TEST_SET_TAG, "pool": names.POOL_TAG}
PARAM_GROUPS = ("model", "sampler", "optim", "schedule", "trainer")
MOST_NAME_CHARS = 70  # MLflow's runs table cuts off more
PARAM_DATA = ("name", "image_size", "val_protocol", "val_fraction", "split_seed", "equalize", "crop_black")


@dataclass(kw_only=True)
class RunPlan:
    """One configuration on one data set, perhaps as a job of a sweep."""

    settings: Config
    data: ImageCache
    identity: dict[str, Any]  # what decides the result, flat
    fingerprint: str
    sweep: Sweep | None
    job: SweepJob | None
    overrides: list[str]  # as typed

    @property
    def folder(self) -> Path:
        root = self.sweep.root if self.sweep else self.settings.output_dir
        return Path(root).expanduser() / self.fingerprint

    @property
    def name(self) -> str:
        """What differs, then the fingerprint's first digits: `dropout=0.3 lr=1e-4 d49c98`.

        In a sweep: what differs between its jobs. Else model, sampler, augment and what differs from the
        defaults.
        """
        chosen = identity.choices(self.overrides)
        if varied := [choice for choice in chosen if self.sweep and _key(choice) in self.sweep.axes]:
            words = identity.short(varied)
        else:
            settings = self.settings
            words = [settings.model.name, settings.sampler.name, settings.augment.name]
            words += identity.short(choice for choice in chosen if _names_a_run(_key(choice)))
        text = words[0]
        for word in words[1:]:
            if len(text) + len(word) > MOST_NAME_CHARS:
                text += " ..."
                break
            text += f" {word}"
        return f"{text} {self.fingerprint[:6]}"

    @property
    def protocol(self) -> str:
        if self.settings.trainer.select_on == "test":
            return names.TEST_SELECTED
        return names.OFFICIAL_VAL if self.settings.data.val_protocol == "official" else names.PATIENT_VAL

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.settings.data.class_names

    @property
    def many(self) -> bool:
        """More than two classes?"""
        return names.many_classes(self.class_names)

    @property
    def synthetic(self) -> bool:
        return self.settings.data.name == "phantom"

    def update_job(self, **fields: object) -> None:
        if self.job:
            self.job.update(**fields)

    def tags(self) -> dict[str, str]:
        """What MLflow's runs table can be searched by."""
        return {
            names.FINGERPRINT_TAG: self.fingerprint,
            **({names.SWEEP_TAG: self.sweep.id} if self.sweep else {}),
            names.PROTOCOL_TAG: self.protocol,
            names.DATA_DIGEST_TAG: self.data.digest,
            **{PART_TAGS[part]: digest for part, digest in self.data.digests.items()},
            names.SYNTHETIC_TAG: str(self.synthetic).lower(),
            **({names.CLASSES_TAG: json.dumps(self.class_names)} if self.many else {}),
            **({names.TASK_TAG: "multilabel"} if self.settings.data.multilabel else {}),
            names.CORE_TAG: str(CORE),
            names.PIXELS_TAG: str(self.settings.data.pixel_rule),
            names.SOURCE_TAG: "python -m pneumo.train",
            **git_tags(config.project_dir()),
        }

    def params(self) -> dict[str, Any]:
        """The columns of MLflow's runs table: what differs between runs, not where things are."""
        whole = self.settings.as_dict()
        params = {
            f"{group}.{key}": value
            for group in PARAM_GROUPS
            for key, value in whole[group].items()
            # What may change from one start to the next is left out: MLflow takes a param once.
            if key not in fingerprint.IRRELEVANT.get(group, ())
        }
        keys = (*PARAM_DATA, "folds", "fold") if self.settings.data.val_protocol == "fold" else PARAM_DATA
        params |= {f"data.{key}": whole["data"][key] for key in keys}
        return params | {"augment.name": self.settings.augment.name, "seed": self.settings.seed}


def plan_run(
    settings: Config,
    data: ImageCache,
    sweep: Sweep | None = None,
    job: SweepJob | None = None,
    overrides: Sequence[str] = (),
) -> RunPlan:
    """The run of `settings` on `data`, with its identity. `overrides` are what was typed: they name it."""
    whole = settings.as_dict()
    return RunPlan(
        settings=settings,
        data=data,
        identity={**fingerprint.relevant(whole), "data.digest": data.digest},
        fingerprint=fingerprint.fingerprint(whole, data.digest),
        sweep=sweep,
        job=job,
        overrides=list(overrides),
    )


def _key(choice: str) -> str:
    return choice.partition("=")[0].lstrip("+~")


def _names_a_run(key: str) -> bool:
    """True if a choice of `key` belongs in a name that already has model, sampler and augment."""
    group, _, name = key.partition(".")
    where = group == "data" and name.partition(".")[0] in fingerprint.IRRELEVANT["data"]
    return key not in ("model", "sampler", "augment") and not where


def git_tags(folder: Path) -> dict[str, str]:
    """The commit of the checkout in `folder` and whether it had changes; nothing outside a checkout."""
    commit, changed = first_checkout(folder, untracked=False)
    if commit is None:
        return {}
    return {names.COMMIT_TAG: commit, names.DIRTY_TAG: str(bool(changed)).lower()}
