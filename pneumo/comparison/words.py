"""What a comparison says in words and numbers, on the page and in the terminal."""

import math

from pneumo.comparison.content import (
    Comparison,
    ConfigurationRow,
    PairRow,
    PairScore,
    ScoreInterval,
    all_rows,
)
from pneumo.evaluation.statistics import LESS_IS_BETTER, LEVEL
from pneumo.names import OFFICIAL_VAL, PATIENT_VAL, PROTOCOLS

DASH = "–"  # noqa: RUF001  (an interval's)

SCORE_WORDS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "recall": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "mcc": "MCC",
    "brier": "Brier",
    "log_loss": "log-loss",
    "ece": "ECE",
}


def title(comparison: Comparison) -> str:
    about = comparison["about"]
    sweep = f", sweep {about['sweep']}" if about["sweep"] else ""
    count = plural(len(all_rows(comparison)), "configuration")
    return f"{count} compared: {about['experiment']}{sweep}"


def lead(comparison: Comparison) -> str:
    test = comparison["test"]
    runs = sum(len(row["runs"]) for row in all_rows(comparison))
    patients = (
        plural(test["clusters"], "patient") if not test["images_without_patient"] else "patients not known"
    )
    return (
        f"{plural(runs, 'finished run')}, scored on the same {test['images']:,} test images ({patients}): "
        f"{test['normal']:,} normal, {test['pneumonia']:,} pneumonia. One point of accuracy is "
        f"{test['images'] / 100:.1f} images."
    )


def warnings(comparison: Comparison) -> list[tuple[str, str]]:
    """What a reader must know before the figures, each with a short title."""
    listed = []
    if comparison["about"]["synthetic"]:
        listed.append(("Synthetic images.", "A program made them. They show nothing about patients."))
    unnamed = comparison["test"]["images_without_patient"]
    if unnamed:
        listed.append(
            (
                "Patients are not known.",
                f"{unnamed:,} of {comparison['test']['images']:,} test images name no patient. Each of them "
                "counts as a separate patient, so the intervals are too narrow if some show the same one.",
            )
        )
    optimistic = comparison["optimistic"]
    if optimistic:
        listed.append(
            (
                "Optimistic runs.",
                f"{plural(len(optimistic), 'configuration')} chose the epoch on the test images. "
                "The page shows them apart and never ranks them with the others.",
            )
        )
    if comparison["left_out"]:
        listed.append(
            ("Left out.", f"{plural(len(comparison['left_out']), 'run')}. Settings lists the reasons.")
        )
    notes = sorted({note for row in all_rows(comparison) for run in row["runs"] for note in run["notes"]})
    return listed + [("Note.", note) for note in notes]


def verdict(first: str, second: str, score: str, entry: PairScore) -> str:
    """What a paired difference in `score`, `first` minus `second`, allows one to claim."""
    word, lower_wins = SCORE_WORDS[score], score in LESS_IS_BETTER
    interval = f"{entry['difference']:+.4f}, 95 % interval {entry['low']:+.4f} to {entry['high']:+.4f}"
    corrected = f"p {p_text(entry['p_holm'])} after Holm"
    if entry["p_holm"] >= 1 - LEVEL or entry["low"] <= 0 <= entry["high"]:
        return (
            f"No difference in {word} can be claimed between {first} and {second} ({interval}; {corrected})."
        )
    better, worse = (first, second) if (entry["difference"] > 0) != lower_wins else (second, first)
    return (
        f"{better} has {'a lower' if lower_wins else 'a higher'} {word} than {worse} by "
        f"{abs(entry['difference']):.4f} on these patients ({first} minus {second}: {interval}; {corrected})."
    )


def verdicts(comparison: Comparison) -> list[str]:
    """What may be claimed about the ranking score, accuracy and AUROC: up to six pairs one by one, else
    counts."""
    ranked, pairs = comparison["configurations"], comparison["pairs"]
    if not ranked:
        return ["Every run found chose its epoch on the test images, so there is nothing to rank."]
    if not pairs:
        score = comparison["rank_by"]
        return [
            f"One configuration: {ranked[0]['name']}, {SCORE_WORDS[score]} "
            f"{with_interval(ranked[0]['scores'][score])}. There is nothing to compare it with."
        ]
    sentences = []
    for score in pairs[0]["verdicts"]:
        claimed = [pair for pair in pairs if not pair["verdicts"][score].startswith("No difference")]
        word = SCORE_WORDS[score]
        if len(pairs) <= 6:
            sentences += [_with_seeds(pair, score) for pair in pairs]
        elif not claimed:
            sentences.append(f"No difference in {word} can be claimed in any of {len(pairs)} pairs.")
        else:
            sentences.append(
                f"A difference in {word} can be claimed in {len(claimed)} of {len(pairs)} pairs."
            )
            behind = len(ranked) - 1 - sum(pair["first"] == "c1" for pair in claimed)
            rest = f"all but {behind} of the others" if behind else "every other"
            sentences.append(f"The first, {ranked[0]['name']}, differs from {rest} in {word}.")
    return sentences


def _with_seeds(pair: PairRow, score: str) -> str:
    """The verdict, and whether it holds when chance in training counts too."""
    noise, sentence = pair["scores"][score]["with_seeds"], pair["verdicts"][score]
    if noise is None:
        return f"{sentence} One side has one seed only, so chance in training is not counted."
    word = "also excludes" if noise[0] > 0 or noise[1] < 0 else "includes"
    return (
        f"{sentence} With chance in training counted, the interval is {noise[0]:+.4f} to {noise[1]:+.4f} "
        f"and {word} zero."
    )


def limits(comparison: Comparison) -> list[str]:
    """What a reader might conclude from the page, and should not."""
    test, rows, ranked = comparison["test"], all_rows(comparison), comparison["configurations"]
    sentences = [
        f"Small differences: the intervals are as wide as {test['images']:,} images make them. A difference "
        "smaller than its interval may be real; this comparison cannot show it.",
        "The winner's score on new patients: these test images also picked the first of "
        f"{plural(len(ranked), 'configuration')}, so its score is partly luck. Expect a little less.",
        "Another training: the intervals describe these trained networks on new patients like these. How "
        "much another training would differ is the SD over seeds, shown separately. From three seeds it is "
        "itself uncertain.",
        "Patients from other places, devices, ages or diseases: nothing was tested on them.",
        "Whether doctors decide better with such a model: no reader took part.",
        "Explanations, and fairness by age, sex or origin: the data do not record these.",
    ]
    single = sum(len(row["seeds"]) == 1 for row in rows)
    if single:
        sentences.append(f"Chance in training of {plural(single, 'configuration')} with one seed each.")
    if comparison["about"]["data"] == "chest_xray" and not comparison["about"]["synthetic"]:
        sentences += [
            "Other hospitals: the public set comes from one centre and shows children of one to five years. "
            "Its normal and pneumonia images also differ in JPEG quality and aspect ratio. A model can learn "
            "these instead of the disease.",
            "Well-chosen thresholds: validation images come from the training folder, where every model "
            "scores close to the maximum. Thresholds and temperatures fitted there need not suit the test "
            "images.",
        ]
    if "trainer.epochs" in comparison["differences"]["keys"]:
        sentences.append("Equal effort: the configurations were trained for different numbers of epochs.")
    return sentences


def caption(figure: str, comparison: Comparison) -> str:
    score = SCORE_WORDS[comparison["rank_by"]]
    return {
        "forest": "Accuracy and AUROC on the test images, with 95 % intervals over patients. Strokes are "
        "single seeds, diamonds are ensembles, hollow circles are optimistic runs.",
        "differences": f"Paired differences in {score} with 95 % intervals, the largest first.",
        "roc": "ROC on the test images, with 95 % bands.",
        "precision_recall": "Precision against recall on the test images, with 95 % bands.",
        "calibration": "Observed share of pneumonia against predicted probability.",
        "curves_accuracy": "Accuracy by epoch.",
        "curves_f1": "F1 of pneumonia by epoch.",
        "curves_loss": "Loss (cross-entropy, nats) by epoch.",
        "confusion_test": "Confusion matrices of the test images.",
        "confusion_validation": "Confusion matrices of the validation images.",
        "class_distribution": "Images by split and class.",
    }[figure]


def number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def with_interval(entry: ScoreInterval) -> str:
    if not math.isfinite(entry["low"]):
        return f"{number(entry['value'])} (no interval)"
    low, high = number(entry["low"], 3), number(entry["high"], 3)
    return f"{number(entry['value'])} ({low}{DASH}{high})"


def p_text(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def scaled(value: float | None, unit: float, name: str) -> str:
    return "-" if value is None else f"{value / unit:.2f} {name}".strip()


def ranked(row: ConfigurationRow) -> str:
    return f"{row['rank']}. {row['name']}" if row["rank"] else f"{row['name']} (optimistic)"


def protocol_words(protocol: str) -> str:
    return {PATIENT_VAL: "validation patients", OFFICIAL_VAL: "16 official validation images"}.get(
        protocol, PROTOCOLS.get(protocol, protocol)
    )


def plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
