"""The model card: what a model is for, what it was made of, how well it did, and what it cannot say."""

from typing import TYPE_CHECKING

from pneumo.names import PROTOCOLS

if TYPE_CHECKING:
    from pneumo.inference.bundle import Bundle

WORDS = {
    "auroc": "area under the ROC curve",
    "auprc": "average precision",
    "accuracy": "accuracy",
    "recall": "sensitivity",
    "specificity": "specificity",
    "precision": "positive predictive value",
    "f1": "F1",
    "brier": "Brier score (less is better)",
    "ece": "expected calibration error (less is better)",
}
RULES = {
    "half": "the uncalibrated probability is 0.5",
    "sensitivity_95": "95 % of the ill validation images are found",
    "youden": "sensitivity + specificity is highest on the validation images",
}


def text(bundle: "Bundle") -> str:
    """The card as Markdown, every figure from the bundle itself."""
    model, pre = bundle.model, bundle.preprocess
    normal, ill = bundle.class_names
    steps = [
        *(["black border cropped"] if pre["crop_black"] else []),
        *(["histogram equalised"] if pre["equalize"] else []),
        f"resized and padded to {pre['image_size']} x {pre['image_size']} grey pixels",
    ]
    rows = "".join(
        f"| {WORDS.get(name, name)} | {_shown(figure['value'])} | {_span(figure['low'], figure['high'])} |\n"
        for name, figure in bundle.figures.items()
    )
    sets = "\n".join(_split(bundle, name) for name in ("train", "val", "test"))
    synthetic = (
        "\n**Trained on synthetic images: it knows nothing of real patients.**\n" if bundle.synthetic else ""
    )
    return f"""# Model card: {model["name"]}, {normal} or {ill}

**Not a medical device.** It must not be used to diagnose, to treat or to decide about a patient.
{synthetic}
## Purpose

Research and teaching: it estimates how likely a chest X-ray from the front shows {ill} rather than
{normal}, as its training images were labelled. It knows these two classes only.

## Model

{model["name"]} on {model["in_channels"]} channel(s), two classes; {", ".join(steps)}. The weights of epoch
{bundle.epoch} were kept ({bundle.monitor}): {PROTOCOLS[bundle.protocol]}. Computed in {bundle.precision};
fingerprint `{bundle.fingerprint}`, run `{bundle.run_id or "not tracked"}`.

The probability is calibrated on the validation images (temperature {bundle.temperature:.3f}). An image is
called {ill} from {bundle.threshold:.3f} on, where {RULES[bundle.threshold_rule]}.

## Data

Digest `{bundle.data_digest}`.

{sets}

## Figures

On the test images, with 95 % intervals (patients resampled, 2,000 draws). Counts are at the threshold above.

| score | value | 95 % interval |
|---|---|---|
{rows}
## Limits

- The figures hold for images like those of the test set: other hospitals, devices, ages or shares of ill
  patients give others, mostly worse ones. The positive predictive value falls with the share of ill.
- It repeats the labels of its training set, their errors included.
- A lateral view, another organ, a photo of a screen or another disease also gets a probability. It says
  nothing then.
- The intervals know of the patients' chance alone, not of training again with another seed.
- A map of what the network looked at is a hint, no proof of why it answered so.
"""


def _split(bundle: "Bundle", name: str) -> str:
    images = bundle.counts.get("images", {}).get(name)
    patients = bundle.counts.get("patients", {}).get(name)
    if isinstance(images, dict):
        classes = ", ".join(f"{count:,} {key}" for key, count in images.items())
        of = f" of {patients:,} patients" if isinstance(patients, int) else ""
        return f"- {name}: {sum(images.values()):,} images{of}: {classes}"
    known = bundle.counts.get(name)
    return f"- {name}: {known:,} images" if isinstance(known, int) else f"- {name}: not recorded"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _span(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.4f} to {high:.4f}"
