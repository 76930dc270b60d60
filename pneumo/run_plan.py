"""What a run is before it starts: its identity, its folder, and the tags and params that describe it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pneumo import config, fingerprint, names
from pneumo.config import Config
from pneumo.data.cache import ImageCache
from pneumo.provenance import first_checkout
from pneumo.sweep.jobs import SweepJob
from pneumo.sweep.parent import Sweep
from pneumo.versions import CORE

PART_TAGS = {"split": names.SPLIT_TAG, "test_set": names.TEST_SET_TAG, "pool": names.POOL_TAG}
PARAM_GROUPS = ("model", "sampler", "optim", "schedule", "trainer")
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

    @property
    def folder(self) -> Path:
        root = self.sweep.root if self.sweep else self.settings.output_dir
        return Path(root).expanduser() / self.fingerprint

    @property
    def name(self) -> str:
        settings = self.settings
        return f"{settings.model.name}-{settings.sampler.name}-{settings.augment.name}-{self.fingerprint[:6]}"

    @property
    def protocol(self) -> str:
        if self.settings.trainer.select_on == "test":
            return names.TEST_SELECTED
        return names.OFFICIAL_VAL if self.settings.data.val_protocol == "official" else names.PATIENT_VAL

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
        params |= {f"data.{key}": whole["data"][key] for key in PARAM_DATA}
        return params | {"augment.name": self.settings.augment.name, "seed": self.settings.seed}


def plan_run(settings: Config, data: ImageCache, sweep: Sweep | None, job: SweepJob | None) -> RunPlan:
    """The run of `settings` on `data`, with its identity."""
    whole = settings.as_dict()
    return RunPlan(
        settings=settings,
        data=data,
        identity={**fingerprint.relevant(whole), "data.digest": data.digest},
        fingerprint=fingerprint.fingerprint(whole, data.digest),
        sweep=sweep,
        job=job,
    )


def git_tags(folder: Path) -> dict[str, str]:
    """The commit of the checkout in `folder` and whether it had changes; nothing outside a checkout."""
    commit, changed = first_checkout(folder, untracked=False)
    if commit is None:
        return {}
    return {names.COMMIT_TAG: commit, names.DIRTY_TAG: str(bool(changed)).lower()}
