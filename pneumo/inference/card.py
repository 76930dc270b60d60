"""The model card: a model's purpose, data, test figures and limits, as Markdown."""

from pneumo.evaluation import calibrators
from pneumo.inference.bundle import Bundle
from pneumo.inference.schema import Figure, Site
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
    "sensitivity_95": "at least 95 % of the ill {images} are found",
    "youden": "sensitivity + specificity is highest on the {images}",
}
RULE_WORDS_OF_A_CLASS = {
    "half": "the probability is 0.5",
    "sensitivity_95": "at least 95 % of the {images} of the class are found",
    "youden": "sensitivity + specificity is highest on the {images}",
}
RULE_WORDS_OF_A_FINDING = {
    "half": "the probability is 0.5",
    "sensitivity_95": "at least 95 % of the {images} with the finding are found",
    "youden": "sensitivity + specificity is highest on the {images}",
}


def text(bundle: Bundle) -> str:
    """The card as Markdown. Every figure comes from the bundle."""
    model, pre = bundle.model, bundle.preprocess
    names = f"{', '.join(bundle.class_names[:-1])} or {bundle.class_names[-1]}"
    count = f"{len(bundle.class_names) if bundle.many else 'two'} classes"
    if bundle.multilabel:
        names = count = f"{len(bundle.class_names)} findings"
    steps = [
        *(["black border cropped"] if pre["crop_black"] else []),
        *(["histogram equalised"] if pre["equalize"] else []),
        f"resized and padded to {pre['image_size']} x {pre['image_size']} grey pixels",
    ]
    splits = "\n".join(_split(bundle, name) for name in ("train", "val", "test"))
    if bundle.site:
        splits += f"\n{_images_of_site(bundle.site)}"
    synthetic = (
        "\n**Trained on synthetic images: it has never seen a real patient.**\n" if bundle.synthetic else ""
    )
    return f"""# Model card: {model["name"]}, {names}

**Not a medical device.** Do not use it to diagnose or treat a patient, or to decide about one.
{synthetic}{_site(bundle)}
## Purpose

{_purpose(bundle)}

## Model

{model["name"]} with {model["in_channels"]} input channel(s) and {count}. Images are prepared in this
order: {", ".join(steps)}. The weights are those of epoch {bundle.epoch} ({bundle.monitor}):
{PROTOCOLS[bundle.protocol]}. Precision {bundle.precision}; fingerprint `{bundle.fingerprint}`,
run `{bundle.run_id or "not tracked"}`.

{_decision(bundle)}

## Data

Digest `{bundle.data_digest}`.

{splits}

## Figures

{_figures(bundle)}{_class_figures(bundle)}
## Limits

{_other_images(bundle)}
- The model repeats the labels of its training set, including their errors.
- A lateral view, another organ, a photo of a screen or another disease also gets a probability. That
  probability means nothing.
- The intervals cover the choice of patients only. They do not cover training again with another seed.
- A map of what the network looked at is a hint, not a proof of why it gave this answer.
"""


def _site(bundle: Bundle) -> str:
    """Of a recalibrated model: what it stems from, and where its figures come from."""
    if bundle.site is None:
        return ""
    return f"""
**Recalibrated for a site.** The network is that of {bundle.site["parent"]}. Calibration and thresholds come
from {bundle.site_images} (digest `{bundle.site["digest"]}`).
The figures below are cross-fitted on these images: each is called with a calibration and thresholds from
images of other patients. {bundle.site["unlike"]:,} of them are unlike the training images, so that
`pneumo predict` withholds their decision; the figures count them.
"""


def _images_of_site(site: Site) -> str:
    counts = ", ".join(
        f"{count:,} {name} ({site['patients_of'][name]:,} patients)"
        for name, count in site["images_of"].items()
    )
    unknown = "" if site["patients_known"] else "; an image counts as a patient, since none is known"
    return f"- site: {site['images']:,} images of {site['patients']:,} patients: {counts}{unknown}"


def _purpose(bundle: Bundle) -> str:
    if bundle.multilabel:
        return (
            "Research and teaching. The model estimates how likely a frontal chest X-ray shows each of "
            f"{len(bundle.class_names)}\nfindings, as its training images were labelled: "
            f"{', '.join(bundle.class_names)}.\nAn image may show several of them, or none. The model knows "
            "only these findings: an image without any of\nthem may still show a disease."
        )
    if bundle.many:
        return (
            "Research and teaching. The model estimates how likely a frontal chest X-ray shows each of its\n"
            f"{len(bundle.class_names)} classes, as its training images were labelled: "
            f"{', '.join(bundle.class_names)}.\nIt knows only these classes, and calls every image one of "
            "them."
        )
    normal, ill = bundle.class_names
    return (
        f"Research and teaching. The model estimates how likely a frontal chest X-ray shows {ill} rather "
        f"than\n{normal}, as its training images were labelled. It knows only these two classes."
    )


def _other_images(bundle: Bundle) -> str:
    shares, share = ("classes\n  give", "the class") if bundle.many else ("ill\n  patients give", "ill")
    shares, share = ("findings\n  give", "the finding") if bundle.multilabel else (shares, share)
    where = "the site" if bundle.site else "the test set"
    return (
        f"- The figures hold for images like those of {where}. Other hospitals, devices, ages or shares "
        f"of {shares} other figures, mostly worse ones. The positive predictive value falls with the share "
        f"of {share}."
    )


def _decision(bundle: Bundle) -> str:
    if bundle.multilabel:
        return _decision_of_findings(bundle)
    if bundle.many:
        rows = "".join(
            f"| {_cell(name)} | {threshold:.3f} |\n" for name, threshold in bundle.threshold_of_class.items()
        )
        return (
            f"The probabilities are calibrated on the {bundle.chosen_on} "
            f"({calibrators.words(bundle.calibration, bundle.temperature)}). The predicted\n"
            "class is the one with the largest probability. Beside it, each class has a threshold against "
            "all others. At this\nthreshold, "
            f"{_rule(RULE_WORDS_OF_A_CLASS, bundle)}.\nAn image can reach the thresholds of several "
            f"classes, or of none.\n\n| class | threshold |\n|---|---|\n{rows}"
        )
    return (
        f"The probability is calibrated on the {bundle.chosen_on} "
        f"({calibrators.words(bundle.calibration, bundle.temperature)}). The "
        f"decision is\n{bundle.class_names[1]} if the probability is at least {bundle.threshold:.3f}. At "
        f"this threshold,\n{_rule(RULE_WORDS, bundle)}."
    )


def _rule(words: dict[str, str], bundle: Bundle) -> str:
    """Where the threshold of the model's rule is."""
    return words[bundle.threshold_rule].format(images=bundle.chosen_on)


def _decision_of_findings(bundle: Bundle) -> str:
    assert bundle.class_temperatures is not None
    rows = "".join(
        f"| {_cell(name)} | {_calibration(bundle, name)} | {threshold:.3f} |\n"
        for name, threshold in bundle.threshold_of_class.items()
    )
    note = ""
    if names := bundle.not_chosen:
        note = (
            f"\nValidation has no image with, or none without, {', '.join(names)}: the threshold is 0.5, and "
            "the\nprobability is not calibrated.\n"
        )
    if bundle.site and bundle.site["kept"]:
        note += (
            f"\nToo few patients of the site have, or lack, {', '.join(bundle.site['kept'])}: calibration\n"
            f"and threshold are those of {bundle.site['parent']}.\n"
        )
    return (
        f"The probability of each finding is calibrated on the {bundle.chosen_on} whose label of it is\n"
        "known. A finding is predicted if its probability reaches its threshold, whatever "
        f"the other findings are. At this\nthreshold, {_rule(RULE_WORDS_OF_A_FINDING, bundle)}."
        f"\n\n| finding | calibration | threshold |\n|---|---|---|\n{rows}{note}"
    )


def _calibration(bundle: Bundle, name: str) -> str:
    assert bundle.class_temperatures is not None
    return calibrators.words((bundle.calibration or {}).get(name), bundle.class_temperatures[name])


def _class_figures(bundle: Bundle) -> str:
    """Of more than two classes or several findings: a table with a row for each."""
    if not bundle.many or not bundle.figures or not bundle.class_figures:
        return ""
    scores = ("auroc", "recall", "specificity", "precision", "f1")
    at_threshold = () if bundle.multilabel else ("recall_at_threshold", "specificity_at_threshold")
    head = [SCORE_WORDS[name] for name in scores]
    head += [f"{SCORE_WORDS[name.removesuffix('_at_threshold')]} at the threshold" for name in at_threshold]
    kind = "finding" if bundle.multilabel else "class"
    rows = [[kind, *head], ["---"] * (len(head) + 1)]
    for name, figures in bundle.class_figures.items():
        cells = [f"{_value(figures[key])} ({_interval(figures[key])})" for key in (*scores, *at_threshold)]
        rows.append([_cell(name), *cells])
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    against = "Each finding on the images whose label of it is known" if bundle.multilabel else ""
    return f"\n{against or 'Each class against all others'}:\n\n{table}"


def _cell(name: str) -> str:
    return name.replace("|", "\\|")


def _figures(bundle: Bundle) -> str:
    if not bundle.figures:
        return (
            "None. The model was never given its test images (`trainer.score_test=false`).\n"
            f"`pneumo evaluate model={bundle.run_id or bundle.fingerprint} split=test` scores them.\n"
        )
    words = SCORE_WORDS
    counted = f"Scores that count decisions\nuse {_threshold_words(bundle)}."
    if bundle.many:
        words = {name: word if name == "accuracy" else f"macro {word}" for name, word in words.items()}
        words["brier"] = f"{SCORE_WORDS['brier'].removesuffix(')')}, 0 to 2)"
        counted = (
            "Scores that count decisions\nuse the predicted class. A macro score is the mean over the "
            "classes."
        )
    if bundle.multilabel:
        words = {name: f"mean {word}" for name, word in SCORE_WORDS.items()}
        counted = (
            f"Scores that count decisions\nuse {_threshold_words(bundle)}. A mean is over the findings that "
            "have the score; an image counts for a finding\nif its label of it is known."
        )
    rows = "".join(
        f"| {words.get(name, name)} | {_value(figure)} | {_interval(figure)} |\n"
        for name, figure in bundle.figures.items()
    )
    return (
        f"Scores on {bundle.scored_on}, with 95 % intervals (patients resampled, 2,000 draws). "
        f"{counted}\n\n| score | value | 95 % interval |\n|---|---|---|\n{rows}"
    )


def _threshold_words(bundle: Bundle) -> str:
    if bundle.site:
        return "thresholds from images of other patients"
    return "the thresholds above" if bundle.multilabel else "the threshold above"


def _split(bundle: Bundle, name: str) -> str:
    images = bundle.counts.get("images", {}).get(name)
    patients = bundle.counts.get("patients", {}).get(name)
    if isinstance(images, dict):
        classes = ", ".join(f"{count:,} {key}" for key, count in images.items())
        of = f" of {patients:,} patients" if isinstance(patients, int) else ""
        if bundle.multilabel:  # an image with several findings is in several counts
            return f"- {name}: images{of}: {classes}"
        return f"- {name}: {sum(images.values()):,} images{of}: {classes}"
    known = bundle.counts.get(name)
    return f"- {name}: {known:,} images" if isinstance(known, int) else f"- {name}: not recorded"


def _value(figure: Figure) -> str:
    return "-" if figure["value"] is None else f"{figure['value']:.4f}"


def _interval(figure: Figure) -> str:
    low, high = figure["low"], figure["high"]
    return "-" if low is None or high is None else f"{low:.4f} to {high:.4f}"
