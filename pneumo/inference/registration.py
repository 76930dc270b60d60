"""Register the model of a finished run, unless there is a reason against it."""

import json
import re
import shutil
import zipfile
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory

from pneumo import UserError, __version__
from pneumo.evaluation import contrasts, finding_statistics
from pneumo.evaluation.predictions import SplitResult, read_any_predictions
from pneumo.inference import finding_figures, model_folder, ood, pyfunc, scores
from pneumo.inference.bundle import Bundle
from pneumo.inference.schema import Figure
from pneumo.names import (
    CLASSES_TAG,
    CONFIG,
    DATA_DIGEST_TAG,
    EXTERNAL_TAG,
    FINGERPRINT_TAG,
    PROTOCOL_TAG,
    SYNTHETIC_TAG,
    TASK_TAG,
    TEST_PREDICTIONS,
    TEST_SELECTED,
)
from pneumo.tracking.reading import TrackedRun
from pneumo.tracking.registry import WHEELS, Registry, Resolved

SCORE = "auroc"
FORCE = "force=true registers it anyway"


def register(
    registry: Registry,
    run_id: str,
    *,
    name: str,
    alias: str,
    force: bool,
    wheel: Path | None = None,
    require_external: str | None = None,
) -> str:
    """Register the model of a run and give it `alias`; returns a line that says what was done.

    `wheel` is pneumo's own, for environments that serve the model. `require_external` names another labelled
    set: UserError for a run that was not scored on it, also with `force`.

    Unless `force` is set: UserError for a run that is not finished, whose epoch was chosen on the test
    images, or that is worse than the model that has the alias now.
    """
    check_names(name, alias, wheel)
    run = registry.run(run_id)
    folder = registry.run_folder(run)
    refuse_unfit(run, force)
    scored_on = run.tags.get(EXTERNAL_TAG, "").split()
    if require_external and require_external not in scored_on:
        others = ", ".join(scored_on) or "no other set"
        raise UserError(
            f"run {run_id} was not scored on {require_external} (it was on {others}): pneumo evaluate "
            f"model={run_id} data=csv data.root=DIR name={require_external}."
        )
    candidate = model_folder.from_run(folder, run_id=run_id)
    if not candidate.figures and not force:
        raise UserError(
            f"run {run_id} was not scored on its test set (trainer.score_test=false), so nothing shows how "
            f"good it is. `pneumo evaluate model={run_id} split=test` scores it; {FORCE}."
        )
    if candidate.protocol == TEST_SELECTED and not force:
        raise UserError(_optimistic(run_id))
    holder = registry.holder(name, alias)
    known = registry.version_of(name, run_id)
    if holder and holder.version == f"{name} {known}":
        return f"{name} {known} is already run {run_id}, and {alias} points to it: nothing to do"
    compared = "the first with this alias"
    if holder and not force:
        compared = _compare(registry, run, folder, candidate, holder, alias)
    elif holder:
        compared = f"replaces {holder.version}, forced"
    tags = {
        **tags_of(candidate),
        "pneumo.test_digest": candidate.test_digest,
        "pneumo.test_auroc": _written(candidate.figures[SCORE]) if candidate.figures else "not scored",
        "pneumo.registered": compared,
    }
    if candidate.ood_reference is None:  # a run of an older version: its images may still be there
        with suppress(UserError):
            candidate.ood_reference = ood.fit_again(folder / CONFIG, candidate, str(registry.cache.parent))
    version = upload(registry, run, candidate, name, tags, wheel)
    before = holder.version if holder else None
    compared = _point(registry, run, folder, candidate, name, alias, version, before, force) or compared
    action = "already registered" if known else "registered"
    return f"{name} {version}: {action} from run {run_id}; {alias} points to it ({compared})"


def tags_of(model: Bundle) -> dict[str, str]:
    """The tags of a version that say which network it has."""
    return {
        FINGERPRINT_TAG: model.fingerprint,
        PROTOCOL_TAG: model.protocol,
        DATA_DIGEST_TAG: model.data_digest,
        SYNTHETIC_TAG: str(model.synthetic).lower(),
        **({CLASSES_TAG: json.dumps(model.class_names)} if model.many else {}),
        **({TASK_TAG: str(model.task)} if model.multilabel else {}),
    }


def upload(
    registry: Registry, run: TrackedRun, model: Bundle, name: str, tags: dict[str, str], wheel: Path | None
) -> str:
    """Register a model folder of `model`; its version."""
    with TemporaryDirectory(prefix="pneumo-") as scratch:
        model_folder.write(model, Path(scratch))
        if wheel is not None:
            (Path(scratch) / WHEELS).mkdir()
            shutil.copy(wheel, Path(scratch) / WHEELS / wheel.name)
        spec = pyfunc.serving_spec(model.class_names, model.multilabel)
        return registry.register(Path(scratch), run, name, tags, spec)


def _point(
    registry: Registry,
    run: TrackedRun,
    folder: Path,
    candidate: Bundle,
    name: str,
    alias: str,
    version: str,
    compared_with: str | None,
    force: bool,
) -> str | None:
    """Let `alias` point to `version`; words on the comparison if it had to be made again.

    MLflow cannot set an alias on the condition that it still points where it did. So it is looked at just
    before and just after: what remains is another machine that sets it in the milliseconds between.
    """
    try:
        again, now = None, registry.version_at(name, alias)
        if now is not None and now != version and f"{name} {now}" != compared_with and not force:
            holder = registry.holder(name, alias)
            again = _compare(registry, run, folder, candidate, holder, alias) if holder else None
        registry.set_alias(name, alias, version)
        now = registry.version_at(name, alias)
    except UserError as error:
        raise UserError(f"{name} {version} is registered, but without the alias {alias}: {error}") from None
    if now != version:
        raise UserError(
            f"{name} {version} is registered, but {alias} points to {name} {now}: another machine set it at "
            "the same time. Give the same command again to compare the two."
        )
    return again


def check_names(name: str, alias: str | None, wheel: Path | None) -> None:
    """UserError for a name or an alias that MLflow does not take, or a file that is not pneumo's wheel."""
    if not re.fullmatch(r"[\w .-]{1,100}", name):
        raise UserError(f"name={name} is not a model name: give letters, digits, blanks, dots, _ and -.")
    if alias is not None and not re.fullmatch(r"(?!latest$|[vV]\d+$)[\w-]{1,100}", alias, re.ASCII):
        raise UserError(
            f"alias={alias} is not an alias: give letters, digits, _ and -, but not latest or v3 or the like."
        )
    if wheel is not None:
        _check_wheel(wheel)


def _check_wheel(wheel: Path) -> None:
    """UserError for a file that is not a wheel of this version of pneumo."""
    wanted = f"pneumo-{__version__}-*.whl"
    remedy = "`pip wheel --no-deps .` in pneumo's project makes one"
    if not fnmatch(wheel.name, wanted) or not zipfile.is_zipfile(wheel):
        raise UserError(f"wheel={wheel} is not a wheel {wanted}: {remedy}.")
    with zipfile.ZipFile(wheel) as content:
        if "pneumo/inference/pyfunc.py" not in content.namelist():
            raise UserError(f"wheel={wheel} does not contain pneumo: {remedy}.")


def refuse_unfit(run: TrackedRun, force: bool) -> None:
    """UserError for a run that is not finished, or whose epoch was chosen on the test images."""
    if force:
        return
    if run.status != "FINISHED":
        raise UserError(f"run {run.run_id} is {run.status}: only a finished run is registered. {FORCE}.")
    if run.tags.get(PROTOCOL_TAG) == TEST_SELECTED:
        raise UserError(_optimistic(run.run_id))


def _optimistic(run_id: str) -> str:
    return (
        f"run {run_id} is tagged {TEST_SELECTED}: its epoch was chosen on the test images, so its figures "
        f"are optimistic. Train with trainer.select_on=val; {FORCE}."
    )


def _compare(
    registry: Registry, run: TrackedRun, folder: Path, candidate: Bundle, holder: Resolved, alias: str
) -> str:
    """The run's AUROC against the holder's, in words; UserError if it is worse or cannot be compared."""
    old = model_folder.read(holder.folder, holder.version)
    if candidate.task != old.task:
        raise UserError(
            f"run {run.run_id} is a model of {_task(candidate)}, and {holder.version}, which has the alias "
            f"{alias}, one of {_task(old)}: they cannot be compared. Give another alias or name; {FORCE}."
        )
    if candidate.class_names != old.class_names:
        apart = "" if candidate.multilabel else " apart"
        raise UserError(
            f"run {run.run_id} tells {', '.join(candidate.class_names)}{apart}, and {holder.version}, which "
            f"has the alias {alias}, {', '.join(old.class_names)}: they cannot be compared. Give another "
            f"alias or name; {FORCE}."
        )
    if not old.figures:
        return f"{holder.version}, which had the alias, was never scored on a test set"
    if candidate.test_digest != old.test_digest:
        raise UserError(
            f"run {run.run_id} was not tested on the images of {holder.version}, which has the alias "
            f"{alias}: their AUROCs cannot be compared. {FORCE}."
        )
    area = "macro AUROC" if candidate.many else "AUROC"
    area = "mean AUROC" if candidate.multilabel else area
    new_test, old_test = _test(folder), None
    if holder.run_id:
        try:
            old_test = _test(registry.run_folder(registry.run(holder.run_id)))
        except UserError:  # its run was deleted, or its predictions were
            old_test = None
    new, before = _written(candidate.figures[SCORE]), _written(old.figures[SCORE])
    pair: tuple[SplitResult, SplitResult] | None = None
    if old_test is not None and model_folder.test_digest(old_test) == candidate.test_digest:
        pair = _testable(new_test, old_test) if candidate.multilabel else (new_test, old_test)
    if pair is None:
        high, low = candidate.figures[SCORE]["high"], old.figures[SCORE]["low"]
        words = f"{area} {new} against {before} of {holder.version}"
        worse = high is not None and low is not None and high < low
    else:
        paired = _paired(*pair)
        varies = paired.p is not None
        interval = f", 95 % interval {paired.low:+.4f} to {paired.high:+.4f}" if varies else ""
        words = (
            f"{area} {new} against {before} of {holder.version}; paired on {len(new_test.paths)} test images "
            f"{paired.difference:+.4f}{interval}{_left_out(new_test, pair[0])}"
        )
        worse = paired.high < 0 or (paired.p is None and paired.difference < 0)
    if worse:
        raise UserError(
            f"run {run.run_id} is worse than the model that has the alias {alias}: {words}. {FORCE}."
        )
    return words


def _testable(new: SplitResult, old: SplitResult) -> tuple[SplitResult, SplitResult] | None:
    """Two models' test rows of the findings with enough patients for a test; None if there are none."""
    kept = finding_figures.testable(new), finding_figures.testable(old)
    return (kept[0], kept[1]) if kept[0] and kept[1] else None


def _left_out(every: SplitResult, tested: SplitResult) -> str:
    """Words on the findings that a paired test leaves out."""
    names = [name for name in every.class_names if name not in tested.class_names]
    if not names:
        return ""
    fewest = finding_statistics.FEWEST_PATIENTS
    return f", without {', '.join(names)} (fewer than {fewest} patients have it, or do not)"


def _paired(new: SplitResult, old: SplitResult) -> contrasts.Test:
    """The difference in AUROC, new - old, with its interval; both use the same resampled patients.

    Of more than two classes it is that of macro AUROC, of several findings that of their mean AUROC.
    """
    kind = finding_figures if new.multilabel else scores
    weights = kind.resample(new)
    spreads = []
    for test in (new, old):
        draws = kind.auroc_draws(test, weights)
        spreads.append(contrasts.Spread.of([test.scores()[SCORE]], [draws], [""]))
    return contrasts.over_patients(spreads[0], spreads[1], kind.smallest_class(new))


def _task(model: Bundle) -> str:
    return "several findings an image" if model.multilabel else "one class an image"


def _test(folder: Path) -> SplitResult:
    file = folder / TEST_PREDICTIONS
    try:
        return read_any_predictions(file.read_text(errors="surrogateescape"))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None


def _written(figure: Figure) -> str:
    value, low, high = figure["value"], figure["low"], figure["high"]
    span = f" ({low:.4f} to {high:.4f})" if low is not None and high is not None else ""
    return "unknown" if value is None else f"{value:.4f}{span}"
