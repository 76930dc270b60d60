"""The words and tables of the comparison page, section by section, from the comparison's dict."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pneumo.evaluation.comparison import CURVES, SCORE_WORDS
from pneumo.evaluation.reporting_items import items
from pneumo.evaluation.run_report import PROTOCOLS

Facts = Mapping[str, Any]
DASH = "–"  # noqa: RUF001  (an interval's)
MOST_PAIRS = 45  # ten configurations; of more only the pairs with the first are shown
MOST_REPORTS = 12
RULE_WORDS = {
    "half": "0.5",
    "sensitivity_95": "validation sensitivity at least .95",
    "youden": "Youden's on validation",
}


def page(result: Facts, pictures: Mapping[str, str]) -> dict[str, Any]:
    """What the template needs."""
    sections = [
        _section("In short", verdicts=verdicts(result)),
        _ranking(result),
        _pairs(result),
        _ensembles(result),
        _seed_tables(result),
        _section(
            "Curves",
            [
                f"The first {CURVES} configurations over one another: the mean over seeds, with their range."
                if _count(result) > CURVES
                else "The mean over the seeds of a configuration, with their range as a band."
            ],
            figures=("curves_accuracy", "curves_f1", "curves_loss"),
        ),
        _confusions(result),
        _section(
            "ROC and precision-recall",
            [
                "The mean over a configuration's seeds; bands are pointwise 95 % intervals of the bootstrap over "
                "patients. The area or average precision stands in brackets."
            ],
            figures=("roc", "precision_recall"),
        ),
        _calibration(result),
        _thresholds(result),
        _subtypes(result),
        _data(result),
        _cost(result),
        _mistakes(result, pictures),
        _reports(result),
        _configurations(result),
        _section("What this comparison does not show", bullets=limits(result)),
        _reporting(result),
        _method(result),
    ]
    return {
        "title": title(result),
        "lead": lead(result),
        "warnings": warnings(result),
        "sections": [section for section in sections if section],
        "footer": f"Made by pneumo {result['about']['version']} on {result['about']['made']}. Research "
        "software, not a medical device.",
    }


def title(result: Facts) -> str:
    about = result["about"]
    sweep = f", sweep {about['sweep']}" if about["sweep"] else ""
    return f"{_plural(_count(result), 'configuration')} compared: {about['experiment']}{sweep}"


def lead(result: Facts) -> str:
    test = result["test"]
    runs = sum(len(row["runs"]) for row in _rows(result))
    people = (
        _plural(test["clusters"], "patient") if not test["images_without_patient"] else "patients not known"
    )
    return (
        f"{_plural(runs, 'finished run')}, scored on the same {test['images']:,} test images ({people}): "
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
                f"{unnamed:,} of {result['test']['images']:,} test images name no patient; each is taken for a "
                "patient of its own, so intervals are too narrow and tests too sure if some show the same one.",
            )
        )
    if result["optimistic"]:
        found.append(
            (
                "Optimistic runs.",
                f"{_plural(len(result['optimistic']), 'configuration')} chose the epoch on the test images; "
                "shown apart, never ranked with the others.",
            )
        )
    if result["left_out"]:
        found.append(
            (
                "Left out.",
                f"{_plural(len(result['left_out']), 'run')}; the reasons are listed under Settings.",
            )
        )
    notes = sorted({note for row in _rows(result) for run in row["runs"] for note in run["notes"]})
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
            f"One configuration: {only['name']}, {SCORE_WORDS[score]} {with_interval(only['scores'][score])}. "
            "There is nothing to compare it with."
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
            ahead = [p["second"] for p in claimed if p["first"] == "c1"]
            behind = len(result["configurations"]) - 1 - len(ahead)
            said.append(
                f"The first, {result['configurations'][0]['name']}, differs from {len(ahead)} of the others in "
                f"{word}; from {behind} it cannot be told apart."
            )
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
    test, rows = result["test"], _rows(result)
    said = [
        f"On {test['images']:,} images the intervals are as wide as they are: differences below them are not "
        "shown to be nought, they are not shown at all.",
        "Whoever stands first was picked by these very test images; of "
        f"{_plural(len(result['configurations']), 'configuration')} its figure is the luckiest, so expect a "
        "little less on new patients.",
        "Intervals are of these trained networks over new patients like these. How much another training "
        "would differ is the SD over seeds, kept apart; with three seeds it is itself uncertain.",
        "Patients from elsewhere, other devices, ages or diseases: nothing was tested on them.",
        "Whether a doctor decides better with it: no reader took part.",
        "Explanations, fairness by age, sex or origin: the data do not name them.",
    ]
    if any(len(row["seeds"]) == 1 for row in rows):
        single = sum(len(row["seeds"]) == 1 for row in rows)
        said.append(f"Chance in training of {_plural(single, 'configuration')}: one seed each.")
    if result["about"]["data"] == "chest_xray" and not result["about"]["synthetic"]:
        said += [
            "The public set is from one centre, children of one to five years. Normal and pneumonia images "
            "differ in JPEG quality and aspect ratio too, which a model can learn instead of the disease.",
            "Validation was carved from the training folder, where every model scores near the ceiling; "
            "thresholds and temperatures fitted there need not suit the test images.",
        ]
    if any("trainer.epochs" == key for key in result["differences"]["keys"]):
        said.append("Equal effort: the configurations were trained for different numbers of epochs.")
    return said


# ---- sections


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
            _table(
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
            _table(
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
        _table(
            "Validation, at the chosen epoch",
            ["configuration", "accuracy", "AUROC", "F1", "epochs chosen", "epoch chosen by"],
            [
                [
                    name,
                    *(number(row["validation"][key]) for key in ("accuracy", "auroc", "f1")),
                    ", ".join(str(run["epoch"]) for run in row["runs"]),
                    _protocol(row["protocol"]),
                ]
                for name, row in zip(names, rows, strict=True)
            ],
        )
    )
    text = [
        f"By {SCORE_WORDS[result['rank_by']]} on the test images. The order is of the figures; whether two "
        "places differ is said under paired differences."
    ]
    return _section("Ranking", text, tables=tables, figures=("forest",))


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

    def table(score: str) -> dict[str, Any]:
        companion = {"accuracy": ("mcnemar", "McNemar"), "auroc": ("delong", "DeLong")}.get(score)
        columns = ["first minus second", "difference", "95 % interval", "p", "p, Holm", "with seeds' noise"]
        if companion:
            columns += [f"{companion[1]} p", f"{companion[1]} p, Holm"]
        if score == "accuracy":
            columns.append("only first / only second right")
        rows = []
        for pair in shown:
            entry = pair["scores"][score]
            noise = entry["with_seeds"]
            row = [
                f"{names[pair['first']]} − {names[pair['second']]}",  # noqa: RUF001
                f"{entry['difference']:+.4f}",
                f"{entry['low']:+.4f} to {entry['high']:+.4f}",
                _p(entry["p"]),
                _p(entry["p_holm"]),
                f"{noise[0]:+.4f} to {noise[1]:+.4f}" if noise else "one seed",
            ]
            if companion:
                other = pair.get(companion[0])
                row += [_p(other["p"]), _p(other["p_holm"])] if other else ["-", "-"]
            if score == "accuracy":
                row.append(f"{pair['mcnemar']['only_first']} / {pair['mcnemar']['only_second']}")
            rows.append(row)
        return _table(f"Differences in {SCORE_WORDS[score]}", columns, rows)

    text = [
        f"Paired bootstrap over patients; Holm's correction over all {len(pairs)} pairs, for each score of its "
        "own. DeLong and McNemar take images as independent and a configuration's seeds averaged: companions, "
        "not judges.",
    ]
    if not few:
        text.append(
            f"Shown are the {len(shown)} pairs with the first; pairs.csv and comparison.json have all."
        )
    return _section(
        "Paired differences",
        text,
        tables=[table(score) for score in scores[:2]],
        figures=("differences",),
        details=[
            {"summary": f"Differences in {SCORE_WORDS[score]}", "pre": "", "tables": [table(score)]}
            for score in scores[2:]
        ],
    )


def _ensembles(result: Facts) -> dict[str, Any] | None:
    rows = result["ensembles"]
    if not rows:
        return None
    scores = ("accuracy", "auroc", "f1", "recall", "specificity", "ece")
    table = _table(
        "Averaged probabilities: scores on the test images, 95 % interval over patients",
        ["ensemble", *(SCORE_WORDS[score] for score in scores)],
        [[row["name"], *(with_interval(row["scores"][score]) for score in scores)] for row in rows],
    )
    text = ["Networks' probabilities averaged before scoring: one predictor, at the cost of all its members."]
    return _section("Ensembles", text, tables=[table])


def _seed_tables(result: Facts) -> dict[str, Any] | None:
    """Best accuracy and F1 of each model, and what choosing by the test images adds."""
    rows = _rows(result)
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
        _table(
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
            _table(
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
            _table(
                "What choosing on test adds: test accuracy over the epochs of such a run",
                ["run", "best", "best F1", "epoch validation would choose", "median epoch", "last epoch"],
                chosen,
            )
        )
    return _section("As the student report shows it", tables=tables)


def _confusions(result: Facts) -> dict[str, Any]:
    groups = []
    for name, pick in (("Test", lambda row: row["confusion"]), ("Validation", _val_confusion)):
        cards = []
        for row in _rows(result)[:MOST_REPORTS]:
            for run, matrix in zip(row["runs"], pick(row), strict=False):
                mark = " (optimistic)" if row in result["optimistic"] and name == "Test" else ""
                cards.append({"name": f"{row['name']}, seed {run['seed']}{mark}", "lines": _lines(matrix)})
        groups.append({"title": f"{name} images", "cards": cards})
    text = ["Counts, and shares of the true class, at probability 0.5; one matrix a run."]
    if len(_rows(result)) > MOST_REPORTS:
        text.append(f"The first {MOST_REPORTS} configurations; the others' stand in comparison.json.")
    return _section("Confusion matrices", text, matrices=groups)


def _val_confusion(row: Facts) -> Sequence[Any]:
    return row["validation"]["confusion"]  # type: ignore[no-any-return]


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
    for row in _rows(result):
        fitted = row["temperature"]
        if fitted is None:
            continue
        before = [number(row["scores"][key]["value"]) for key in ("ece", "log_loss", "brier")]
        after = [number(fitted["after"][key]) for key in ("ece", "log_loss", "brier")]
        values = ", ".join(f"{value:.3f}" for value in fitted["values"])
        rows.append([_ranked(row), values, *(f"{a} → {b}" for a, b in zip(before, after, strict=True))])
    table = _table(
        "Temperature fitted on validation, and the test images' calibration before → after",
        ["configuration", "temperature by seed", "ECE", "log-loss", "Brier"],
        rows,
    )
    text = ["15 bins, the runs of a configuration pooled; ECE in brackets is the mean over its runs."]
    return _section("Calibration", text, tables=[table], figures=("calibration",))


def _thresholds(result: Facts) -> dict[str, Any]:
    tables = []
    for rule, words in RULE_WORDS.items():
        rows = []
        for row in _rows(result):
            point = row["points"].get(rule)
            if point is None:
                continue
            values = point["predictive_values"]
            rows.append(
                [
                    _ranked(row),
                    ", ".join(f"{value:.4f}" for value in point["thresholds"]),
                    number(point["validation_recall"]),
                    *(with_interval(point["scores"][s]) for s in ("recall", "specificity", "accuracy")),
                    *(f"{_share(v['ppv'])} / {_share(v['npv'])}" for v in values.values()),
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
        tables.append(_table(f"Threshold: {words}", [*columns, "accuracy", *prevalences], rows))
    text = [
        "Chosen on validation images, applied unchanged to the test images. Predictive values by Bayes' rule "
        "for three prevalences: what a positive or negative call is worth depends on how many are ill."
    ]
    return _section("Thresholds", text, tables=tables)


def _subtypes(result: Facts) -> dict[str, Any] | None:
    rows = [
        [
            _ranked(row),
            kind,
            f"{entry['images']} / {entry['normal']}",
            *(with_interval(entry[score]) for score in ("recall", "auroc", "auprc", "accuracy")),
        ]
        for row in _rows(result)
        for kind, entry in row["subtypes"].items()
    ]
    if not rows:
        return None
    columns = ["configuration", "pneumonia", "images / normal", "sensitivity", "AUROC", "AUPRC", "accuracy"]
    table = _table("Each kind of pneumonia against all normal images", columns, rows)
    return _section(
        "By subtype", ["At probability 0.5; the file names say which kind it is."], tables=[table]
    )


def _data(result: Facts) -> dict[str, Any]:
    splits, test = result["splits"], result["test"]
    text = [f"Data set digest {result['about']['digest'][:16]}: every run compared here has the same."]
    if not splits:
        text.append(
            "The runs do not record the sizes of their training splits, and the images are not at hand."
        )
    subtypes = ", ".join(f"{n} {kind}" for kind, n in test["subtypes"].items())
    flow = []
    if splits:
        total = sum(split["images"] for split in splits.values())
        people = [split["patients"] for split in splits.values()]
        known = f" of {sum(people):,} patients" if all(people) else ""
        flow.append(("All usable images", f"{total:,} images{known}"))
        roles = {
            "train": "fits the weights",
            "val": "chooses epoch, thresholds, temperature",
            "test": "scored",
        }
        for name, split in splits.items():
            count = f" of {split['patients']:,} patients" if split["patients"] else ""
            kinds = f" ({subtypes})" if name == "test" and subtypes else ""
            flow.append(
                (
                    {"train": "Training", "val": "Validation", "test": "Test"}[name],
                    f"{split['images']:,} images{count}: {split['normal']:,} normal, "
                    f"{split['pneumonia']:,} pneumonia{kinds}; {roles[name]}",
                )
            )
    return _section("Data", text, flow=flow, figures=("class_distribution",))


def _cost(result: Facts) -> dict[str, Any] | None:
    rows = []
    for row in _rows(result):
        cost = row.get("cost")
        if not cost:
            continue
        rows.append(
            [
                _ranked(row),
                str(cost.get("image_size") or "-"),
                _scaled(cost.get("parameters"), 1e6, "M"),
                _scaled(cost.get("flops"), 1e9, "G"),
                _scaled(cost.get("weights_bytes"), 2**20, "MiB"),
                _scaled(cost.get("latency_ms"), 1, "ms"),
                _scaled(cost.get("images_per_s"), 1, ""),
                _scaled(cost.get("epoch_s"), 1, "s"),
                _scaled(cost.get("peak_memory_mib"), 1, "MiB"),
                str(cost.get("device") or "-"),
            ]
        )
    if not rows:
        return None
    columns = ["configuration", "image size", "parameters", "FLOPs", "model size", "latency"]
    columns += ["training images/s", "time an epoch", "peak memory", "trained on"]
    table = _table("What each costs", columns, rows)
    text = [
        "FLOPs of one image, a multiply-add counted as two. Latency: one image at a time on the CPU that made "
        "this page, median, float32. Training figures as the runs logged them; a dash was not logged."
    ]
    return _section("Cost", text, tables=[table])


def _mistakes(result: Facts, pictures: Mapping[str, str]) -> dict[str, Any] | None:
    found = result["mistakes"]
    if not found:
        return None
    classes = ("normal", "pneumonia")
    shown = []
    for entry in found:
        truth, called = classes[entry["label"]], classes[1 - entry["label"]]
        caption = (
            f"{entry['path']}: {truth}, called {called} with probability of pneumonia "
            f"{entry['probability']:.4f}; wrong in {entry['wrong_in']} of {entry['of']} runs"
        )
        alt = f"Chest X-ray labelled {truth}, called {called}"
        shown.append({"data": pictures.get(entry["path"], ""), "alt": alt, "caption": caption})
    name = result["configurations"][0]["name"]
    text = [f"Of {name}, its seeds averaged, at probability 0.5: the surest of what it got wrong."]
    if not pictures:
        text.append("The images are not at hand; data.root=DIR names their folder.")
    return _section("The most confident mistakes", text, pictures=shown)


def _reports(result: Facts) -> dict[str, Any]:
    details = []
    for row in _rows(result)[:MOST_REPORTS]:
        tables = []
        for split, matrices in (("test", row["confusion"]), ("validation", _val_confusion(row))):
            for run, matrix in zip(row["runs"], matrices, strict=False):
                tables.append(_classification(f"{split} images, seed {run['seed']}", matrix))
        details.append({"summary": _ranked(row), "pre": "", "tables": tables})
    return _section("Classification reports", details=details)


def _classification(name: str, matrix: Sequence[Sequence[int]]) -> dict[str, Any]:
    (tn, fp), (fn, tp) = matrix

    def line(hit: int, false: int, missed: int) -> list[float]:
        precision = hit / (hit + false) if hit + false else 0.0
        recall = hit / (hit + missed) if hit + missed else 0.0
        return [precision, recall, 2 * hit / (2 * hit + false + missed) if hit + false + missed else 0.0]

    normal, ill = line(tn, fn, fp), line(tp, fp, fn)
    sizes = (tn + fp, fn + tp)
    total = max(1, sum(sizes))
    weighted = [(a * sizes[0] + b * sizes[1]) / total for a, b in zip(normal, ill, strict=True)]
    macro = [(a + b) / 2 for a, b in zip(normal, ill, strict=True)]
    rows = [
        ["NORMAL", *map(number, normal), str(sizes[0])],
        ["PNEUMONIA", *map(number, ill), str(sizes[1])],
        ["accuracy", "", "", number((tn + tp) / total), str(total)],
        ["macro average", *map(number, macro), str(total)],
        ["weighted average", *map(number, weighted), str(total)],
    ]
    return _table(name, ["class", "precision", "recall", "F1", "images"], rows)


def _configurations(result: Facts) -> dict[str, Any]:
    found = result["differences"]
    tables = []
    if found["keys"]:
        values = found["values"]
        rows = [[_ranked(row), *map(str, values[row["id"]])] for row in _rows(result)]
        tables.append(
            _table("What differs between the configurations", ["configuration", *found["keys"]], rows)
        )
    if result["left_out"]:
        rows = [[entry["run"], entry["reason"]] for entry in result["left_out"]]
        tables.append(_table("Left out", ["run", "reason"], rows, words=True))
    runs = [
        [run["name"], run["run_id"], str(run["seed"]), _ranked(row), str(run.get("commit") or "-")[:12]]
        for row in _rows(result)
        for run in row["runs"]
    ]
    shared = _table("In common", ["setting", "value"], [[k, str(v)] for k, v in found["shared"].items()])
    every = _table("Runs", ["run", "MLflow id", "seed", "configuration", "commit"], runs)
    details = [
        {"summary": "Settings that all have in common", "pre": "", "tables": [shared]},
        {"summary": "The runs", "pre": "", "tables": [every]},
    ]
    return _section("Settings", tables=tables, details=details)


def _reporting(result: Facts) -> dict[str, Any]:
    listed = items(result)
    rows = [[item.subject, item.guidelines, item.filled or "OPEN: for people to answer"] for item in listed]
    done = sum(item.filled is not None for item in listed)
    text = [
        f"What CLAIM 2024, TRIPOD+AI and STARD-AI ask, by subject: {done} of {len(listed)} have an answer on "
        "this page, the others are open. No list stands in for the guidelines themselves."
    ]
    table = _table("Reporting items", ["subject", "asked by", "answered"], rows, words=True)
    table["marked"] = {index for index, item in enumerate(listed) if item.filled is None}
    return _section("Reporting items", text, tables=[table])


def _method(result: Facts) -> dict[str, Any]:
    boot = result["bootstrap"]
    text = [
        f"{boot['draws']:,} draws, seed {boot['seed']}. Made with {result['about']['command']}.",
    ]
    return _section(
        "How it was made", text, details=[{"summary": "The bootstrap", "pre": boot["scheme"], "tables": []}]
    )


# ---- words and numbers


def caption(name: str, result: Facts) -> str:
    score = SCORE_WORDS[result["rank_by"]]
    return {
        "forest": "Accuracy and AUROC on the test images with 95 % intervals over patients; strokes are single "
        "seeds, diamonds ensembles, hollow circles optimistic runs.",
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
    low, high = number(entry["low"], 3), number(entry["high"], 3)
    return f"{number(entry['value'])} ({low}{DASH}{high})"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _share(value: float | None) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"


def _scaled(value: float | None, unit: float, name: str) -> str:
    return "-" if value is None else f"{value / unit:.2f} {name}".strip()


def _ranked(row: Facts) -> str:
    return f"{row['rank']}. {row['name']}" if row["rank"] else f"{row['name']} (optimistic)"


def _protocol(protocol: str) -> str:
    return {"patient_val": "validation patients", "official_val": "16 official validation images"}.get(
        protocol, PROTOCOLS.get(protocol, protocol)
    )


def _rows(result: Facts) -> list[Facts]:
    return [*result["configurations"], *result["optimistic"]]


def _count(result: Facts) -> int:
    return len(_rows(result))


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _table(
    caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], words: bool = False
) -> dict[str, Any]:
    return {
        "caption": caption,
        "columns": list(columns),
        "rows": [list(row) for row in rows],
        "words": words,
        "marked": set(),
        "notes": [],
    }


def _section(title: str, text: Sequence[str] = (), **blocks: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {
        "verdicts": [], "bullets": [], "flow": [], "tables": [], "figures": [], "matrices": [], "pictures": [],
        "details": [],
    }  # fmt: skip
    mark = title.lower().replace(" ", "-")
    return {**empty, **blocks, "id": mark, "title": title, "text": list(text)}
