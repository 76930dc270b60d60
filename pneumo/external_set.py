"""`pneumo evaluate ... data=csv data.root=DIR`: score finished runs on another labelled set.

The set chooses nothing. Each run keeps its scores in its own record, so the same command goes on after a
kill, and the tracker gets them. Then all runs are compared on the set, beside their own test images.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from pneumo import UserError, config, names, run_scores
from pneumo.comparison import candidates, external, page, result
from pneumo.comparison.candidates import Candidate
from pneumo.comparison.content import Comparison, LeftOut, OverlapRow, Result, all_rows
from pneumo.comparison.external import ExternalRun
from pneumo.data import cache, copies, manifest, training_images
from pneumo.data.cache import ImageCache
from pneumo.data.manifest import Manifest
from pneumo.data.settings import DataSettings
from pneumo.data.training_images import KnownImages, Overlap
from pneumo.evaluation import calibration, statistics, subgroup_statistics, subgroups
from pneumo.evaluation.metrics import all_scores
from pneumo.evaluation.predictions import SplitResult, predictions_csv, read_any_predictions
from pneumo.evaluation.subgroup_statistics import SubgroupResult
from pneumo.files import sha256, write_atomically
from pneumo.inference import labelled_set, model_folder, shift
from pneumo.inference.bundle import Bundle
from pneumo.inference.predictor import device_of
from pneumo.names import SUBGROUP_COLUMNS, plain_column
from pneumo.run_lookup import find_run, find_sweep, sweep_runs
from pneumo.run_overrides import train_again
from pneumo.tracking import recorded_run, registry
from pneumo.tracking.journal import Journal
from pneumo.tracking.reading import Reader, TrackedRun
from pneumo.tracking.registry import Registry
from pneumo.tracking.run_log import RunLog
from pneumo.tracking.settings import TrackingSettings

PREDICTIONS, SCORES = "predictions.csv", "scores.json"
MOST_PICTURES = 30_000  # images of both sets that are compared as pictures
OVERLAP = "overlap.csv"
LISTED = 3  # images of an overlap that the terminal names


@dataclass(kw_only=True)
class Request:
    """What to score on which set."""

    model: str | None
    sweep_id: str | None
    split: str | None
    name: str
    by: list[str] | None
    allow_overlap: bool
    rank_by: str
    margin: float
    draws: int
    seed: int
    output: str | None
    output_dir: str
    cache_dir: str
    device: str
    data: DataSettings
    tracking: TrackingSettings

    @property
    def cache(self) -> str:
        return self.data.cache_dir or self.cache_dir

    @property
    def below(self) -> str:
        """The folder of the set among a run's artifacts."""
        return f"{names.EXTERNAL}/{self.name}"


@dataclass(kw_only=True)
class Model:
    """A finished run with its weights, thresholds and calibration."""

    bundle: Bundle
    run: TrackedRun
    artifacts: Path  # of the run
    folder: Path | None  # of the run on this machine; None: it is in the tracker alone


@dataclass(kw_only=True)
class Scored:
    """A model's scores on the set."""

    model: Model
    result: SplitResult
    unlike: np.ndarray | None
    overlap: OverlapRow


@dataclass
class _Sets:
    """The other set, prepared for each preprocessing, and the sets that the models were trained on."""

    request: Request
    prepared: dict[str, ImageCache] = field(default_factory=dict)
    trained: dict[str, ImageCache | str] = field(default_factory=dict)  # or why there is none
    pictures: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def of(self, bundle: Bundle) -> ImageCache:
        """The other set's images, prepared as for the model."""
        mark = json.dumps([dict(bundle.preprocess), bundle.white], sort_keys=True)
        if mark not in self.prepared:
            settings = _data_settings(self.request, bundle)
            described = _described(settings, self.request)
            self.prepared[mark] = cache.prepare(described, settings, white=bundle.white)
        return self.prepared[mark]

    def trained_on(self, model: Model) -> ImageCache | str:
        """The images that a model was trained on, or why they are not here."""
        mark = model.run.tags.get(names.DATA_DIGEST_TAG, "") + json.dumps(dict(model.bundle.preprocess))
        if mark not in self.trained:
            try:
                _, found = run_scores.images_again(
                    model.artifacts, model.run.tags, model.run.name, root=None, cache_dir=self.request.cache
                )
                self.trained[mark] = found
            except (UserError, KeyError) as error:
                self.trained[mark] = str(error).splitlines()[0]
        return self.trained[mark]

    def overlap(self, model: Model) -> Overlap:
        """What of the other set the model knows from its training."""
        data, trained = self.of(model.bundle), self.trained_on(model)
        known = None
        with suppress(UserError):
            known = KnownImages.read(model.artifacts / names.TRAINING_IMAGES)
        if known is None and isinstance(trained, ImageCache):
            known = KnownImages.of(trained, config.from_saved(model.artifacts / names.CONFIG).data)
        if known is None:
            return Overlap(unchecked=["images and patients: the run keeps no record of its training images"])
        found = training_images.overlap(known, data, self.request.data.patient_namespace)
        if isinstance(trained, str):
            found.unchecked.append("pictures that were saved again: the training images are not here")
        elif data.images.shape[1] < copies.LEAST_SIDE:
            found.unchecked.append(
                f"pictures that were saved again: below {copies.LEAST_SIDE} px they cannot be told apart"
            )
        elif len(data.rows) + len(trained.rows) > MOST_PICTURES:
            found.unchecked.append("pictures that were saved again: there are too many images")
        else:
            mark = (trained.digest, json.dumps(dict(model.bundle.preprocess)))
            if mark not in self.pictures:
                self.pictures[mark] = training_images.known_pictures(trained, data)
            found.pictures = [path for path in self.pictures[mark] if path not in found.images]
        return found


def evaluate(request: Request) -> int:
    """Score the models on the set, store the scores, and write the page; 1 if something was left out."""
    models, left_out = _models(request)
    if not models:
        reasons = "".join(f"\n  {one['run']}: {one['reason']}" for one in left_out)
        raise UserError(f"no run can be scored on {request.name}.{reasons}")
    device = device_of(request.device)
    sets = _Sets(request)
    scored: list[Scored] = []
    unsent = 0
    for number, model in enumerate(models, start=1):
        one, left = _score(request, model, sets, device, f"{number} of {len(models)}")
        scored.append(one)
        unsent += left
    scored = _comparable(scored, left_out)
    built = _compare(request, scored, left_out, sets, device)
    unsent += _write(request, built, scored, sets)
    for missing in left_out:
        print(f"not scored: {missing['run']}: {missing['reason']}")
    return 1 if left_out or unsent else 0


# ---- which models


def _models(request: Request) -> tuple[list[Model], list[LeftOut]]:
    uri = request.tracking.uri or ""
    if request.sweep_id is None:
        return [_model(request, str(request.model), uri)], []
    found: list[Model] = []
    left_out: list[LeftOut] = []
    for folder in sweep_runs(request.output_dir, request.sweep_id):
        run = recorded_run.read(folder, uri)
        if run.status != "FINISHED":
            left_out.append({"run": run.name, "reason": f"not finished: {run.status.lower()}"})
        elif not (folder / "artifacts" / names.BEST_WEIGHTS).is_file():
            reason = f"its weights were deleted (keep_best); train it again: {train_again(folder)}"
            left_out.append({"run": run.name, "reason": reason})
        else:
            found.append(_of_folder(folder, run))
    return found, left_out


def _of_folder(folder: Path, run: TrackedRun) -> Model:
    artifacts = folder / "artifacts"
    return Model(
        bundle=model_folder.from_run(artifacts, run_id=run.run_id, version=run.name),
        run=run,
        artifacts=artifacts,
        folder=folder,
    )


def _model(request: Request, model: str, uri: str) -> Model:
    """The model that `model` names: a run on this machine, or one in the tracker or its registry."""
    if not model.startswith(("models:/", "runs:/")):
        folder = None
        with suppress(UserError):  # it may be in the tracker alone
            folder = find_run(request.output_dir, model, uri)
        if folder is not None:
            run = recorded_run.read(folder, uri)
            if run.status != "FINISHED":
                raise UserError(f"{run.name} is {run.status}: only a finished run is scored on other images.")
            return _of_folder(folder, run)
    resolved = registry.resolve(model, uri, Path(request.cache_dir))
    bundle = model_folder.read(resolved.folder, version=resolved.version)
    run_id = resolved.run_id or bundle.run_id
    if run_id is None:
        raise UserError(
            f"model={model} does not say which run made it, so its own test images are not known. Give the "
            "run, or the model by its name in the registry."
        )
    with suppress(UserError):
        folder = find_run(request.output_dir, run_id, uri)
        run = recorded_run.read(folder, uri)
        return Model(bundle=bundle, run=run, artifacts=folder / "artifacts", folder=folder)
    store = Registry(uri, Path(request.cache_dir))
    run = store.run(run_id)
    artifacts = store.run_folder(run)
    for name in (names.TEST_PREDICTIONS, names.VAL_PREDICTIONS, names.CONFIG, names.BEST_FACTS):
        with suppress(OSError):
            run.files[name] = (artifacts / name).read_text("utf-8", "surrogateescape")
    return Model(bundle=bundle, run=run, artifacts=artifacts, folder=None)


# ---- the set


def _data_settings(request: Request, bundle: Bundle) -> DataSettings:
    """The set's settings, with the model's classes where none are given, and the model's preprocessing."""
    return replace(
        labelled_set.with_classes(request.data, bundle),
        image_size=bundle.image_size,
        crop_black=bundle.preprocess["crop_black"],
        equalize=bundle.preprocess["equalize"],
        pixels=bundle.pixel_rule,
        val_protocol="patient",
        cache_dir=request.cache,
    )


def _described(settings: DataSettings, request: Request) -> Manifest:
    """The set's images and labels, with the columns that `by` names."""
    found = manifest.labelled(settings, request.split)
    wanted = [column.name for by in request.by or () for column in subgroups.parse_by(by)]
    known = {str(name) for name in found.subgroups.columns}
    plain = {plain_column(name) for name in known}
    alike = {name: {plain_column(name), *SUBGROUP_COLUMNS.get(name.lower(), ())} for name in wanted}
    missing = [name for name in wanted if name not in known and plain.isdisjoint(alike[name])]
    if missing and settings.layout == "table":
        kept = [*map(str, found.subgroups.columns), *missing]
        asked = replace(settings, columns=replace(settings.columns, subgroups=kept))
        found = manifest.labelled(asked, request.split)
    elif missing:
        raise UserError(
            f"by names {', '.join(missing)}, and data={settings.name} has no table with such a column. "
            "data=csv reads tables."
        )
    return found


# ---- scores


def _score(request: Request, model: Model, sets: _Sets, device: str, place: str) -> tuple[Scored, int]:
    """The model's scores on the set, from its record or computed now; and 1 if they could not be sent."""
    data = sets.of(model.bundle)
    mark = {"set": data.digest, "weights": sha256(model.bundle.weights), "images": len(data.rows)}
    if (known := _recorded(request, model, mark)) is not None:
        print(f"{place}: {model.run.name}: scored on {request.name} before")
        return known, 0
    overlap = sets.overlap(model)
    if overlap.paths and not request.allow_overlap:
        every = _folder(request) / OVERLAP
        training_images.write(overlap, every)
        raise UserError(
            f"{model.run.name} knows images of {request.name} from its training: "
            f"{training_images.shown(overlap)}. {every} lists all of them. Take them out of the set, or give "
            "allow_overlap=true, which marks the result as not independent."
        )
    found = labelled_set.score(model.bundle, data, device)
    words = training_images.shown(overlap, LISTED)
    row: OverlapRow = {
        "run": model.run.name,
        "images": len(overlap.paths),
        "words": words,
        "unchecked": overlap.unchecked,
    }
    scored = Scored(model=model, result=found.result, unlike=found.unlike, overlap=row)
    figures = _metrics(request, scored)
    unlike = None if found.unlike is None else np.flatnonzero(found.unlike).tolist()
    facts = {**mark, "name": request.name, "overlap": row, "unlike": unlike, "scores": figures}
    left = _store(request, model, predictions_csv(found.result), facts, figures)
    shown = "  ".join(f"{key} {figures[key]:.4f}" for key in ("auroc", "accuracy") if key in figures)
    print(f"{place}: {model.run.name}: {len(data.rows):,} images of {request.name}: {shown}")
    return scored, left


def _kept_in(request: Request, model: Model) -> Path:
    """Where the model's scores on the set are kept: with its run, or for a run elsewhere beside the cache."""
    if model.folder is not None:
        return model.artifacts / request.below
    return Path(request.cache_dir).expanduser() / request.below / model.run.run_id


def _recorded(request: Request, model: Model, mark: dict[str, Any]) -> Scored | None:
    """What an earlier command recorded for this model and set; UserError if the name is of another set."""
    folder = _kept_in(request, model)
    last = f"{request.below}/{SCORES}"
    if model.folder is not None and last not in Journal(model.folder).artifacts:
        return None  # killed before the last of them was recorded
    try:
        facts = json.loads((folder / SCORES).read_text())
        result = read_any_predictions((folder / PREDICTIONS).read_bytes().decode(errors="surrogateescape"))
    except (OSError, ValueError, UserError):
        return None
    if facts.get("weights") == mark["weights"] and facts.get("set") != mark["set"]:
        raise UserError(
            f"name={request.name} is another set already: {model.run.name} was scored on "
            f"{facts.get('images')} images of that name, and these are {mark['images']} images, or have "
            "other labels or patients. Give this set another name=."
        )
    if {key: facts.get(key) for key in mark} != mark:
        return None
    overlap: OverlapRow = facts["overlap"]
    if overlap["images"] and not request.allow_overlap:
        raise UserError(
            f"{model.run.name} knows images of {request.name} from its training: {overlap['words']}. "
            "allow_overlap=true shows the result, which is marked as not independent."
        )
    unlike = None
    if facts["unlike"] is not None:
        unlike = np.zeros(len(result.paths), dtype=bool)
        unlike[facts["unlike"]] = True
    return Scored(model=model, result=result, unlike=unlike, overlap=overlap)


def _metrics(request: Request, scored: Scored) -> dict[str, float]:
    """The scores of a model on the set, as its metrics in MLflow without `external/NAME/`."""
    found, bundle = scored.result, scored.model.bundle
    figures = dict(found.scores())
    calibrated = bundle.calibrated(found.probabilities)
    if not found.many:
        at = all_scores(found.labels, found.probabilities, bundle.raw_threshold)
        figures |= {f"at_threshold/{key}": at[key] for key in ("recall", "specificity", "precision")}
        after = all_scores(found.labels, calibrated)
        figures |= {f"calibrated/{key}": after[key] for key in ("brier", "log_loss", "ece")}
        recalibration = calibration.Recalibration.of(found.labels, calibrated)
        figures |= {
            "calibration_slope": recalibration.slope,
            "calibration_intercept": recalibration.intercept,
        }
    if scored.unlike is not None:
        figures["unlike"] = float(scored.unlike.mean())
    figures["images"] = float(len(found.paths))
    return {key: float(value) for key, value in figures.items() if np.isfinite(value)}


def _store(
    request: Request, model: Model, predictions: bytes, facts: dict[str, Any], figures: dict[str, float]
) -> int:
    """Keep a model's scores, with its run where that is on this machine, and send them; 1 if unsent."""
    target = _kept_in(request, model)
    step = model.bundle.epoch
    content = (json.dumps(facts, indent=1) + "\n").encode()
    if model.folder is None:
        reader = Reader(request.tracking.uri or "")
        with TemporaryDirectory(prefix="pneumo-") as scratch:
            (Path(scratch) / PREDICTIONS).write_bytes(predictions)
            (Path(scratch) / SCORES).write_bytes(content)
            reader.upload(model.run, Path(scratch), (PREDICTIONS, SCORES), request.below)
        values = {f"{request.below}/{key}": value for key, value in figures.items()}
        reader.log_metrics(model.run, values, step)
        reader.set_tag(model.run, names.EXTERNAL_TAG, _with_name(model.run.tags, request.name))
        # Here last, because it says that the tracker has them.
        write_atomically(target / PREDICTIONS, predictions)
        write_atomically(target / SCORES, content)
        return 0
    log = RunLog(model.folder, request.tracking)
    try:
        if not log.journal.hold():
            raise UserError(f"another process works on {model.folder}; wait for it, or stop it first.")
        write_atomically(target / PREDICTIONS, predictions)
        log.journal.metrics({f"{request.below}/{key}": value for key, value in figures.items()}, step)
        log.journal.tags({names.EXTERNAL_TAG: _with_name(log.journal.tags_logged, request.name)})
        log.journal.artifact(f"{request.below}/{PREDICTIONS}")
        # Last, because it says that all the others are there.
        write_atomically(target / SCORES, content)
        log.journal.artifact(f"{request.below}/{SCORES}")
        log.send()
        return 1 if log.sender.finish() else 0
    finally:
        log.close()


def _with_name(tags: Mapping[str, str], name: str) -> str:
    """The tag of the other sets, with one more name."""
    return " ".join(sorted({*tags.get(names.EXTERNAL_TAG, "").split(), name}))


# ---- the comparison


def _comparable(scored: Sequence[Scored], left_out: list[LeftOut]) -> list[Scored]:
    """The models with the classes of most; the others are left out with the reason."""
    tasks = [(one.result.class_names, one.result.multilabel) for one in scored]
    most = max(dict.fromkeys(tasks), key=tasks.count)
    for one, task in zip(scored, tasks, strict=True):
        if task != most:
            reason = f"it tells other classes apart ({', '.join(task[0][:5])}): evaluate it alone"
            left_out.append({"run": one.model.run.name, "reason": reason})
    return [one for one, task in zip(scored, tasks, strict=True) if task == most]


def _candidate(one: Scored, digest: str) -> tuple[Candidate, SplitResult | None]:
    """The run as a candidate whose test set is the other set, and its own test predictions."""
    own = candidates.of_run(one.model.run, lambda: [])
    internal = own.test if own.scored else None
    found = replace(own, test=one.result, test_set=digest, digest=digest, external=True, scored=True)
    found.config.pop("data.fold", None)  # the networks of a cross-validation are one configuration's
    found.config.pop("trainer.select_on", None)
    return found, internal


def _compare(
    request: Request, scored: Sequence[Scored], left_out: list[LeftOut], sets: _Sets, device: str
) -> Comparison:
    data = sets.of(scored[0].model.bundle)
    runs: list[ExternalRun] = []
    for one in scored:
        candidate, internal = _candidate(one, data.digest)
        bundle = one.model.bundle
        runs.append(
            ExternalRun(
                run=candidate,
                internal=internal,
                threshold=None if bundle.many else bundle.raw_threshold,
                calibrated=bundle.calibrated(one.result.probabilities),
                calibration=_calibration(bundle),
                unlike=one.unlike,
            )
        )
    listed = [each.run for each in runs]
    with threadpool_limits(limits=1, user_api="blas"):
        built = result.build(
            listed, rank_by=request.rank_by, margin=request.margin, draws=request.draws, seed=request.seed
        )
        built["external"] = external.compare(
            built,
            runs,
            name=request.name,
            rule=scored[0].model.bundle.threshold_rule,
            overlap=[one.overlap for one in scored],
        )
    if (groups := _subgroups(request, built, runs)) is not None:
        built["external"]["subgroups"], built["external"]["subgroups_of"] = groups
    built["external"]["shift"] = _shift(runs[0], scored[0], sets, device)
    about = result.about(
        listed,
        experiment=request.tracking.experiment,
        sweep=request.sweep_id,
        command=_command(request),
    )
    about["data"], about["synthetic"] = request.data.name, request.data.layout == "drawn"
    return {**built, "about": about, "left_out": left_out, "unscored": [], "splits": None}


def _subgroups(
    request: Request, built: Result, runs: Sequence[ExternalRun]
) -> tuple[SubgroupResult, str] | None:
    """The subgroups of the configuration that validation prefers, else of the first."""
    test = runs[0].run.test
    groups: dict[str, list[str]] = {}
    for column in request.by or test.subgroups:
        try:
            groups |= subgroups.columns_of(column, test.subgroups)
        except UserError as error:
            if request.by:
                raise
            print(f"note: no subgroups of {column}: {error}")
    if test.multilabel or not groups:
        return None
    rows = all_rows(built)
    chosen = built["choice"]["id"] if built["choice"] else rows[0]["id"]
    row = next(row for row in rows if row["id"] == chosen)
    by_id = {each.run.run_id: each for each in runs}
    mine = [by_id[run["run_id"]] for run in row["runs"]]
    found = subgroup_statistics.analyse(
        test.labels,
        [each.run.test.probabilities for each in mine],
        [each.threshold for each in mine if each.threshold is not None],
        test.patients,
        groups,
        draws=request.draws,
        seed=request.seed,
    )
    return found, row["name"]


def _calibration(bundle: Bundle) -> dict[str, Any] | None:
    """The model's calibration; None for several findings, which have one each."""
    if bundle.multilabel:
        return None
    if bundle.calibration is not None:
        return bundle.calibration
    assert bundle.temperature is not None
    return {"kind": "temperature", "slope": 1 / bundle.temperature, "bias": [0.0]}


def _command(request: Request) -> str:
    which = f"sweep_id={request.sweep_id}" if request.sweep_id else f"model={request.model}"
    data = request.data
    given = {
        "data.root": data.root,
        "data.table": data.table,
        "data.positive": data.positive,
        "data.classes": data.classes,
        "data.labels": data.labels or None,
        "data.task": data.task if data.multilabel else None,
        "data.patient_namespace": data.patient_namespace,
        "split": request.split,
        "by": request.by,
        "allow_overlap": True if request.allow_overlap else None,
    }
    keys = [f"{key}={_written(value)}" for key, value in given.items() if value is not None]
    parts = [which, f"data={data.name}", *keys, f"name={request.name}"]
    return " ".join(["pneumo evaluate", *map(shlex.quote, parts)])


def _written(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_written(one)}" for key, one in value.items()) + "}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _shift(run: ExternalRun, one: Scored, sets: _Sets, device: str) -> dict[str, Any]:
    """How the set differs from the own test images of the first model."""
    bundle, data = one.model.bundle, sets.of(one.model.bundle)
    trained = sets.trained_on(one.model)
    rows: dict[str, list[str]] = {"images": ["-", f"{len(one.result.paths):,}"]}
    internal = run.internal
    counted = statistics.patients_of(one.result.patients, np.ones(len(one.result.paths)))
    rows["patients"] = ["-", f"{counted:,}"]
    for label, name in enumerate(bundle.class_names):
        rows[f"share of {name}"] = ["-", f"{100 * _share(one.result, label):.1f} %"]
    if internal is not None:
        rows["images"][0] = f"{len(internal.paths):,}"
        rows["patients"][0] = f"{statistics.patients_of(internal.patients, np.ones(len(internal.paths))):,}"
        for label, name in enumerate(bundle.class_names):
            rows[f"share of {name}"][0] = f"{100 * _share(internal, label):.1f} %"
    for role in SUBGROUP_COLUMNS:
        values = [_described_values(role, split) for split in (internal, one.result)]
        if any(value != "-" for value in values):
            rows[role] = values
    notes, two_sample = [], None
    some = shift.sample(len(data.rows))
    pixels = [None, shift.pixel_figures(data, data.rows[some])]
    if isinstance(trained, ImageCache):
        mine = np.flatnonzero((trained.manifest.table["split"] == "test").to_numpy())
        mine = mine[shift.sample(len(mine))]
        pixels[0] = shift.pixel_figures(trained, trained.rows[mine])
        two_sample = _two_sample(bundle, trained, mine, data, some, device)
    else:
        notes.append(
            "The own test images are not on this machine, so grey levels and features of the two sets are "
            "not compared."
        )
    for key, what in (("level", "mean grey level"), ("contrast", "contrast"), ("aspect", "width to height")):
        rows[f"{what} (prepared)"] = ["-" if part is None else f"{part[key]:.3g}" for part in pixels]  # type: ignore[literal-required]
    return {"rows": rows, "two_sample": two_sample, "notes": notes}


def _share(split: SplitResult, label: int) -> float:
    truth = split.labels[:, label] == 1 if split.multilabel else split.labels == label
    return float(np.mean(truth))


def _described_values(role: str, split: SplitResult | None) -> str:
    """A column of subgroups in a few words: the median of numbers, else the shares."""
    if split is None:
        return "-"
    known = SUBGROUP_COLUMNS[role]
    values = next((held for name, held in split.subgroups.items() if plain_column(name) in known), None)
    if not values:
        return "-"
    filled = [value.strip() for value in values if value.strip()]
    with suppress(ValueError):
        years = [float(value.upper().removesuffix("Y")) for value in filled]
        low, middle, high = np.quantile(years, (0.05, 0.5, 0.95))
        return f"median {middle:g} (5 to 95 %: {low:g} to {high:g})"
    counted = {value: filled.count(value) for value in sorted(set(filled))}
    return ", ".join(f"{100 * count / len(filled):.0f} % {value}" for value, count in counted.items())


def _two_sample(
    bundle: Bundle, trained: ImageCache, mine: np.ndarray, data: ImageCache, some: np.ndarray, device: str
) -> shift.TwoSampleTest | None:
    own = shift.features_of(bundle, trained, trained.rows[mine], device)
    other = shift.features_of(bundle, data, data.rows[some], device)
    if own is None or other is None or min(len(own), len(other)) < 2 * shift.FOLDS:
        return None
    return shift.two_sample(own, other, _patients(trained, mine), _patients(data, some))


def _patients(data: ImageCache, rows: np.ndarray) -> list[str | None]:
    found = data.manifest.table["patient"].to_numpy()[rows].tolist()
    return [name if isinstance(name, str) else None for name in found]


# ---- the page


def _folder(request: Request) -> Path:
    given = request.output or config.project_dir() / "reports" / f"external-{request.name}"
    return Path(given).expanduser()


def _write(request: Request, built: Comparison, scored: Sequence[Scored], sets: _Sets) -> int:
    """Write the page, and keep it with the sweep's parent or the run; 1 if it could not be sent."""
    data = sets.of(scored[0].model.bundle)
    folder = _folder(request)
    (folder / OVERLAP).unlink(missing_ok=True)  # of a set that was refused
    synthetic = request.data.phantom if request.data.layout == "drawn" else None
    pictures = page.pictures(built["mistakes"], data.manifest.root, synthetic, data.manifest.file_of)
    written = page.write(folder, built, pictures)
    print(written.terminal)
    owner = None
    if request.sweep_id is not None:
        owner = find_sweep(request.output_dir, request.sweep_id)
    elif scored[0].model.folder is not None:
        owner = scored[0].model.folder
    left = 0
    where = f"{request.below}/index.html"
    if owner is not None:
        left = _keep_page(request, owner, folder, written.files)
        print(f"Page: {folder / 'index.html'} (also with {owner.name} in MLflow, {where})")
    else:
        Reader(request.tracking.uri or "").upload(scored[0].model.run, folder, written.files, request.below)
        print(f"Page: {folder / 'index.html'} (also with the run in MLflow, {where})")
    return left


def _keep_page(request: Request, owner: Path, folder: Path, files: Sequence[str]) -> int:
    """Copy the page into the record of a run or of a sweep, and send it; 1 if it could not be sent."""
    log = RunLog(owner, request.tracking)
    try:
        if not log.journal.hold():
            raise UserError(f"another process works on {owner}; wait for it, or stop it first.")
        for name in files:
            write_atomically(owner / "artifacts" / request.below / name, (folder / name).read_bytes())
            log.journal.artifact(f"{request.below}/{name}")
        log.journal.tags({names.EXTERNAL_TAG: _with_name(log.journal.tags_logged, request.name)})
        log.send()
        return 1 if log.sender.finish() else 0
    finally:
        log.close()
