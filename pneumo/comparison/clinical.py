"""What a user of a model asks on the page: calibration, thresholds, and whether acting on it helps."""

from collections.abc import Sequence

import numpy as np

from pneumo.comparison.blocks import Details, Section, Table
from pneumo.comparison.content import Comparison, ConfigurationRow, Decision, PairRow, PairScore, all_rows
from pneumo.comparison.words import (
    DASH,
    SCORE_WORDS,
    difference_cells,
    difference_columns,
    images_word,
    number,
    pairs_in_tables,
    plural,
    ranked,
    score_words,
    temperature,
    with_interval,
)

RULE_WORDS = {
    "half": "0.5",
    "sensitivity_95": "validation sensitivity of at least .95",
    "youden": "Youden's index on validation",
}
BY_CHANCE = (
    " Each run has its own threshold, which varies with the validation images: over patients alone, networks "
    "of equal configurations often differ here."
)
SHOWN_THRESHOLDS = (0.05, 0.10, 0.20, 0.30, 0.50, 0.70)  # of the decision curve


def sections(comparison: Comparison) -> list[Section]:
    """Calibration, thresholds and the decision curve."""
    decision = comparison["decision"]
    curve = [_decision(comparison, decision)] if decision else []
    return [_calibration(comparison), _thresholds(comparison), *curve]


def _calibration(comparison: Comparison) -> Section:
    rows = all_rows(comparison)
    text = [
        "Slope below 1: the probabilities are too extreme. Intercept above 0: they are too low. Both are "
        "means over the seeds, with 95 % intervals over patients. Without a slope, the probabilities "
        "separate the classes.",
        "ECE (15 bins) is above 0 for a calibrated network too; the last column shows by how much on these "
        "images. Its interval subtracts that.",
        "In the figure, the runs of a configuration are pooled. Bars are 95 % intervals over patients.",
    ]
    table = Table(
        caption=f"Calibration of the {images_word(comparison)} images",
        columns=["configuration", "slope", "intercept", "ECE", "ECE of a calibrated network"],
        rows=[
            [
                ranked(row),
                with_interval(row["calibration"]["slope"]),
                with_interval(row["calibration"]["intercept"]),
                with_interval(row["scores"]["ece"]),
                number(row["calibration"]["ece_if_calibrated"]),
            ]
            for row in rows
        ],
    )
    section = Section(title="Calibration", text=text, tables=[table], figures=["calibration"])
    add_temperatures(section, comparison)
    return section


def add_temperatures(section: Section, comparison: Comparison) -> None:
    """Add what the temperatures of validation do, for two classes or more."""
    rows, words = all_rows(comparison), score_words(comparison)
    if any(row["temperature"] for row in rows):
        section.tables.append(_temperatures(comparison))
    pairs = [pair for pair in pairs_in_tables(comparison) if pair["tempered"]]
    if pairs:
        names = {row["id"]: ranked(row) for row in comparison["configurations"]}
        entries = [(pair, words[score], entry) for pair in pairs for score, entry in pair["tempered"].items()]
        table = _pair_table("Differences after temperature, exploratory", entries, names)
        section.details.append(Details(summary=table.caption, text=_pairs_text(comparison), tables=[table]))


def _temperatures(comparison: Comparison) -> Table:
    rows, words, where = all_rows(comparison), score_words(comparison), images_word(comparison)
    scores = [score for score in ("ece_top", "ece", "log_loss", "brier") if score in rows[0]["scores"]]
    lines = []
    for row in rows:
        fitted = row["temperature"]
        if fitted is None:
            continue
        values = ", ".join(temperature(value) for value in fitted["values"])
        changes = [
            f"{number(row['scores'][score]['value'])} → {number(fitted['after'][score])}" for score in scores
        ]
        lines.append([ranked(row), values, *changes])
    return Table(
        caption=f"Temperature fitted on validation, and the calibration of the {where} images before → after",
        columns=["configuration", "temperature by seed", *(words[score] for score in scores)],
        rows=lines,
    )


def _thresholds(comparison: Comparison) -> Section:
    text = (
        "Thresholds are chosen on the validation images and applied unchanged to the "
        f"{images_word(comparison)} images. Predictive values follow from Bayes' rule for three prevalences: "
        "the worth of a positive or negative call depends on how many patients are ill."
    )
    rows, chosen = all_rows(comparison), RULE_WORDS
    if comparison["scored_on"] == "val":
        text = "At probability 0.5. A threshold chosen on these images would look better here than it is."
        chosen = {"half": RULE_WORDS["half"]}
    section = Section(title="Thresholds", text=[text])
    names = {row["id"]: ranked(row) for row in comparison["configurations"]}
    for rule, words in chosen.items():
        section.tables.append(_threshold_table(rule, words, rows))
        table = _predictive_table(rule, words, rows)
        section.details.append(Details(summary=table.caption, tables=[table]))
        entries = [
            (pair, SCORE_WORDS[score], entry)
            for pair in pairs_in_tables(comparison)
            for score, entry in pair["points"].get(rule, {}).items()
        ]
        if entries:
            table = _pair_table(f"Differences at the threshold of {words}, exploratory", entries, names)
            section.details.append(
                Details(summary=table.caption, text=_pairs_text(comparison) + BY_CHANCE, tables=[table])
            )
    return section


def _threshold_table(rule: str, words: str, rows: Sequence[ConfigurationRow]) -> Table:
    lines = []
    for row in rows:
        point = row["points"].get(rule)
        if point is not None:
            scores = [with_interval(point["scores"][name]) for name in ("recall", "specificity", "accuracy")]
            thresholds = ", ".join(f"{threshold:.4f}" for threshold in point["thresholds"])
            lines.append([ranked(row), thresholds, number(point["validation_recall"]), *scores])
    columns = ["configuration", "threshold by seed", "sensitivity, validation", "sensitivity", "specificity"]
    return Table(caption=f"Threshold: {words}", columns=[*columns, "accuracy"], rows=lines)


def _predictive_table(rule: str, words: str, rows: Sequence[ConfigurationRow]) -> Table:
    lines = [
        [
            ranked(row),
            f"{float(prevalence):.1%}",
            _share(values["ppv"], values["ppv_low"], values["ppv_high"]),
            _share(values["npv"], values["npv_low"], values["npv_high"]),
        ]
        for row in rows
        if rule in row["points"]
        for prevalence, values in row["points"][rule]["predictive_values"].items()
    ]
    return Table(
        caption=f"Predictive values at the threshold of {words}",
        columns=["configuration", "prevalence", "PPV", "NPV"],
        rows=lines,
    )


def _share(value: float, low: float, high: float) -> str:
    ends = f" ({number(low, 3)}{DASH}{number(high, 3)})" if np.isfinite(low) else " (no interval)"
    return number(value, 3) + ends


def _decision(comparison: Comparison, decision: Decision) -> Section:
    rows = all_rows(comparison)
    places = [int(np.argmin(np.abs(np.array(decision["thresholds"]) - t))) for t in SHOWN_THRESHOLDS]
    lines = [[ranked(row), *(number(row["net_benefit"][place], 3) for place in places)] for row in rows]
    lines.append(["treat all", *(number(decision["treat_all"][place], 3) for place in places)])
    lines.append(["treat none", *(number(0.0, 3) for _ in places)])
    text = (
        "Net benefit is the share of images rightly called ill, less the share wrongly called ill times the "
        "odds of the threshold probability: who acts from 10 % on accepts nine false alarms for one patient "
        f"found. It holds for {decision['prevalence']:.1%} ill images, as here, and for calibrated "
        "probabilities. A model is worth using at a threshold where its curve is above both treat all and "
        "treat none (0). Curves are means over the seeds."
    )
    table = Table(
        caption="Net benefit at threshold probabilities",
        columns=["configuration", *(f"at {threshold:.0%}" for threshold in SHOWN_THRESHOLDS)],
        rows=lines,
    )
    return Section(title="Decision curve", text=[text], figures=["decision_curve"], tables=[table])


def _pairs_text(comparison: Comparison) -> str:
    pairs, shown = comparison["pairs"], pairs_in_tables(comparison)
    text = f"Holm's correction is over {plural(len(pairs), 'pair')}, separately for each score."
    if len(shown) < len(pairs):
        text += f" The table shows the {len(shown)} pairs with the first; comparison.json has all."
    if any(entry["with_seeds"] is None for pair in shown for entry in pair["scores"].values()):
        text += " Where a side has one seed, the difference is one between these trained networks only."
    return text


def _pair_table(
    caption: str, entries: Sequence[tuple[PairRow, str, PairScore]], names: dict[str, str]
) -> Table:
    rows = [
        [f"{names[pair['first']]} minus {names[pair['second']]}", words, *difference_cells(entry)]
        for pair, words, entry in entries
    ]
    columns = ["difference between", "score", *difference_columns()]
    return Table(caption=caption, columns=columns, rows=rows)
