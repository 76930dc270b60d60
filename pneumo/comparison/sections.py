"""The results on the comparison page: tables, matrices and words, from the comparison's dict."""

from collections.abc import Mapping, Sequence
from typing import Any

from pneumo.comparison import appendix as page_appendix
from pneumo.comparison.blocks import MOST_REPORTS, Facts, section, table, val_confusion
from pneumo.comparison.pairs import SCORE_WORDS
from pneumo.comparison.result import CURVES, FEW_DRAWS
from pneumo.comparison.words import (
    count,
    lead,
    limits,
    number,
    p_text,
    plural,
    protocol_words,
    ranked,
    rows_of,
    title,
    verdicts,
    warnings,
    with_interval,
)

MOST_PAIRS = 45  # ten configurations; of more only the pairs with the first are shown
RULE_WORDS = {
    "half": "0.5",
    "sensitivity_95": "validation sensitivity at least .95",
    "youden": "Youden's on validation",
}


def page(result: Facts, pictures: Mapping[str, str]) -> dict[str, Any]:
    """What the template needs."""
    sections = [
        section("In short", verdicts=verdicts(result)),
        _ranking(result),
        _pairs(result),
        _ensembles(result),
        _seed_tables(result),
        section(
            "Curves",
            [
                f"The first {CURVES} configurations over one another: the mean over seeds, with their range."
                if count(result) > CURVES
                else "The mean over the seeds of a configuration, with their range as a band."
            ],
            figures=("curves_accuracy", "curves_f1", "curves_loss"),
        ),
        _confusions(result),
        section(
            "ROC and precision-recall",
            [
                "The mean over a configuration's seeds; bands are pointwise 95 % intervals of the bootstrap "
                "over patients. The area or average precision stands in brackets."
            ],
            figures=("roc", "precision_recall"),
        ),
        _calibration(result),
        _thresholds(result),
        _subtypes(result),
        page_appendix.data(result),
        page_appendix.cost(result),
        page_appendix.mistakes(result, pictures),
        page_appendix.reports(result),
        page_appendix.settings(result),
        section("What this comparison does not show", bullets=limits(result)),
        page_appendix.reporting(result),
        page_appendix.method(result),
    ]
    return {
        "title": title(result),
        "lead": lead(result),
        "warnings": warnings(result),
        "sections": [section for section in sections if section],
        "footer": f"Made by pneumo {result['about']['version']} on {result['about']['made']}. Research "
        "software, not a medical device.",
    }


def _ranking(result: Facts) -> dict[str, Any] | None:
    rows = result["configurations"]
    if not rows:
        return None
    main = ("accuracy", "auroc", "f1", "recall", "specificity")
    others = ("balanced_accuracy", "precision", "mcc", "auprc", "brier", "log_loss", "ece")
    names = [f"{row['rank']}. {row['name']}" for row in rows]
    tables = []
    for scores, which in ((main, "main scores"), (others, "further scores")):
        tables.append(
            table(
                f"Test images, {which}: mean over seeds, 95 % interval over patients",
                ["configuration", "seeds", *(SCORE_WORDS[score] for score in scores)],
                [
                    [name, str(len(row["seeds"])), *(with_interval(row["scores"][score]) for score in scores)]
                    for name, row in zip(names, rows, strict=True)
                ],
            )
        )
    several = [(name, row) for name, row in zip(names, rows, strict=True) if len(row["seeds"]) > 1]
    if several:
        tables.append(
            table(
                "Standard deviation over training seeds (and each seed's accuracy)",
                ["configuration", *(SCORE_WORDS[score] for score in main), "accuracy by seed"],
                [
                    [
                        name,
                        *(number(row["scores"][score]["sd"]) for score in main),
                        ", ".join(number(value) for value in row["scores"]["accuracy"]["per_run"]),
                    ]
                    for name, row in several
                ],
            )
        )
    tables.append(
        table(
            "Validation, at the chosen epoch",
            ["configuration", "accuracy", "AUROC", "F1", "epochs chosen", "epoch chosen by"],
            [
                [
                    name,
                    *(number(row["validation"][key]) for key in ("accuracy", "auroc", "f1")),
                    ", ".join(str(run["epoch"]) for run in row["runs"]),
                    protocol_words(row["protocol"]),
                ]
                for name, row in zip(names, rows, strict=True)
            ],
        )
    )
    text = [
        f"By {SCORE_WORDS[result['rank_by']]} on the test images. The order is of the figures; whether two "
        "places differ is said under paired differences."
    ]
    return section("Ranking", text, tables=tables, figures=("forest",))


def _pairs(result: Facts) -> dict[str, Any] | None:
    pairs = result["pairs"]
    if not pairs:
        return None
    few = len(pairs) <= MOST_PAIRS
    shown = pairs if few else [pair for pair in pairs if pair["first"] == "c1"]
    names = {row["id"]: f"{row['rank']}. {row['name']}" for row in result["configurations"]}
    first = list(dict.fromkeys((result["rank_by"], "accuracy", "auroc")))
    scores = [s for s in first if s in pairs[0]["scores"]]
    scores += [s for s in pairs[0]["scores"] if s not in scores]

    def of(score: str) -> dict[str, Any]:
        companion = {"accuracy": ("mcnemar", "McNemar"), "auroc": ("delong", "DeLong")}.get(score)
        columns = [
            "first minus second" if few else f"{names['c1']}, minus",
            "difference",
            "95 % interval",
            "p",
            "p, Holm",
            "with seeds' noise",
        ]
        if companion:
            columns += [f"{companion[1]} p", f"{companion[1]} p, Holm"]
        if score == "accuracy":
            columns.append("only first / only second right")
        rows = []
        for pair in shown:
            entry = pair["scores"][score]
            noise = entry["with_seeds"]
            row = [
                f"{names[pair['first']]} − {names[pair['second']]}"  # noqa: RUF001
                if few
                else names[pair["second"]],
                f"{entry['difference']:+.4f}",
                f"{entry['low']:+.4f} to {entry['high']:+.4f}",
                p_text(entry["p"]),
                p_text(entry["p_holm"]),
                f"{noise[0]:+.4f} to {noise[1]:+.4f}" if noise else "one seed",
            ]
            if companion:
                other = pair.get(companion[0])
                row += [p_text(other["p"]), p_text(other["p_holm"])] if other else ["-", "-"]
            if score == "accuracy":
                row.append(f"{pair['mcnemar']['only_first']} / {pair['mcnemar']['only_second']}")
            rows.append(row)
        return table(f"Differences in {SCORE_WORDS[score]}", columns, rows)

    text = [
        f"Paired bootstrap over patients; Holm's correction over {plural(len(pairs), 'pair')}, for each "
        "score of its own. DeLong (of the seeds' mean) and McNemar (the seeds' probabilities averaged) take "
        "images as independent: companions, not judges.",
    ]
    if not few:
        text.append(
            f"Shown are the {len(shown)} pairs with the first; pairs.csv and comparison.json have all."
        )
    return section(
        "Paired differences",
        text,
        tables=[of(score) for score in scores[:2]],
        figures=("differences",),
        details=[
            {"summary": f"Differences in {SCORE_WORDS[score]}", "pre": "", "tables": [of(score)]}
            for score in scores[2:]
        ],
    )


def _ensembles(result: Facts) -> dict[str, Any] | None:
    rows = result["ensembles"]
    if not rows:
        return None
    scores = ("accuracy", "auroc", "f1", "recall", "specificity", "ece")
    shown = table(
        "Averaged probabilities: scores on the test images, 95 % interval over patients",
        ["ensemble", *(SCORE_WORDS[score] for score in scores)],
        [[row["name"], *(with_interval(row["scores"][score]) for score in scores)] for row in rows],
    )
    text = ["Networks' probabilities averaged before scoring: one predictor, at the cost of all its members."]
    return section("Ensembles", text, tables=[shown])


def _seed_tables(result: Facts) -> dict[str, Any] | None:
    """Best accuracy and F1 of each model, and what choosing by the test images adds."""
    rows = rows_of(result)
    best = []
    for model in dict.fromkeys(row["model"] for row in rows):
        runs = [
            (values, f1, run["epoch"], row)
            for row in rows
            if row["model"] == model
            for values, f1, run in zip(
                row["scores"]["accuracy"]["per_run"], row["scores"]["f1"]["per_run"], row["runs"], strict=True
            )
        ]
        for optimistic in (False, True):
            mine = [run for run in runs if (run[3] in result["optimistic"]) == optimistic]
            if mine:
                top, top_f1 = max(run[0] for run in mine), max(run[1] for run in mine)
                how = "OPTIMISTIC: epoch chosen on test" if optimistic else "epoch chosen on validation"
                best.append([model, str(len(mine)), number(top), number(top_f1), how])
    tables = [
        table(
            "Best test accuracy and F1 of each model's runs (the best of several is optimistic by itself)",
            ["model", "runs", "best accuracy", "best F1", "protocol"],
            best,
        )
    ]
    chosen = []
    for row in result["optimistic"]:
        for run in row["runs"]:
            history = [entry for entry in run["history"] if entry.get("test/accuracy") is not None]
            if not history:
                continue
            by_test = max(history, key=lambda entry: entry["test/accuracy"])
            by_f1 = max(history, key=lambda entry: entry.get("test/f1", -1.0))
            by_val = max(history, key=lambda entry: entry.get("val/auroc", -1.0))
            values = sorted(entry["test/accuracy"] for entry in history)
            chosen.append(
                [
                    f"{row['name']}, seed {run['seed']}",
                    f"{number(by_test['test/accuracy'])} (epoch {by_test['epoch']})",
                    f"{number(by_f1.get('test/f1'))} (epoch {by_f1['epoch']})",
                    f"{number(by_val['test/accuracy'])} (epoch {by_val['epoch']})",
                    number(values[len(values) // 2]),
                    number(history[-1]["test/accuracy"]),
                ]
            )
    if result["optimistic"]:
        scores = ("accuracy", "auroc", "f1", "recall", "specificity")
        tables.append(
            table(
                "OPTIMISTIC, not ranked: runs that chose their epoch on the test images",
                ["configuration", "seeds", *(SCORE_WORDS[score] for score in scores)],
                [
                    [row["name"], str(len(row["seeds"])), *(with_interval(row["scores"][s]) for s in scores)]
                    for row in result["optimistic"]
                ],
            )
        )
    if chosen:
        tables.append(
            table(
                "What choosing on test adds: test accuracy over the epochs of such a run",
                ["run", "best", "best F1", "epoch validation would choose", "median epoch", "last epoch"],
                chosen,
            )
        )
    return section("As the student report shows it", tables=tables)


def _confusions(result: Facts) -> dict[str, Any]:
    groups = []
    for name, pick in (("Test", lambda row: row["confusion"]), ("Validation", val_confusion)):
        cards = []
        for row in rows_of(result)[:MOST_REPORTS]:
            for run, matrix in zip(row["runs"], pick(row), strict=False):
                mark = " (optimistic)" if row in result["optimistic"] else ""
                cards.append({"name": f"{row['name']}, seed {run['seed']}{mark}", "lines": _lines(matrix)})
        groups.append({"title": f"{name} images", "cards": cards})
    text = ["Counts, and shares of the true class, at probability 0.5; one matrix a run."]
    if len(rows_of(result)) > MOST_REPORTS:
        text.append(f"The first {MOST_REPORTS} configurations; the others' stand in comparison.json.")
    return section("Confusion matrices", text, matrices=groups)


def _lines(matrix: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    lines = []
    for name, counts in zip(("normal", "pneumonia"), matrix, strict=True):
        total = max(1, sum(counts))
        cells = [
            {"count": count, "share": f"{count / total:.1%}", "shade": f"{0.55 * count / total:.2f}"}
            for count in counts
        ]
        lines.append({"name": name, "cells": cells})
    return lines


def _calibration(result: Facts) -> dict[str, Any]:
    rows = []
    for row in rows_of(result):
        fitted = row["temperature"]
        if fitted is None:
            continue
        before = [number(row["scores"][key]["value"]) for key in ("ece", "log_loss", "brier")]
        after = [number(fitted["after"][key]) for key in ("ece", "log_loss", "brier")]
        values = ", ".join(f"{value:.3f}" for value in fitted["values"])
        rows.append([ranked(row), values, *(f"{a} → {b}" for a, b in zip(before, after, strict=True))])
    shown = table(
        "Temperature fitted on validation, and the test images' calibration before → after",
        ["configuration", "temperature by seed", "ECE", "log-loss", "Brier"],
        rows,
    )
    text = ["15 bins, the runs of a configuration pooled; ECE in brackets is the mean over its runs."]
    return section("Calibration", text, tables=[shown], figures=("calibration",))


def _thresholds(result: Facts) -> dict[str, Any]:
    tables = []
    for rule, words in RULE_WORDS.items():
        rows = []
        for row in rows_of(result):
            point = row["points"].get(rule)
            if point is None:
                continue
            values = point["predictive_values"]
            rows.append(
                [
                    ranked(row),
                    ", ".join(f"{value:.4f}" for value in point["thresholds"]),
                    number(point["validation_recall"]),
                    *(with_interval(point["scores"][s]) for s in ("recall", "specificity", "accuracy")),
                    *(f"{number(v['ppv'], 3)} / {number(v['npv'], 3)}" for v in values.values()),
                ]
            )
        prevalences = [f"PPV / NPV at {float(key):.1%}" for key in values] if rows else []
        columns = [
            "configuration",
            "threshold by seed",
            "sensitivity, validation",
            "sensitivity",
            "specificity",
        ]
        tables.append(table(f"Threshold: {words}", [*columns, "accuracy", *prevalences], rows))
    text = [
        "Chosen on validation images, applied unchanged to the test images. Predictive values by Bayes' rule "
        "for three prevalences: what a positive or negative call is worth depends on how many are ill."
    ]
    return section("Thresholds", text, tables=tables)


def _subtypes(result: Facts) -> dict[str, Any] | None:
    rows = [
        [
            ranked(row),
            kind,
            f"{entry['images']} / {entry['normal']}",
            *(with_interval(entry[score]) for score in ("recall", "auroc", "auprc", "accuracy")),
        ]
        for row in rows_of(result)
        for kind, entry in row["subtypes"].items()
    ]
    if not rows:
        return None
    columns = ["configuration", "pneumonia", "images / normal", "sensitivity", "AUROC", "AUPRC", "accuracy"]
    shown = table("Each kind of pneumonia against all normal images", columns, rows)
    return section(
        "By subtype",
        [f"At probability 0.5; the file names say which kind it is. Intervals of {FEW_DRAWS} draws."],
        tables=[shown],
    )
