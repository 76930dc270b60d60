"""Finished runs that may be compared: read from tracking, and sorted out by what they were scored on."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from pneumo import UserError, fingerprint
from pneumo.comparison.content import EpochScores, LeftOut, SplitSize, Unscored
from pneumo.data import manifest
from pneumo.data.pseudonyms import is_pseudonym
from pneumo.data.settings import DataSettings, PhantomSettings
from pneumo.evaluation.multiclass import checked_of
from pneumo.evaluation.predictions import SplitResult, read_any_predictions
from pneumo.names import (
    CLASS_NAMES,
    CLASSES_TAG,
    COMMIT_TAG,
    CONFIG,
    CORE_TAG,
    DATA_DIGEST_TAG,
    DIRTY_TAG,
    EXTERNAL_TAG,
    FINGERPRINT_TAG,
    MIXED_TAG,
    PIXELS_TAG,
    POOL_TAG,
    PROTOCOL_TAG,
    SYNTHETIC_TAG,
    TASK_TAG,
    TEST_PREDICTIONS,
    TEST_SELECTED,
    TEST_SET_TAG,
    VAL_PREDICTIONS,
)
from pneumo.text import first_line
from pneumo.tracking.reading import Found, Reader, TrackedRun

NEEDED = (VAL_PREDICTIONS, CONFIG)
# Ten times as fast as OmegaConf, and a run's own file has nothing left to resolve.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(kw_only=True)
class Candidate:
    """A finished run that may be compared."""

    run_id: str
    name: str
    seed: int
    config: dict[str, Any]  # flat: what can change the result, without the seed
    protocol: str
    digest: str
    test: SplitResult  # what is compared
    val: SplitResult
    saved: dict[str, Any] = field(default_factory=dict)  # the whole configuration
    scored: bool = True  # False: never scored on the test images; `test` then holds the validation images
    test_set: str = ""  # identifies the test set, if recorded
    pool: str = ""  # identifies the images outside the test set, if recorded
    fingerprint: str = ""
    started_ms: int = 0
    epoch: int | None = None
    history: list[EpochScores] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    commit: str | None = None
    device: str | None = None
    precision: str | None = None
    weights_bytes: int | None = None
    measured: dict[str, float] = field(default_factory=dict)  # time/... (median), memory/... (peak)
    external_sets: list[str] = field(default_factory=list)  # the other sets that it was scored on
    synthetic: bool = False
    data_name: str | None = None
    data_root: str | None = None  # where the run found its images
    images: dict[str, dict[str, int]] = field(default_factory=dict)  # by split and class, if recorded
    patients: dict[str, int] = field(default_factory=dict)  # by split, if recorded
    parts: list["Candidate"] = field(default_factory=list)  # of a cross-validation: its folds' runs
    ensemble: SplitResult | None = None  # of a cross-validation: its networks' mean on test, if scored
    temperature: float | list[float] | None = None  # of a fold's network, which its `val` has already
    external: bool = False  # `test` is another set, which chose no epoch

    @property
    def split(self) -> str:
        """Identifies the train/validation split, by its validation images."""
        return hashlib.sha256("\n".join(sorted(self.val.paths)).encode(errors="surrogateescape")).hexdigest()

    @property
    def on_validation(self) -> bool:
        """Is it compared on its validation images?"""
        return self.test is self.val

    @property
    def optimistic(self) -> bool:
        return self.protocol == TEST_SELECTED and not self.external


def read(found: Found, reader: Reader) -> tuple[list[Candidate], list[LeftOut]]:
    """The finished runs as candidates, and the runs that cannot be one, each with the reason."""
    _refuse_other_tasks(found.runs)
    candidates: list[Candidate] = []
    left_out: list[LeftOut] = [
        {"run": run.name, "reason": f"not finished: {run.status.lower()}"} for run in found.unfinished
    ]
    left_out += [
        {"run": job, "reason": "a job of the sweep whose run is not in this experiment"}
        for job in found.missing
    ]
    for run in found.runs:
        needed = NEEDED if _unscored(run) else (TEST_PREDICTIONS, *NEEDED)
        missing = ", ".join(name for name in needed if name not in run.files)
        if missing:
            reason = f"its artifacts are incomplete: {missing} missing (pneumo runs sync)"
            if run.trouble:
                reason = f"its artifacts cannot be fetched: {run.trouble}"
            left_out.append({"run": run.name, "reason": reason})
            continue
        if PROTOCOL_TAG not in run.tags:
            reason = f"it has no tag {PROTOCOL_TAG}, so nobody knows which images chose its epoch"
            left_out.append({"run": run.name, "reason": reason})
            continue
        try:
            candidates.append(of_run(run, partial(reader.history, run)))
        except UserError as error:
            left_out.append({"run": run.name, "reason": f"its artifacts cannot be read: {error}"})
    return candidates, left_out


def _refuse_other_tasks(runs: Sequence[TrackedRun]) -> None:
    """Raise UserError for runs that tell different classes apart, or look for different findings."""
    tasks = Counter((run.tags.get(TASK_TAG, ""), run.tags.get(CLASSES_TAG, _TWO)) for run in runs)
    if len(tasks) > 1:
        parts = []
        for (task, classes), count in tasks.items():
            names, kind = _class_names(classes), " findings" if task else ""
            parts.append(f"{count} run{'s' * (count != 1)} with {len(names)}{kind} ({_shown(names)})")
        raise UserError(
            f"the runs tell different classes apart: {'; '.join(sorted(parts))}. Their scores answer "
            "different questions; compare each group alone, by sweep_id=ID or in a separate experiment."
        )


_TWO = json.dumps(CLASS_NAMES)


def _class_names(text: str) -> list[str]:
    try:
        names = json.loads(text)
    except ValueError:
        names = []
    return [str(name) for name in names] if isinstance(names, list) else []


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _unscored(run: TrackedRun) -> bool:
    """Was the run told to leave the test images alone (trainer.score_test)?"""
    try:
        trainer = _config(run.files.get(CONFIG, "")).get("trainer")
    except UserError:
        return False
    return isinstance(trainer, dict) and trainer.get("score_test", True) is not True


def _version(run: TrackedRun, tag: str) -> int:
    """A version that a run recorded; version 0.1 recorded none, which means 1."""
    text = run.tags.get(tag, "1")
    return int(text) if text.isdigit() else 1


def of_run(run: TrackedRun, history: Callable[[], list[EpochScores]]) -> Candidate:
    """A finished run as a candidate. `history` gives its epochs where its own facts lack them.

    Raises UserError for artifacts that cannot be read.
    """
    config = _config(run.files[CONFIG])
    core, pixels = (_version(run, tag) for tag in (CORE_TAG, PIXELS_TAG))
    settings = fingerprint.relevant(config, core, pixels)
    seed = int(settings.pop("seed", 0))
    val = read_any_predictions(run.files[VAL_PREDICTIONS])
    scored = TEST_PREDICTIONS in run.files
    test = read_any_predictions(run.files[TEST_PREDICTIONS]) if scored else val
    for split in (test, val):
        checked_of(split.labels, split.probabilities)
    notes = []
    if settings.get("trainer.limit_batches"):
        notes.append("Some runs are smoke runs: they used part of every split (trainer.limit_batches).")
    if MIXED_TAG in run.tags:
        notes.append(f"Some runs were continued after a change: {run.tags[MIXED_TAG]}.")
    if run.tags.get(DIRTY_TAG) == "true":
        notes.append("Some runs were made with uncommitted changes in the code.")
    facts = run.facts
    epoch = facts.get("epoch", run.metrics.get("best/epoch"))
    data = config.get("data")
    data = data if isinstance(data, dict) else {}
    return Candidate(
        run_id=run.run_id,
        name=run.name,
        seed=seed,
        config=settings,
        saved=config,
        scored=scored,
        test_set=run.tags.get(TEST_SET_TAG, ""),
        pool=run.tags.get(POOL_TAG, ""),
        protocol=run.tags[PROTOCOL_TAG],
        digest=run.tags.get(DATA_DIGEST_TAG, ""),
        test=test,
        val=val,
        fingerprint=run.tags.get(FINGERPRINT_TAG, ""),
        started_ms=run.started_ms,
        epoch=None if epoch is None else int(epoch),
        history=facts.get("history") or history(),
        notes=notes,
        commit=run.tags.get(COMMIT_TAG),
        device=run.params.get("device"),
        precision=run.params.get("precision"),
        weights_bytes=run.weights_bytes,
        measured=run.measured,
        external_sets=run.tags.get(EXTERNAL_TAG, "").split(),
        synthetic=run.tags.get(SYNTHETIC_TAG) == "true",
        data_name=data.get("name"),
        data_root=data.get("root"),
        images=facts.get("images") or {},
        patients=facts.get("patients") or {},
    )


def _config(text: str) -> dict[str, Any]:
    try:
        config = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, UnicodeError) as error:
        raise UserError(f"{CONFIG} is damaged: {first_line(error)}") from None
    if not isinstance(config, dict):
        raise UserError(f"{CONFIG} does not contain a configuration")
    return {str(key): value for key, value in config.items()}


def sort_out(candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[LeftOut]]:
    """The runs that were scored on the same images, and the others, each with the reason.

    The data set that most runs have wins; of equally many, the one with more test images, then the newest.
    """
    kept = list(candidates)
    left: list[LeftOut] = []

    def keep(key: Callable[[Candidate], Hashable], reason: Callable[[Candidate], str]) -> None:
        nonlocal kept
        order = sorted(kept, key=lambda run: run.started_ms)
        size = {key(run): (len(run.test.paths), run.started_ms) for run in order}
        counted = Counter(key(run) for run in kept)
        chosen = max(counted, key=lambda value: (counted[value], size[value]), default=None)
        left.extend({"run": run.name, "reason": reason(run)} for run in kept if key(run) != chosen)
        kept = [run for run in kept if key(run) == chosen]

    test_sets = _test_sets(kept)
    keep(
        lambda run: test_sets[run.run_id],
        lambda run: f"another test set (data digest {run.digest[:12] or 'missing'}), so other images",
    )
    if not all(run.scored for run in kept):
        kept = [replace(run, test=run.val) for run in kept]
    which = "test" if all(run.scored for run in kept) else "validation"
    keep(
        lambda run: (tuple(run.test.paths), run.test.labels.tobytes()),
        lambda run: (
            f"its {len(run.test.paths)} {which} predictions are of other images "
            f"({'trainer.limit_batches?' if which == 'test' else 'another split'})"
        ),
    )
    keep(
        lambda run: tuple(run.test.patients),
        lambda run: "its predictions name no patients, or not the same patients as the compared runs",
    )
    newest: dict[str, Candidate] = {}
    for run in sorted(kept, key=lambda run: run.started_ms):
        mark = run.fingerprint or run.run_id
        if mark in newest:
            left.append({"run": newest[mark].name, "reason": "the same run was made again later"})
        newest[mark] = run
    return list(newest.values()), left


def _test_sets(candidates: Sequence[Candidate]) -> dict[str, str]:
    """By run id, what identifies the run's test set.

    Newer runs record it. An older run has the test set of a newer one with its data digest, else of one with
    its test images and labels. If there is none, the images and labels of most runs with its digest are it.
    """
    by_digest: dict[str, str] = {}
    by_images: dict[str, str] = {}
    older: dict[str, Counter[str]] = {}
    for run in candidates:
        if run.test_set:
            by_digest.setdefault(run.digest, run.test_set)
            by_images.setdefault(_images(run), run.test_set)
        else:
            older.setdefault(run.digest, Counter())[_images(run)] += 1
    most = {digest: counted.most_common(1)[0][0] for digest, counted in older.items()}
    return {
        run.run_id: run.test_set
        or by_digest.get(run.digest)
        or by_images.get(most[run.digest])
        or most[run.digest]
        for run in candidates
    }


def _images(run: Candidate) -> str:
    rows = zip(run.test.paths, run.test.labels.tolist(), strict=True)
    text = "\n".join(f"{path} {label}" for path, label in sorted(rows))
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def unscored(kept: Sequence[Candidate]) -> list[Unscored]:
    """The runs that were never scored on the test images, each with the command that does it."""
    return [
        {"run": run.name, "command": f"pneumo evaluate model={run.run_id} split=test"}
        for each in kept
        for run in each.parts or [each]
        if not run.scored
    ]


def image_root(kept: Sequence[Candidate], given: str | None) -> Path | None:
    """The folder with the compared images: `given` (data.root), else where the runs found them.

    None if neither has the first test image. Prints a note if `given` does not.
    """
    first = kept[0].test.paths[0]
    for root in (given, *(run.data_root for run in kept)):
        if not root:
            continue
        path = Path(root).expanduser()
        for folder in (path, path / "chest_xray", path / "chest_xray" / "chest_xray"):
            if (folder / first).is_file():
                return folder
    if is_pseudonym(first):
        print("note: the runs hold pseudonyms (data.pseudonymise=true): mistakes are shown without images")
    elif given:
        shown = first.encode(errors="backslashreplace").decode()  # file names may not be UTF-8
        print(f"note: data.root={given} does not contain the test images ({shown}, ...)")
    return None


def phantom(kept: Sequence[Candidate]) -> PhantomSettings | None:
    """The synthetic set that the runs were scored on, if it is one."""
    data = kept[0].saved.get("data")
    if not kept[0].synthetic or not isinstance(data, dict):
        return None
    keys = data.get("phantom")
    names = PhantomSettings.__dataclass_fields__.keys()
    return PhantomSettings(**{k: int(v) for k, v in (keys or {}).items() if k in names})


def split_sizes(kept: Sequence[Candidate], root: Path | None) -> dict[str, SplitSize] | None:
    """Images and patients by split: as a run recorded them, else counted in the images below `root`."""
    many = kept[0].test.many
    for run in kept:
        if run.images and run.patients and many:
            return {
                split: {
                    "images": sum(counts.values()),
                    "classes": dict(counts),
                    "patients": run.patients.get(split) or None,
                }
                for split, counts in run.images.items()
            }
        if run.images and run.patients:
            return {
                split: {
                    "images": sum(counts.values()),
                    "normal": counts.get(CLASS_NAMES[0], 0),
                    "pneumonia": counts.get(CLASS_NAMES[1], 0),
                    "patients": run.patients.get(split) or None,
                }
                for split, counts in run.images.items()
            }
    if many or root is None or not (root / "train").is_dir():
        return None
    settings = DataSettings(name="chest_xray", root=str(root), val_protocol="patient")
    try:
        table = manifest.describe(settings).table
    except UserError:
        return None
    # The validation images of the runs themselves: their split also keeps copies of an image together.
    test, val = set(kept[0].test.paths), set(kept[0].val.paths)
    split_of = table["path"].map(lambda path: "test" if path in test else "val" if path in val else "train")
    return {
        name: {
            "images": len(rows),
            "normal": int((rows["label"] == 0).sum()),
            "pneumonia": int((rows["label"] == 1).sum()),
            "patients": int(rows["patient"].nunique()) or None,
        }
        for name in ("train", "val", "test")
        for rows in [table[split_of == name]]
    }
