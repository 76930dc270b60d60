"""What the comparison says in words and numbers, for the page and the terminal alike."""

import math
from collections.abc import Mapping
from typing import Any

from pneumo.comparison.pairs import SCORE_WORDS
from pneumo.names import PROTOCOLS

Facts = Mapping[str, Any]
DASH = "–"  # noqa: RUF001  (an interval's)


def title(result: Facts) -> str:
    about = result["about"]
    sweep = f", sweep {about['sweep']}" if about["sweep"] else ""
    return f"{plural(count(result), 'configuration')} compared: {about['experiment']}{sweep}"


def lead(result: Facts) -> str:
    test = result["test"]
    runs = sum(len(row["runs"]) for row in rows_of(result))
    people = (
        plural(test["clusters"], "patient") if not test["images_without_patient"] else "patients not known"
    )
    return (
        f"{plural(runs, 'finished run')}, scored on the same {test['images']:,} test images ({people}): "
        f"{test['normal']:,} normal, {test['pneumonia']:,} pneumonia. One point of accuracy is "
        f"{test['images'] / 100:.1f} images."
    )


def warnings(result: Facts) -> list[tuple[str, str]]:
    found = []
    if result["about"]["synthetic"]:
        found.append(("Synthetic images.", "They were made by a program and say nothing about patients."))
    unnamed = result["test"]["images_without_patient"]
    if unnamed:
        found.append(
            (
                "Patients are not known.",
                f"{unnamed:,} of {result['test']['images']:,} test images name no patient; each is "
                "taken for a patient of its own: intervals are too narrow if some show the same one.",
            )
        )
    if result["optimistic"]:
        found.append(
            (
                "Optimistic runs.",
                f"{plural(len(result['optimistic']), 'configuration')} chose the epoch on the test images; "
                "shown apart, never ranked with the others.",
            )
        )
    if result["left_out"]:
        found.append(
            (
                "Left out.",
                f"{plural(len(result['left_out']), 'run')}; the reasons are listed under Settings.",
            )
        )
    notes = sorted({note for row in rows_of(result) for run in row["runs"] for note in run["notes"]})
    found += [("Note.", note) for note in notes]
    return found


def verdicts(result: Facts) -> list[str]:
    """What may be claimed, in the score that ranks and AUROC: of ten configurations or fewer every pair."""
    pairs = result["pairs"]
    if not result["configurations"]:
        return ["Only runs that chose their epoch on the test images were found: nothing can be ranked."]
    if not pairs:
        only = result["configurations"][0]
        score = result["rank_by"]
        return [
            f"One configuration: {only['name']}, {SCORE_WORDS[score]} "
            f"{with_interval(only['scores'][score])}. There is nothing to compare it with."
        ]
    said = []
    for score in pairs[0]["verdicts"]:
        claimed = [pair for pair in pairs if not pair["verdicts"][score].startswith("No difference")]
        if len(pairs) <= 6:
            said += [_with_seeds(pair, score) for pair in pairs]
        elif not claimed:
            said.append(f"No difference in {SCORE_WORDS[score]} can be claimed in any of {len(pairs)} pairs.")
        else:
            word = SCORE_WORDS[score]
            said.append(f"A difference in {word} can be claimed in {len(claimed)} of {len(pairs)} pairs.")
            behind = len(result["configurations"]) - 1 - sum(pair["first"] == "c1" for pair in claimed)
            rest = f"all but {behind} of the others" if behind else "every other"
            said.append(f"The first, {result['configurations'][0]['name']}, differs from {rest} in {word}.")
    return said


def _with_seeds(pair: Facts, score: str) -> str:
    noise = pair["scores"][score]["with_seeds"]
    said = str(pair["verdicts"][score])
    if noise is None:
        return f"{said} One seed at least on one side: chance in training is not counted."
    word = "also excludes" if noise[0] > 0 or noise[1] < 0 else "includes"
    return f"{said} With chance in training counted, {noise[0]:+.4f} to {noise[1]:+.4f}, which {word} zero."


def limits(result: Facts) -> list[str]:
    """What a reader might take from the page, and should not."""
    test, rows = result["test"], rows_of(result)
    said = [
        f"On {test['images']:,} images the intervals are as wide as they are: differences below them are not "
        "shown to be nought, they are not shown at all.",
        "Whoever stands first was picked by these very test images; of "
        f"{plural(len(result['configurations']), 'configuration')} its figure is the luckiest, so expect a "
        "little less on new patients.",
        "Intervals are of these trained networks over new patients like these. How much another training "
        "would differ is the SD over seeds, kept apart; with three seeds it is itself uncertain.",
        "Patients from elsewhere, other devices, ages or diseases: nothing was tested on them.",
        "Whether a doctor decides better with it: no reader took part.",
        "Explanations, fairness by age, sex or origin: the data do not name them.",
    ]
    if any(len(row["seeds"]) == 1 for row in rows):
        single = sum(len(row["seeds"]) == 1 for row in rows)
        said.append(f"Chance in training of {plural(single, 'configuration')}: one seed each.")
    if result["about"]["data"] == "chest_xray" and not result["about"]["synthetic"]:
        said += [
            "The public set is from one centre, children of one to five years. Normal and pneumonia images "
            "differ in JPEG quality and aspect ratio too, which a model can learn instead of the disease.",
            "Validation was carved from the training folder, where every model scores near the ceiling; "
            "thresholds and temperatures fitted there need not suit the test images.",
        ]
    if any(key == "trainer.epochs" for key in result["differences"]["keys"]):
        said.append("Equal effort: the configurations were trained for different numbers of epochs.")
    return said


def caption(name: str, result: Facts) -> str:
    score = SCORE_WORDS[result["rank_by"]]
    return {
        "forest": "Accuracy and AUROC on the test images with 95 % intervals over patients; strokes are "
        "single seeds, diamonds ensembles, hollow circles optimistic runs.",
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
    }[name]


def number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def with_interval(entry: Facts) -> str:
    if not math.isfinite(entry["low"] or 0.0):
        return f"{number(entry['value'])} (no interval)"
    low, high = number(entry["low"], 3), number(entry["high"], 3)
    return f"{number(entry['value'])} ({low}{DASH}{high})"


def p_text(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def scaled(value: float | None, unit: float, name: str) -> str:
    return "-" if value is None else f"{value / unit:.2f} {name}".strip()


def ranked(row: Facts) -> str:
    return f"{row['rank']}. {row['name']}" if row["rank"] else f"{row['name']} (optimistic)"


def protocol_words(protocol: str) -> str:
    return {"patient_val": "validation patients", "official_val": "16 official validation images"}.get(
        protocol, PROTOCOLS.get(protocol, protocol)
    )


def rows_of(result: Facts) -> list[Facts]:
    return [*result["configurations"], *result["optimistic"]]


def count(result: Facts) -> int:
    return len(rows_of(result))


def plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
