"""The model card: a model's purpose, data, test figures and limits, as Markdown."""

from pneumo.inference.bundle import Bundle
from pneumo.inference.schema import Figure
from pneumo.names import PROTOCOLS

SCORE_WORDS = {
    "auroc": "area under the ROC curve",
    "auprc": "average precision",
    "accuracy": "accuracy",
    "recall": "sensitivity",
    "specificity": "specificity",
    "precision": "positive predictive value",
    "f1": "F1",
    "brier": "Brier score (lower is better)",
    "ece": "expected calibration error (lower is better)",
}
RULE_WORDS = {
    "half": "the uncalibrated probability is 0.5",
    "sensitivity_95": "at least 95 % of the ill validation images are found",
    "youden": "sensitivity + specificity is highest on the validation images",
}


def text(bundle: Bundle) -> str:
    """The card as Markdown. Every figure comes from the bundle."""
    model, pre = bundle.model, bundle.preprocess
    normal, ill = bundle.class_names
    steps = [
        *(["black border cropped"] if pre["crop_black"] else []),
        *(["histogram equalised"] if pre["equalize"] else []),
        f"resized and padded to {pre['image_size']} x {pre['image_size']} grey pixels",
    ]
    splits = "\n".join(_split(bundle, name) for name in ("train", "val", "test"))
    synthetic = (
        "\n**Trained on synthetic images: it has never seen a real patient.**\n" if bundle.synthetic else ""
    )
    return f"""# Model card: {model["name"]}, {normal} or {ill}

**Not a medical device.** Do not use it to diagnose or treat a patient, or to decide about one.
{synthetic}
## Purpose

Research and teaching. The model estimates how likely a frontal chest X-ray shows {ill} rather than
{normal}, as its training images were labelled. It knows only these two classes.

## Model

{model["name"]} with {model["in_channels"]} input channel(s) and two classes. Images are prepared in this
order: {", ".join(steps)}. The weights are those of epoch {bundle.epoch} ({bundle.monitor}):
{PROTOCOLS[bundle.protocol]}. Precision {bundle.precision}; fingerprint `{bundle.fingerprint}`,
run `{bundle.run_id or "not tracked"}`.

The probability is calibrated on the validation images (temperature {bundle.temperature:.3f}). The decision is
{ill} if the probability is at least {bundle.threshold:.3f}. At this threshold,
{RULE_WORDS[bundle.threshold_rule]}.

## Data

Digest `{bundle.data_digest}`.

{splits}

## Figures

{_figures(bundle)}
## Limits

- The figures hold for images like those of the test set. Other hospitals, devices, ages or shares of ill
  patients give other figures, mostly worse ones. The positive predictive value falls with the share of ill.
- The model repeats the labels of its training set, including their errors.
- A lateral view, another organ, a photo of a screen or another disease also gets a probability. That
  probability means nothing.
- The intervals cover the choice of patients only. They do not cover training again with another seed.
- A map of what the network looked at is a hint, not a proof of why it gave this answer.
"""


def _figures(bundle: Bundle) -> str:
    if not bundle.figures:
        return (
            "None. The model was never given its test images (`trainer.score_test=false`).\n"
            f"`pneumo evaluate model={bundle.run_id or bundle.fingerprint} split=test` scores them.\n"
        )
    rows = "".join(
        f"| {SCORE_WORDS.get(name, name)} | {_value(figure)} | {_interval(figure)} |\n"
        for name, figure in bundle.figures.items()
    )
    return (
        "Scores on the test images, with 95 % intervals (patients resampled, 2,000 draws). Scores that count "
        f"decisions\nuse the threshold above.\n\n| score | value | 95 % interval |\n|---|---|---|\n{rows}"
    )


def _split(bundle: Bundle, name: str) -> str:
    images = bundle.counts.get("images", {}).get(name)
    patients = bundle.counts.get("patients", {}).get(name)
    if isinstance(images, dict):
        classes = ", ".join(f"{count:,} {key}" for key, count in images.items())
        of = f" of {patients:,} patients" if isinstance(patients, int) else ""
        return f"- {name}: {sum(images.values()):,} images{of}: {classes}"
    known = bundle.counts.get(name)
    return f"- {name}: {known:,} images" if isinstance(known, int) else f"- {name}: not recorded"


def _value(figure: Figure) -> str:
    return "-" if figure["value"] is None else f"{figure['value']:.4f}"


def _interval(figure: Figure) -> str:
    low, high = figure["low"], figure["high"]
    return "-" if low is None or high is None else f"{low:.4f} to {high:.4f}"
