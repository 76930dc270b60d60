"""`pneumo runs recalibrate MODEL data=csv data.root=DIR`: a model's calibration and threshold for a new site.

The labelled images of the site choose them (pneumo.inference.recalibration). The result is a new version of
the registered model, or a new model folder. The same command again finds it and makes no second one.
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pneumo import UserError, config, run_scores
from pneumo.data import cache, images, manifest, phantom, splits, training_images
from pneumo.data.cache import BadImages, ImageCache
from pneumo.data.limits import BadImage
from pneumo.data.manifest import Manifest
from pneumo.data.settings import DataSettings
from pneumo.data.training_images import KnownImages
from pneumo.evaluation.multilabel import UNKNOWN
from pneumo.evaluation.predictions import SplitResult
from pneumo.files import sha256
from pneumo.inference import labelled_set, model_folder, recalibration, registration
from pneumo.inference.bundle import Bundle, Floats
from pneumo.inference.predictor import Predictor, PreparedImage, device_of
from pneumo.inference.recalibration import CrossFitted
from pneumo.names import (
    CONFIG,
    DATA_DIGEST_TAG,
    MODEL_FACTS,
    PIXELS_TAG,
    RECALIBRATED_TAG,
    SITE_COUNTS_TAG,
    SITE_TAG,
    TRAINING_IMAGES,
)
from pneumo.run_lookup import model_of, run_id_of
from pneumo.text import table
from pneumo.tracking.reading import TrackedRun
from pneumo.tracking.registry import Registry, resolve
from pneumo.tracking.settings import TrackingSettings

DEFAULT_NAME = "pneumo"
FORCE = "force=true moves it anyway"


@dataclass(kw_only=True)
class Request:
    """Which model to recalibrate on which images, and what becomes of it."""

    which: str
    alias: str | None
    name: str | None
    force: bool
    wheel: str | None
    output: str | None
    output_dir: str
    cache_dir: str
    device: str
    data: DataSettings
    tracking: TrackingSettings


@dataclass(kw_only=True)
class Parent:
    """The model to recalibrate, and what it is called."""

    bundle: Bundle
    called: str
    name: str  # of the registered model
    registry: Registry | None  # None: there is no tracker, which a folder does not need
    run: TrackedRun | None  # None: a folder
    artifacts: list[Path]  # folders that may have the run's record of its training images, or its config


@dataclass(kw_only=True)
class Site:
    """The labelled images of the site."""

    manifest: Manifest
    hashes: dict[str, str]  # of the bytes of each image
    patients: list[str | None]
    digest: str
    settings: DataSettings


def recalibrate(request: Request) -> int:
    """Register or write the recalibrated model; 0 also if it was there before."""
    wheel = Path(request.wheel).expanduser() if request.wheel else None
    parent = _parent(request)
    registration.check_names(parent.name, request.alias, wheel)
    if parent.run and not request.output:
        registration.refuse_unfit(parent.run, request.force)
    site = _site(request, parent)
    if (line := _made_before(request, parent, site)) is not None:
        print(line)
        return 0
    if request.alias:
        _refuse_other_network(parent, request.alias, request.force)
    labels = labelled_set.labels_of(site.manifest)
    kept = recalibration.refuse_few(parent.bundle.class_names, labels, site.patients)
    rows, unlike = score(parent.bundle, site, device_of(request.device))
    made = recalibration.recalibrated(
        parent.bundle, rows, name=parent.called, digest=site.digest, unlike=unlike
    )
    _print_before_and_after(parent.bundle, made, rows, kept)
    if request.output:
        folder = Path(request.output).expanduser()
        model_folder.write(made, folder)
        print(f"{folder}: {made.site_words}")
        print(f"use it: pneumo predict model={folder} input=DIR")
        return 0
    assert parent.registry is not None and parent.run is not None and made.site is not None
    counts = {key: made.site[key] for key in ("images", "patients", "images_of", "patients_of")}
    tags = {
        **registration.tags_of(made),
        RECALIBRATED_TAG: parent.called,
        SITE_TAG: site.digest,
        SITE_COUNTS_TAG: json.dumps(counts),
    }
    version = registration.upload(parent.registry, parent.run, made, parent.name, tags, wheel)
    pointed = _point(parent, request.alias, version)
    print(f"{parent.name} {version}: registered, {made.site_words}; {pointed}")
    named = f"@{request.alias}" if request.alias else f"/{version}"
    print(f"use it: pneumo predict model=models:/{parent.name}{named} input=DIR")
    return 0


# ---- the model


def _parent(request: Request) -> Parent:
    uri, which = request.tracking.uri or "", request.which
    found = resolve(model_of(which, request.output_dir, uri), uri, Path(request.cache_dir))
    bundle = model_folder.read(found.folder, found.version)
    run_id = found.run_id or bundle.run_id
    if run_id is None and not request.output:
        try:
            run_id = run_id_of(request.output_dir, which, uri)
        except UserError as error:
            raise UserError(
                f"{which} is not a model of the tracker, so it cannot get a new version ({error}). Give "
                "output=DIR to write the recalibrated model as a folder."
            ) from None
    registry, run = None, None
    artifacts = [bundle.weights.parent.parent]
    try:
        registry = Registry(uri, Path(request.cache_dir))
        run = registry.run(run_id) if run_id else None
        if run is not None:
            with suppress(UserError):
                artifacts.append(registry.run_folder(run))
    except UserError:
        if not request.output:
            raise
    registered = which.startswith("models:/")
    called = found.version if registered else f"run {run_id}" if run_id else f"model {bundle.fingerprint}"
    name = found.version.rpartition(" ")[0] if registered else ""
    return Parent(
        bundle=bundle,
        called=called,
        name=request.name or name or DEFAULT_NAME,
        registry=registry,
        run=run,
        artifacts=artifacts,
    )


def _refuse_other_network(parent: Parent, alias: str, force: bool) -> None:
    """UserError if `alias` names a model with other weights: nothing here compares two networks."""
    assert parent.registry is not None
    holder = parent.registry.holder(parent.name, alias)
    if holder is None or force:
        return
    old = model_folder.read(holder.folder, holder.version)
    if sha256(old.weights) != sha256(parent.bundle.weights):
        raise UserError(
            f"{holder.version}, which has the alias {alias}, is another network than {parent.called}: a "
            f"recalibration does not compare the two. Give another alias; {FORCE}."
        )


def _point(parent: Parent, alias: str | None, version: str) -> str:
    """Let `alias` point to `version`; words on it."""
    if alias is None:
        return "no alias was moved (alias=NAME gives it one)"
    assert parent.registry is not None
    name = parent.name
    try:
        parent.registry.set_alias(name, alias, version)
    except UserError as error:
        raise UserError(f"{name} {version} is registered, but without the alias {alias}: {error}") from None
    return f"{alias} points to it"


def _made_before(request: Request, parent: Parent, site: Site) -> str | None:
    """What an equal command made, in words, with the alias if one is asked for; None: nothing."""
    if request.output:
        folder = Path(request.output).expanduser()
        if (folder / MODEL_FACTS).is_file():
            old = model_folder.read(folder)
            same = old.site is not None and old.site["digest"] == site.digest
            if same and sha256(old.weights) == sha256(parent.bundle.weights):
                return f"{folder} is already {old.site_words}: nothing to do"
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"output={folder} exists and holds something else; name a new folder.")
        return None
    assert parent.registry is not None and parent.run is not None
    registry = parent.registry
    known = registry.version_of(parent.name, parent.run.run_id, site.digest)
    if known is None:
        return None
    old_alias = registry.version_at(parent.name, request.alias) if request.alias else known
    already = f"{parent.name} {known} is already this network, recalibrated on these images"
    if old_alias == known:
        return f"{already}: nothing to do"
    assert request.alias is not None
    _refuse_other_network(parent, request.alias, request.force)
    return f"{already}; {_point(parent, request.alias, known)}"


# ---- the site's images


def _site(request: Request, parent: Parent) -> Site:
    """The site's images and labels, checked; UserError for images that the model knows."""
    bundle, settings = parent.bundle, replace(request.data, val_protocol="patient", fold=None)
    settings.cache_dir = settings.cache_dir or request.cache_dir
    settings = labelled_set.with_classes(settings, bundle)
    found = manifest.labelled(settings)
    labelled_set.refuse_other_classes(bundle, found)
    for note in found.notes:
        print(f"note: {note}")
    hashes, bad = _hashes(found, settings)
    _leave_out(found, bad, settings)
    if messages := manifest.content_problems(found, hashes):
        raise UserError("\n".join(messages))
    named = [name if isinstance(name, str) else None for name in found.table["patient"].tolist()]
    if None in named:
        print(
            f"note: {named.count(None):,} images have no patient (data.patient): each counts as one patient"
        )
    every = found.table["split"].notna()
    if joined := splits.joined_by_copies(found.table, hashes, every):
        named = joined[0].tolist()
        print(f"note: {joined[1]:,} images have the bytes of another patient's: such patients count as one")
    site = Site(
        manifest=found,
        hashes=hashes,
        patients=named,
        digest=manifest.digests(found, hashes)["test_set"],
        settings=settings,
    )
    _refuse_known(parent, site)
    return site


def _hashes(found: Manifest, settings: DataSettings) -> tuple[dict[str, str], list[BadImage]]:
    paths = found.table["path"].tolist()
    if settings.layout == "drawn":
        base = phantom.digest(settings.phantom)
        return {path: hashlib.sha256(f"{base} {path}".encode()).hexdigest() for path in paths}, []
    folder = Path(str(settings.cache_dir)).expanduser()
    by_file, bad = cache.content_hashes(found.root, list(dict.fromkeys(map(found.file_of, paths))), folder)
    return {path: by_file[found.file_of(path)] for path in paths if found.file_of(path) in by_file}, bad


def _leave_out(found: Manifest, bad: list[BadImage], settings: DataSettings) -> None:
    """Take unreadable files out of the set; UserError with data.on_bad_image=error."""
    if not bad:
        return
    if settings.on_bad_image == "error":
        raise BadImages(bad, cache.bad_file(found, settings))
    unread = {image.path for image in bad}
    files = found.table["path"].map(found.file_of)
    found.table = found.table[~files.isin(unread)].reset_index(drop=True)
    print(f"note: {len(bad):,} unreadable images are left out (data.on_bad_image=skip)")


def _refuse_known(parent: Parent, site: Site) -> None:
    """UserError for images that trained the model or chose its epoch; a note on what cannot be compared."""
    known = _known_images(parent, site)
    if known is None:
        print(
            "note: whether the model was trained on these images is not known: its run keeps no record of it"
        )
        return
    nothing = np.zeros((0, 1, 1), np.uint8)
    data = ImageCache(site.manifest, nothing, np.zeros(0, np.int64), "", [], [], 0, hashes=site.hashes)
    found = training_images.overlap(known, data, site.settings.patient_namespace)
    if found.paths:
        raise UserError(
            f"{parent.called} knows images of this set from its training: {training_images.shown(found)}. "
            "Take them out of the set: a calibration on images that the network has learnt is too confident."
        )
    for what in found.unchecked:
        print(f"note: not compared with the training set: {what}")


def _known_images(parent: Parent, site: Site) -> KnownImages | None:
    """The run's record of its training images, or what the training set on this machine gives."""
    for folder in parent.artifacts:
        if (folder / TRAINING_IMAGES).is_file():
            return KnownImages.read(folder / TRAINING_IMAGES)
    tags = {DATA_DIGEST_TAG: parent.bundle.data_digest, PIXELS_TAG: str(parent.bundle.pixel_rule)}
    for folder in parent.artifacts:
        if (folder / CONFIG).is_file():
            with suppress(UserError):
                naming = config.from_saved(folder / CONFIG).data
                _, data = run_scores.images_again(
                    folder, tags, parent.called, root=None, cache_dir=site.settings.cache_dir
                )
                return KnownImages.of(data, naming)
    return None


def score(bundle: Bundle, site: Site, device: str) -> tuple[SplitResult, NDArray[np.bool_]]:
    """The network's probabilities of all images, prepared as `pneumo predict` does, and which look unlike."""
    predictor = Predictor(bundle, device=device, num_workers=site.settings.num_workers, coverage=None)
    found = site.manifest
    together = predictor.files_per_batch(64) * predictor.workers

    def prepare(path: str) -> PreparedImage | BadImage:
        try:
            if site.settings.layout == "drawn":
                grey = images.preprocess(phantom.render(path, site.settings.phantom), **bundle.preprocess)
                return PreparedImage(grey, grey, 0.0)
            file = found.root / found.file_of(path)
            return predictor.time_limit.run(file, lambda: predictor.prepare(file))
        except BadImage as error:
            return BadImage(found.file_of(path), error.reason)

    paths = found.table["path"].tolist()
    chances: list[Floats] = []
    unlike: list[bool] = []
    good: list[int] = []
    bad: list[BadImage] = []
    with tqdm(total=len(paths), desc="Score", disable=None, leave=False) as bar:
        for start in range(0, len(paths), together):
            some = paths[start : start + together]
            read = list(predictor.pool.map(prepare, some))
            ready = [one for one in read if isinstance(one, PreparedImage)]
            bad += [one for one in read if isinstance(one, BadImage)]
            good += [start + row for row, one in enumerate(read) if isinstance(one, PreparedImage)]
            if ready:
                raw, doubts = predictor.raw(ready)
                chances.append(raw)
                unlike += [bool(doubt.reasons) for doubt in doubts]
            bar.update(len(some))
    labels = labelled_set.labels_of(found)[good]
    _leave_out(found, bad, site.settings)
    subgroups = found.subgroups
    kept = [paths[row] for row in good]
    rows = SplitResult(
        paths=kept,
        patients=[site.patients[row] for row in good],
        labels=labels,
        probabilities=np.concatenate(chances) if chances else np.zeros(0),
        class_names=tuple(bundle.class_names),
        subgroups={str(name): subgroups[name].loc[kept].tolist() for name in subgroups.columns},
    )
    if not np.isfinite(rows.probabilities).all():
        raise UserError(f"{bundle.version} gives probabilities that are not finite on {found.root}.")
    return rows, np.array(unlike, dtype=bool)


# ---- what changes


def _print_before_and_after(parent: Bundle, made: Bundle, rows: SplitResult, kept: list[str]) -> None:
    """Print what the parent and the recalibrated model give on the site's images."""
    assert made.site is not None
    chances, reached = recalibration.applied(parent, rows.probabilities)
    before = CrossFitted(chances=chances, reached=reached)
    after = CrossFitted.of(parent, rows, kept)
    print(
        f"{made.site_images}; {made.site['unlike']:,} look unlike the training images, so that predict "
        "withholds their decision"
    )
    lines = [
        {
            "on the site": "mean log-loss",
            "before": recalibration.mean_log_loss(rows.labels, before.chances),
            "after (cross-fitted)": recalibration.mean_log_loss(rows.labels, after.chances),
        }
    ]
    names = rows.class_names if parent.many else rows.class_names[1:]
    for name in names:
        k = rows.class_names.index(name)
        labels = rows.labels[:, k] if rows.multilabel else rows.labels
        own = labels == (1 if rows.multilabel else k)
        others = ~own & (labels != UNKNOWN)
        for words, mask in ((f"{name}: found", own), (f"{name}: flagged among the others", others)):
            if mask.any():
                shares = [
                    (one.reached[:, k] if parent.many else one.reached)[mask].mean()
                    for one in (before, after)
                ]
                lines.append({"on the site": words, "before": shares[0], "after (cross-fitted)": shares[1]})
    print(table(lines))
    if blind := _not_told_apart(made):
        print(
            f"note: the network does not tell {', '.join(blind)} apart on the site (95 % interval of the "
            "AUROC reaches 0.5). No calibration changes that: the threshold flags most of the others, too."
        )
    if kept:
        fewest = recalibration.FEWEST_PATIENTS
        print(
            f"note: fewer than {fewest} patients have, or lack, {', '.join(kept)}: calibration and threshold "
            "stay as they were"
        )


def _not_told_apart(made: Bundle) -> list[str]:
    """The classes or findings whose AUROC on the site may be that of a coin."""
    of_class = made.class_figures if made.many else {made.class_names[1]: made.figures}
    return [name for name, known in (of_class or {}).items() if (known["auroc"]["low"] or 0.5) <= 0.5]
