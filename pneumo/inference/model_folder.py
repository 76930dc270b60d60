"""A model as a folder: model.safetensors, model.json, model_card.md. Read it, write it, make it from a run.

Files are read as data only: no pickle, and every value of a JSON is checked before it is used.
"""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pneumo import UserError, one_of
from pneumo.evaluation import calibrators, metrics, multiclass, multilabel
from pneumo.evaluation.metrics import Floats
from pneumo.evaluation.predictions import SplitResult, read_any_predictions
from pneumo.files import MAX_MODEL_BYTES, read_bounded, write_atomically
from pneumo.inference import card, finding_figures, schema, scores
from pneumo.inference.bundle import Bundle, of_rule
from pneumo.inference.schema import Figure
from pneumo.names import (
    AGE_COLUMNS,
    BEST_FACTS,
    BEST_WEIGHTS,
    MODEL_CARD,
    MODEL_FACTS,
    MODEL_WEIGHTS,
    MULTILABEL,
    TEST_PREDICTIONS,
    THRESHOLD_RULES,
    TRAINING_REFERENCE,
    VAL_PREDICTIONS,
    plain_column,
)
from pneumo.patient_ids import one_spelling
from pneumo.text import finite, first_line

FORMAT = 1
MAX_JSON_BYTES = 2**24
PAST_DIGITS = 6  # of the stored probabilities of several findings


def read(folder: str | Path, version: str | None = None) -> Bundle:
    """The model in a model folder, a run's artifacts folder or a run's output folder.

    `version` is what to call it (default: the folder). UserError if there is no usable model.
    """
    root = Path(folder).expanduser()
    if (root / MODEL_FACTS).is_file():
        facts = _read_json(root / MODEL_FACTS)
        if facts.pop("format", None) != FORMAT:
            raise UserError(
                f"{root / MODEL_FACTS} does not have format {FORMAT}: another version of pneumo wrote it."
            )
        return _bundle(facts, root / MODEL_FACTS, root / MODEL_WEIGHTS, version or str(root))
    for artifacts in (root, root / "artifacts"):
        if (artifacts / BEST_FACTS).is_file():
            return from_run(artifacts, version=version)
    raise UserError(
        f"{root} does not contain a model: a model folder has {MODEL_FACTS} and {MODEL_WEIGHTS}, a run's "
        f"artifacts have {BEST_FACTS} and {BEST_WEIGHTS}."
    )


def write(bundle: Bundle, folder: Path) -> None:
    """Write the model folder; UserError if the weights cannot be used."""
    bundle.network()  # a model that does not load is not passed on
    content = read_bounded(bundle.weights, MAX_MODEL_BYTES)
    facts = {
        "familiarity" if key == "ood_reference" else key: value  # the file's key is older than the field
        for key, value in asdict(bundle).items()
        if key not in ("weights", "version")
    }
    for key in ("white", *schema.OF_MANY, *schema.OF_FINDINGS, *schema.LATER):
        if facts[key] is None:  # a model that needs none keeps the file of version 0.1
            del facts[key]
    facts |= {"format": FORMAT, "weights_sha256": hashlib.sha256(content).hexdigest()}
    write_atomically(folder / MODEL_WEIGHTS, content)
    text = json.dumps(finite(facts), indent=1, allow_nan=False, ensure_ascii=False)
    write_atomically(folder / MODEL_FACTS, (text + "\n").encode())
    write_atomically(folder / MODEL_CARD, card.text(bundle).encode())


def from_run(
    artifacts: Path,
    *,
    run_id: str | None = None,
    version: str | None = None,
    threshold_rule: str = "sensitivity_95",
) -> Bundle:
    """The model of a finished run: its best weights, and what follows from its validation and test rows.

    A run with trainer.score_test=false has no test rows: the model then has no figures.
    """
    one_of("threshold_rule", threshold_rule, THRESHOLD_RULES)
    best = _read_json(artifacts / BEST_FACTS)
    val = _read_predictions(artifacts / VAL_PREDICTIONS)
    scored = (artifacts / TEST_PREDICTIONS).is_file()  # not with trainer.score_test=false
    test = _read_predictions(artifacts / TEST_PREDICTIONS) if scored else None
    if test is not None and (test.class_names, test.multilabel) != (val.class_names, val.multilabel):
        raise UserError(f"{artifacts}: its validation and test predictions are not of the same classes.")
    task = MULTILABEL if val.multilabel else None
    if best.get("task") != task:
        raise UserError(
            f"{artifacts}: its predictions are of {_task_words(task)}, and {BEST_FACTS} is of "
            f"{_task_words(best.get('task'))}."
        )
    copied = ("preprocess", "class_names", "data_digest", "protocol", "synthetic", "fingerprint", "monitor")
    saved = best.get("model")
    model: dict[str, Any] = saved if isinstance(saved, dict) else {}
    reference = artifacts / TRAINING_REFERENCE
    facts = {
        **{key: best.get(key) for key in (*copied, "epoch", "white")},
        "model": {key: model.get(key) for key in ("name", "in_channels", "dropout")}
        | {"num_classes": len(val.class_names)},
        "precision": best.get("precision", "float32"),
        "counts": {
            "images": best.get("images") or {},
            "patients": best.get("patients") or {},
            "test": len(test.paths) if test else 0,
            "val": len(val.paths),
        },
        **decisions(val, test, threshold_rule),
        "ages": ages(val),
        "past_patients": numbered(val.patients),
        "test_digest": test_digest(test) if test else "",
        "familiarity": _read_json(reference) if reference.is_file() else None,
        "run_id": run_id,
    }
    return _bundle(
        facts, artifacts / BEST_FACTS, artifacts / BEST_WEIGHTS, version or run_id or str(artifacts)
    )


def test_digest(test: SplitResult) -> str:
    """Identifies the images that a model was tested on: models with equal digests can be compared."""
    rows = zip(test.paths, test.patients, test.labels.tolist(), strict=True)
    return hashlib.sha256(json.dumps(list(rows)).encode()).hexdigest()


def _bundle(facts: dict[str, Any], source: Path, weights: Path, version: str) -> Bundle:
    later = (*schema.OF_MANY, *schema.OF_FINDINGS, *schema.LATER)
    absent = dict.fromkeys(("weights_sha256", "white", *later))
    facts = absent | facts
    schema.check(facts, source)
    reference = facts.pop("familiarity")
    return Bundle(**facts, ood_reference=reference, weights=weights, version=version)


def _task_words(task: object) -> str:
    return "several findings an image" if task == MULTILABEL else "one class an image"


def decisions(val: SplitResult, test: SplitResult | None, threshold_rule: str) -> dict[str, Any]:
    """The fields of a Bundle that validation chooses, and the figures that they have on the test images."""
    if val.multilabel:
        return _decisions_of_findings(val, test, threshold_rule)
    return (_decisions_of_many if val.many else _decisions_of_two)(val, test, threshold_rule)


def _decisions_of_two(val: SplitResult, test: SplitResult | None, threshold_rule: str) -> dict[str, Any]:
    """What validation chooses, and what it gives on the test images."""
    thresholds = metrics.operating_points(val.labels, val.probabilities)
    calibration = calibrators.choose(val.labels, val.probabilities, val.patients)
    temperature = metrics.temperature(val.labels, val.probabilities)

    def calibrated(split: SplitResult) -> Floats:
        if calibration is not None:
            return calibrators.applied(calibration, split.probabilities)
        return metrics.tempered(split.probabilities, temperature)

    rule = threshold_rule if threshold_rule in thresholds else "half"
    return {
        "thresholds": thresholds,
        "temperature": temperature,
        "calibration": calibration,
        "threshold_rule": rule,
        "figures": scores.of_two(test, calibrated(test), thresholds[rule]) if test else {},
        "past": _past(val, calibrated(val)),
    }


def _decisions_of_many(val: SplitResult, test: SplitResult | None, threshold_rule: str) -> dict[str, Any]:
    """As `_decisions_of_two`, with a threshold for each class, of calibrated probabilities."""
    temperature = multiclass.temperature(val.labels, val.probabilities)
    calibration = calibrators.choose(val.labels, val.probabilities, val.patients)

    def calibrated(split: SplitResult) -> Floats:
        if calibration is not None:
            return calibrators.applied(calibration, split.probabilities)
        return multiclass.tempered(split.probabilities, temperature)

    points = multiclass.operating_points(val.class_names, val.labels, calibrated(val))
    figures: dict[str, Figure] = {}
    of_class: dict[str, dict[str, Figure]] = {name: {} for name in val.class_names}
    if test:
        at = {name: of_rule(known, threshold_rule) for name, known in points.items()}
        figures, of_class = scores.of_many(test, calibrated(test), at)
    return {
        "thresholds": {},
        "class_thresholds": points,
        "temperature": temperature,
        "calibration": calibration,
        "threshold_rule": threshold_rule,
        "figures": figures,
        "class_figures": of_class,
        "past": _past(val, calibrated(val)),
    }


def _decisions_of_findings(val: SplitResult, test: SplitResult | None, threshold_rule: str) -> dict[str, Any]:
    """As `_decisions_of_many`, with a calibration of each finding; from the images whose label is known."""
    temperatures = multilabel.temperatures(val.labels, val.probabilities)
    calibration = {}
    for k, name in enumerate(val.class_names):
        known = np.flatnonzero(val.labels[:, k] != multilabel.UNKNOWN)
        patients = [val.patients[row] for row in known]
        if len(known) and (
            one := calibrators.choose(val.labels[known, k], val.probabilities[known, k], patients)
        ):
            calibration[name] = one

    def calibrated_as(split: SplitResult) -> Floats:
        chances = multilabel.tempered(split.probabilities, temperatures)
        for name, one in calibration.items():
            k = val.class_names.index(name)
            chances[:, k] = calibrators.applied(one, split.probabilities[:, k])
        return chances

    calibrated = calibrated_as(val)
    points = multilabel.operating_points(val.class_names, val.labels, calibrated)
    figures: dict[str, Figure] = {}
    of_finding: dict[str, dict[str, Figure]] = {name: {} for name in val.class_names}
    if test:
        at = [of_rule(known, threshold_rule) for known in points.values()]
        figures, of_finding = finding_figures.of_findings(test, calibrated_as(test), at)
    # The rounding halves the file: of 15 findings, 20,000 images would exceed its limit.
    kept = np.round(calibrated, PAST_DIGITS).tolist()
    return {
        "task": MULTILABEL,
        "thresholds": {},
        "class_thresholds": points,
        "temperature": None,
        "calibration": calibration or None,
        "class_temperatures": dict(zip(val.class_names, temperatures, strict=True)),
        "threshold_rule": threshold_rule,
        "figures": figures,
        "class_figures": of_finding,
        "past": {"labels": val.labels.tolist(), "probabilities": kept},
    }


def _past(val: SplitResult, calibrated: Floats) -> dict[str, Any]:
    return {"labels": val.labels.tolist(), "probabilities": calibrated.tolist()}


def ages(val: SplitResult) -> list[float] | None:
    """The range of a column of ages in years, if the table has one and it is filled."""
    for name, values in val.subgroups.items():
        if plain_column(name) not in AGE_COLUMNS:
            continue
        with suppress(ValueError):
            years = [float(value.strip().upper().removesuffix("Y")) for value in values if value.strip()]
            if years and 0 <= min(years) <= max(years) <= 200:
                return [min(years), max(years)]
    return None


def numbered(patients: Sequence[str | None]) -> list[int]:
    """A number for each image's patient, instead of the name; an image of an unknown patient has its own."""
    keys = [name or row for row, name in enumerate(one_spelling(patients))]
    place = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return [place[key] for key in keys]


# ---- reading


def _read_json(path: Path) -> dict[str, Any]:
    def refuse(name: str) -> float:
        raise ValueError(f"{name} is not a number in JSON")

    try:
        content = json.loads(read_bounded(path, MAX_JSON_BYTES), parse_constant=refuse)
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not a complete JSON file: {first_line(error)[:200]}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} does not contain a JSON object.")
    return content


def _read_predictions(path: Path) -> SplitResult:
    try:
        result = read_any_predictions(read_bounded(path, MAX_JSON_BYTES).decode(errors="surrogateescape"))
        check = multiclass.checked if result.many else metrics.checked
        check = multilabel.checked if result.multilabel else check
        check(result.labels, result.probabilities)
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix(f'{path} ')}") from None
    return result
