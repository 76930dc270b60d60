"""From a finished run to a registered model, if nothing speaks against it."""

import re
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from pneumo import UserError
from pneumo.evaluation import metrics, statistics
from pneumo.evaluation.predictions import SplitResult, read_predictions
from pneumo.inference import bundle
from pneumo.inference import ood as familiarity
from pneumo.inference import pyfunc as served
from pneumo.inference.bundle import Bundle
from pneumo.tracking.reading import TrackedRun
from pneumo.tracking.registry import Registry, Resolved

SCORE = "auroc"
FORCE = "force=true registers it all the same"


def register(registry: Registry, run_id: str, *, name: str, alias: str, force: bool) -> str:
    """Register the model of a run and give it `alias`; what was done, in words.

    UserError, unless `force`, for a run that is not finished, whose epoch was chosen on the test images, or
    that is worse than the model that holds the alias now.
    """
    if not re.fullmatch(r"[\w .-]{1,100}", name):
        raise UserError(f"name={name} is no name of a model: give letters, digits, blanks, dots, _ and -.")
    if not re.fullmatch(r"(?!latest$|[vV]\d+$)[\w-]{1,100}", alias, re.ASCII):
        raise UserError(
            f"alias={alias} is no alias: give letters, digits, _ and -, not latest and no version like v3."
        )
    run = registry.run(run_id)
    folder = registry.run_folder(run)
    _refuse_unfit(run, force)
    made = bundle.from_run(folder, run_id=run_id)
    if made.protocol == "test_selected" and not force:
        raise UserError(_optimistic(run_id))
    holder = registry.holder(name, alias)
    known = registry.version_of(name, run_id)
    if holder and holder.version == f"{name} {known}":
        return f"{name} {known} is run {run_id} already, and {alias} names it: nothing to do"
    compared = "the first of this alias"
    if holder and not force:
        compared = _compare(registry, run, folder, made, holder, alias)
    elif holder:
        compared = f"in place of {holder.version}, forced"
    tags = {
        "pneumo.fingerprint": made.fingerprint,
        "pneumo.protocol": made.protocol,
        "pneumo.data_digest": made.data_digest,
        "pneumo.test_digest": made.test_digest,
        "pneumo.synthetic": str(made.synthetic).lower(),
        "pneumo.test_auroc": _written(made.figures[SCORE]),
        "pneumo.registered": compared,
    }
    if made.familiarity is None:  # a run of an older version: where its images are at hand
        with suppress(UserError):
            config = folder / "config.yaml"
            made.familiarity = familiarity.fit_again(config, made.data_digest, str(registry.cache.parent))
    with TemporaryDirectory(prefix="pneumo-") as scratch:
        made.write(Path(scratch))
        version = registry.register(Path(scratch), run, name, tags, served.description())
    registry.set_alias(name, alias, version)
    again = "registered before" if known else "registered"
    return f"{name} {version}: {again} from run {run_id}; {alias} names it ({compared})"


def _refuse_unfit(run: TrackedRun, force: bool) -> None:
    if force:
        return
    if run.status != "FINISHED":
        raise UserError(f"run {run.run_id} is {run.status}: only a finished run is registered. {FORCE}.")
    if run.tags.get("pneumo.protocol") == "test_selected":
        raise UserError(_optimistic(run.run_id))


def _optimistic(run_id: str) -> str:
    return (
        f"run {run_id} is tagged test_selected: its epoch was chosen on the test images, so its figures "
        f"promise too much. Train with trainer.select_on=val; {FORCE}."
    )


def _compare(
    registry: Registry, run: TrackedRun, folder: Path, made: Bundle, holder: Resolved, alias: str
) -> str:
    """In words, how the run's AUROC stands to the holder's; UserError where worse, or not to be told."""
    old = bundle.read(holder.folder, holder.version)
    if made.test_digest != old.test_digest:
        raise UserError(
            f"run {run.run_id} was not tested on the images of {holder.version}, which {alias} names: "
            f"their AUROCs cannot be compared. {FORCE}."
        )
    new_test, old_test = _test(folder), None
    if holder.run_id:
        try:
            old_test = _test(registry.run_folder(registry.run(holder.run_id)))
        except UserError:  # its run was deleted, or its predictions were
            old_test = None
    new, before = _written(made.figures[SCORE]), _written(old.figures[SCORE])
    if old_test is None or bundle.test_digest(old_test) != made.test_digest:
        high, low = made.figures[SCORE]["high"], old.figures[SCORE]["low"]
        words = f"AUROC {new} against {before} of {holder.version}"
        worse = high is not None and low is not None and high < low
    else:
        found = _paired(new_test, old_test)
        words = (
            f"AUROC {new} against {before} of {holder.version}; paired on {len(new_test.paths)} test images "
            f"{found['difference']:+.4f}, 95 % interval {found['low']:+.4f} to {found['high']:+.4f}"
        )
        worse = found["high"] < 0
    if worse:
        raise UserError(f"run {run.run_id} is worse than the model that {alias} names: {words}. {FORCE}.")
    return words


def _paired(new: SplitResult, old: SplitResult) -> dict[str, float]:
    """Difference of AUROC, new - old, with its interval, patients resampled alike for both."""
    weights = statistics.resample(new.labels, new.patients)
    draws, observed = [], []
    for test in (new, old):
        pair = test.labels, test.probabilities
        draws.append(statistics.resampled_scores(*pair, weights, parts=("areas",))[SCORE])
        observed.append(metrics.scores(*pair)[SCORE])
    return statistics.compare_draws(observed[0] - observed[1], draws[0] - draws[1])


def _test(folder: Path) -> SplitResult:
    file = folder / "predictions" / "test.csv"
    try:
        return read_predictions(file.read_text(errors="surrogateescape"))
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from None


def _written(figure: dict[str, float | None]) -> str:
    value, low, high = (figure[key] for key in ("value", "low", "high"))
    span = f" ({low:.4f} to {high:.4f})" if low is not None and high is not None else ""
    return "unknown" if value is None else f"{value:.4f}{span}"
