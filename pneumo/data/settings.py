"""Settings of the data: where the images are, and how they are split, prepared, sampled and augmented.

The defaults match the default options: conf/data/chest_xray.yaml, conf/sampler/imbalanced.yaml and
conf/augment/strong.yaml. The option files in conf/ set and explain every key. `root` and `cache_dir` are None
here because the configuration takes them from the environment.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pneumo import UserError, one_of
from pneumo.names import CLASS_NAMES, class_metric
from pneumo.versions import PIXEL_RULES, PIXELS

MOST_PHANTOM_CLASSES = 20  # each pattern needs a different place
MOST_NAME_CHARS = 100  # of a class


@dataclass(kw_only=True)
class PhantomSettings:
    """The synthetic set: its number of patients, its seed and its number of classes."""

    train_patients: int = 400
    test_patients: int = 120
    seed: int = 0
    classes: int = 2

    def __post_init__(self) -> None:
        if not 2 <= self.classes <= MOST_PHANTOM_CLASSES:
            raise UserError(
                f"data.phantom.classes={self.classes} must be between 2 and {MOST_PHANTOM_CLASSES}."
            )

    @property
    def class_names(self) -> tuple[str, ...]:
        """NORMAL, and beside PNEUMONIA alone a pattern for each other class."""
        if self.classes == len(CLASS_NAMES):
            return CLASS_NAMES
        return (CLASS_NAMES[0], *(f"PATTERN_{number}" for number in range(1, self.classes)))


# How each data set is laid out: one folder a split and class, one folder a class, or a table.
LAYOUTS = {
    "chest_xray": "splits",
    "csv": "table",
    "phantom": "drawn",
    "nih14": "table",
    "chexpert": "table",
    "rsna": "table",
    "covid_radiography": "classes",
    "kermany3": "splits",
}
CLASSES_IN_NAMES = ("kermany3",)  # sets whose file names give the class, not their folders
VAL_PROTOCOLS = ("patient", "official", "fold")
TASKS = ("classes", "multilabel")
UNCERTAIN = ("ignore", "zero", "one")
NO_FINDING = "No Finding"
_NO_FINDINGS = ("normal", "no finding", "no findings", "healthy")
# The findings of sets with known ones, for data.task=multilabel without data.classes.
FINDINGS = {
    "nih14": (
        *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis"),
        *("Hernia", "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax"),
    ),
    "chexpert": (
        *("Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
        *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other"),
        *("Fracture", "Support Devices"),
    ),
}
NO_COLUMN = "none"  # a value of data.columns.*: the table has no such column


@dataclass(kw_only=True)
class ColumnSettings:
    """The table's columns by role; None where the name tells (pneumo.data.columns)."""

    path: str | None = None
    label: str | None = None
    patient: str | None = None
    split: str | None = None
    subgroups: list[str] | None = None


@dataclass(kw_only=True)
class SplitSettings:
    """The test set that is made where the data set has no split."""

    test_fraction: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.test_fraction is not None and not 0 < self.test_fraction < 1:
            raise UserError(
                f"data.split.test_fraction={self.test_fraction} must be between 0 and 1, for example 0.2."
            )
        if self.seed < 0:
            raise UserError(f"data.split.seed={self.seed} must not be negative.")


@dataclass(kw_only=True)
class DataSettings:
    name: str = "chest_xray"
    root: str | None = None
    table: str | None = None
    columns: ColumnSettings = field(default_factory=ColumnSettings)
    positive: list[Any] | None = None
    labels: dict[Any, Any] = field(default_factory=dict)  # Hydra cannot put a mapping where None is
    classes: list[Any] | None = None
    task: str = "classes"
    separator: str = "|"
    uncertain: str = "ignore"
    patient_pattern: str | None = None
    path_prefix: str | None = None
    split: SplitSettings = field(default_factory=SplitSettings)
    image_size: int = 224
    val_protocol: str = "patient"
    val_fraction: float = 0.1
    folds: int = 5
    fold: int | None = None
    split_seed: int = 0
    equalize: bool = True
    crop_black: bool = True
    pixels: int | None = None
    on_bad_image: str = "error"
    near_copies: str = "error"
    pseudonymise: bool = False
    patient_namespace: str | None = None
    cache_dir: str | None = None
    num_workers: int | None = None
    phantom: PhantomSettings = field(default_factory=PhantomSettings)

    @classmethod
    def from_saved(cls, values: Mapping[str, Any]) -> "DataSettings":
        """The settings that a run saved. Raises what a dataclass raises for values that are none."""
        nested = {"columns": ColumnSettings, "split": SplitSettings, "phantom": PhantomSettings}
        parts = {name: kind(**(values.get(name) or {})) for name, kind in nested.items()}
        return cls(**{**values, **parts})

    def __post_init__(self) -> None:
        one_of("data.name", self.name, LAYOUTS)
        one_of("data.task", self.task, TASKS)
        one_of("data.uncertain", self.uncertain, UNCERTAIN)
        self._check_reading()
        self._check_task()
        one_of("data.val_protocol", self.val_protocol, VAL_PROTOCOLS)
        self._check_folds()
        one_of("data.on_bad_image", self.on_bad_image, ("error", "skip"))
        one_of("data.near_copies", self.near_copies, ("error", "allow"))
        if not 0 < self.val_fraction < 1:
            raise UserError(
                f"data.val_fraction={self.val_fraction} must be between 0 and 1, for example 0.1."
            )
        if self.pixels is not None and self.pixels not in PIXEL_RULES:
            raise UserError(
                f"data.pixels={self.pixels} is not a pixel rule; the rules are 1 (the seed report's chain) "
                "and 2. null takes the newest."
            )
        if not 16 <= self.image_size <= 2048:
            raise UserError(f"data.image_size={self.image_size} must be between 16 and 2048 pixels.")
        if self.num_workers is not None and self.num_workers < 1:
            raise UserError(f"data.num_workers={self.num_workers} must be at least 1, or null for all cores.")

    def _check_folds(self) -> None:
        if self.folds < 2:
            raise UserError(f"data.folds={self.folds} must be at least 2; 5 and 10 are usual.")
        if self.val_protocol != "fold":
            return
        every = ",".join(map(str, range(min(self.folds, 10)))) + (",..." if self.folds > 10 else "")
        if self.fold is None:
            raise UserError(
                f"data.val_protocol=fold needs data.fold, the part that validates: 0 to {self.folds - 1}. "
                f"`--multirun data.fold={every}` trains them all, and so does sweep=cross_validation."
            )
        if not 0 <= self.fold < self.folds:
            raise UserError(
                f"data.fold={self.fold} must be from 0 to {self.folds - 1}: data.folds={self.folds}."
            )

    def _check_reading(self) -> None:
        """Refuse keys that cannot be read, or that no reader of this layout looks at."""
        if self.table is not None and self.layout != "table":
            raise UserError(
                f"data.table={self.table} has no effect with data={self.name}, which reads folders. Use "
                "data=csv for a set described by a table."
            )
        if self.classes is not None and self.positive is not None:
            raise UserError("data.classes and data.positive both say what a label means; give one of them.")
        if self.patient_namespace is not None and not self.patient_namespace.strip():
            raise UserError(
                "data.patient_namespace is empty: name who gave the patients' ids, or leave the key out."
            )
        self._check_classes()
        if self.patient_pattern is not None:
            try:
                re.compile(self.patient_pattern)
            except re.error as error:
                raise UserError(
                    f"data.patient_pattern={self.patient_pattern} is not a regular expression: {error}. An "
                    r"example is data.patient_pattern='(patient\d+)'."
                ) from None

    def _check_task(self) -> None:
        """Refuse keys that do not go with data.task."""
        if not self.separator:
            raise UserError(
                "data.separator is empty: give the sign between the findings of a label, like '|'."
            )
        if not self.multilabel:
            if self.uncertain != "ignore":
                raise UserError(
                    f"data.uncertain={self.uncertain} has no effect without data.task=multilabel. "
                    "data.labels={-1: CLASS} gives uncertain labels a class, {-1: null} leaves them out."
                )
            return
        if self.layout != "table":
            sets = ", ".join(name for name, layout in LAYOUTS.items() if layout == "table")
            raise UserError(
                f"data.task=multilabel needs a table, and data={self.name} has none; the sets with a "
                f"table are {sets}."
            )
        if self.classes is None and self.name not in FINDINGS:
            raise UserError("data.task=multilabel needs the findings: data.classes=[A,B,...].")
        if self.positive is not None and self.name not in FINDINGS:
            raise UserError(
                f"data.positive={self.positive} is one finding against the rest; data.task=multilabel takes "
                "data.classes=[A,B,...]."
            )
        if none := [name for name in self.class_names if name.casefold() in _NO_FINDINGS]:
            raise UserError(
                f"data.classes names {none[0]}, which is not a finding: an image without findings has none "
                "of them. Leave it out of data.classes."
            )
        if len(self.class_names) < 2:
            raise UserError(
                f"data.classes={self.classes} is one finding. data.task=multilabel takes two or more; "
                f"data.task=classes data.positive={self.classes} data.classes=null is one against the rest."
            )

    def _check_classes(self) -> None:
        """Refuse names of classes that labels, columns or metrics could not tell apart."""
        names = ["" if name is None else str(name) for name in self.classes or ()]
        if self.classes is not None and len(names) < len(CLASS_NAMES) and not self.multilabel:
            raise UserError(
                f"data.classes={self.classes} has {len(names)} name{'s' * (len(names) != 1)}; give two or "
                "more: the name of the healthy class, then those of the others. data.positive=[NAME,...] is "
                "one class against the rest."
            )
        drawn = self.phantom.classes if self.layout == "drawn" else len(names)
        if names and len(names) != drawn:
            raise UserError(
                f"data.classes={self.classes} has {len(names)} names, and the synthetic set has {drawn} "
                f"classes. Give data.phantom.classes={len(names)}, or leave data.classes out."
            )
        if len(names) <= len(CLASS_NAMES) and not self.multilabel:
            return
        for name in names:
            if not name.strip() or not name.isprintable() or len(name) > MOST_NAME_CHARS:
                raise UserError(
                    f"data.classes has the name {name[:MOST_NAME_CHARS]!r}. A class needs a name of 1 to "
                    f"{MOST_NAME_CHARS} printable characters."
                )
        seen: dict[str, str] = {}
        for name in names:
            for key in (" ".join(name.split()).casefold(), class_metric(name).casefold()):
                if seen.setdefault(key, name) != name or names.count(name) > 1:
                    raise UserError(
                        f"data.classes={self.classes} has the names {seen[key]!r} and {name!r}, which are "
                        "one name in labels or in the names of metrics. Give each class a different name."
                    )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class, in the order of the labels 0 to K-1.

        Two classes are always NORMAL and PNEUMONIA: data.classes says then what the set calls them.
        """
        if self.multilabel and self.classes is None:
            return FINDINGS[self.name]
        if self.classes is not None and (self.multilabel or len(self.classes) > len(CLASS_NAMES)):
            return tuple(" ".join(str(name).split()) for name in self.classes)
        return self.phantom.class_names if self.layout == "drawn" else CLASS_NAMES

    @property
    def multilabel(self) -> bool:
        """Several findings an image instead of one class?"""
        return self.task == "multilabel"

    @property
    def stratum_names(self) -> tuple[str, ...]:
        """What splits and samplers balance: the classes, or no finding and each image's rarest finding."""
        return (NO_FINDING, *self.class_names) if self.multilabel else self.class_names

    @property
    def layout(self) -> str:
        """One of the values of LAYOUTS."""
        return LAYOUTS[self.name]

    @property
    def pixel_rule(self) -> int:
        """How images are decoded, cropped and scaled: `pixels`, or the newest rule."""
        return PIXELS if self.pixels is None else self.pixels


SAMPLERS = ("shuffle", "imbalanced", "weighted")  # what they do is in pneumo.data.loader, which imports torch


@dataclass(kw_only=True)
class SamplerSettings:
    name: str = "imbalanced"
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        one_of("sampler", self.name, SAMPLERS)
        if self.smoothing < 0:
            raise UserError(f"sampler.smoothing={self.smoothing} must not be negative; 0 means none.")


@dataclass(kw_only=True)
class AugmentSettings:
    """Strengths of the batched augmentation; 0 switches an operation off (see pneumo.data.augment)."""

    name: str = "strong"
    rotate_deg: float = 15.0
    translate: float = 0.08
    scale: float = 0.15
    scale_each_axis: bool = True
    flip_p: float = 0.25
    brightness: float = 0.3
    contrast: float = 0.3
    gamma: float = 0.4
    blur_p: float = 0.0
    blur_sigma_min: float = 0.1
    blur_sigma_max: float = 0.6
    degrade_p: float = 0.25
    noise_p: float = 0.0
    noise_std: float = 0.0
    erase_p: float = 0.5
    erase_min: float = 0.1
    erase_max: float = 0.35

    def __post_init__(self) -> None:
        for key in ("flip_p", "blur_p", "degrade_p", "noise_p", "erase_p"):
            if not 0 <= getattr(self, key) <= 1:
                raise UserError(f"augment.{key}={getattr(self, key)} is a probability: give 0 to 1.")
        for key in (
            "rotate_deg",
            "translate",
            "brightness",
            "contrast",
            "gamma",
            "noise_std",
            "blur_sigma_min",
        ):
            if getattr(self, key) < 0:
                raise UserError(f"augment.{key}={getattr(self, key)} must not be negative; 0 means none.")
        for key in ("brightness", "contrast"):
            if getattr(self, key) > 1:
                raise UserError(
                    f"augment.{key}={getattr(self, key)} must be at most 1: a larger one draws factors below "
                    "0, which invert or blacken the image."
                )
        if not 0 <= self.scale < 1:
            raise UserError(
                f"augment.scale={self.scale} must be at least 0 and below 1; 0.15 draws 0.85 to 1.15."
            )
        if not 0 < self.erase_min <= self.erase_max <= 1:
            raise UserError(
                f"augment.erase_min={self.erase_min} and augment.erase_max={self.erase_max} are fractions "
                "of a side, the first at most the second."
            )
        if not 0 <= self.blur_sigma_min <= self.blur_sigma_max:
            raise UserError(
                f"augment.blur_sigma_min={self.blur_sigma_min} must be between 0 and "
                f"augment.blur_sigma_max={self.blur_sigma_max}."
            )
