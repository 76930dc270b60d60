"""The results on the comparison page, as tables, matrices and words."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from pneumo.comparison import (
    appendix,
    class_sections,
    clinical,
    external_sections,
    finding_sections,
    fold_words,
)
from pneumo.comparison.appendix import MOST_REPORTS
from pneumo.comparison.blocks import (
    Cell,
    Details,
    Link,
    Matrix,
    MatrixGroup,
    MatrixLine,
    PageContent,
    Place,
    Ranking,
    Section,
    Table,
)
from pneumo.comparison.configuration import FEW_DRAWS
from pneumo.comparison.content import (
    Comparison,
    ConfigurationRow,
    Confusion,
    PairRow,
    ScoreInterval,
    all_rows,
    class_names,
    many,
    several_findings,
)
from pneumo.comparison.result import CURVES
from pneumo.comparison.words import (
    answer,
    chosen_by,
    compact,
    difference_cells,
    difference_columns,
    forest_scores,
    from_outside,
    headlines,
    images_word,
    lead,
    limits,
    number,
    over_folds,
    p_text,
    pairs_in_tables,
    plural,
    protocol_words,
    ranked,
    ranked_by,
    score_words,
    short_number,
    title,
    verdicts,
    warnings,
    with_interval,
)

MAIN_SCORES = ("auroc", "accuracy", "f1", "recall", "specificity")
FURTHER_SCORES = ("balanced_accuracy", "precision", "mcc", "auprc", "brier", "log_loss", "ece")
# Of more than two classes:
CLASS_MAIN_SCORES = ("auroc", "accuracy", "balanced_accuracy", "f1", "mcc")
CLASS_FURTHER_SCORES = (
    *("f1_weighted", "kappa", "precision", "specificity", "auprc", "brier", "log_loss"),
    *("ece_top", "ece"),
)
FINDING_FURTHER_SCORES = (*FURTHER_SCORES, "exact_match")  # of several findings
CLASS_MATRICES = 3  # configurations whose matrices are shown; of two classes MOST_REPORTS
FEW_CLASSES = 4  # up to so many, matrices fit beside one another
MOST_PLACES = 12  # on the first screen; the others are folded below it
MOST_LINKS = 5  # runs of a configuration that are linked one by one


def page(comparison: Comparison, pictures: Mapping[str, str]) -> PageContent:
    """Everything on the page apart from the drawn figures."""
    found = [
        Section(
            title="Conclusions",
            verdicts=verdicts(comparison),
            text=[
                lead(comparison),
                *fold_words.conclusions(comparison),
                *external_sections.elsewhere(comparison),
            ],
            open=True,
        ),
        _warnings(comparison),
        *external_sections.sections(comparison),
        Section(title="What this does not show", bullets=limits(comparison)),
        _scores(comparison),
        fold_words.section(comparison),
        _by_class(comparison),
        _pairs(comparison),
        _ensembles(comparison),
        *([] if from_outside(comparison) else [_seed_tables(comparison), _curves(comparison)]),
        *_calls(comparison),
        Section(
            title="ROC and precision-recall",
            text=[
                f"The mean over a configuration's seeds{_and_classes(comparison)}. Bands are pointwise "
                "95 % intervals of the bootstrap over patients. Brackets show the "
                f"{score_words(comparison)['auroc']} or the {score_words(comparison)['auprc']}."
            ],
            figures=["roc", "precision_recall"],
        ),
        *_calibration(comparison),
        _subtypes(comparison),
        appendix.data(comparison),
        appendix.cost(comparison),
        appendix.mistakes(comparison, pictures),
        appendix.settings(comparison),
        None if from_outside(comparison) else appendix.runs(comparison),
    ]
    sections = [section for section in found if section]
    method = appendix.method(comparison)
    titles = [section.title for section in [*sections, method]]
    sections += [appendix.reporting(comparison, titles), method]
    about = comparison["about"]
    return PageContent(
        title=title(comparison),
        answer=" ".join(filter(None, [answer(comparison), external_sections.headline(comparison)])),
        warnings=headlines(comparison),
        ranking=_ranking(comparison),
        sections=sections,
        footer=f"Made by pneumo {about['version']} on {about['made']}. Research software, not a medical "
        "device.",
    )


def _by_class(comparison: Comparison) -> Section | None:
    return class_sections.by_class(comparison, _wording(comparison)) if many(comparison) else None


def _wording(comparison: Comparison) -> class_sections.Wording:
    return finding_sections.FINDINGS if several_findings(comparison) else class_sections.CLASSES


def _calls(comparison: Comparison) -> list[Section]:
    if several_findings(comparison):
        return [finding_sections.confusions(comparison)]
    return [_confusions(comparison), appendix.reports(comparison)]


def _calibration(comparison: Comparison) -> Sequence[Section]:
    if many(comparison):
        return [class_sections.calibration(comparison, _wording(comparison))]
    return clinical.sections(comparison)


def _and_classes(comparison: Comparison) -> str:
    if several_findings(comparison):
        return " and the findings"
    return " and the classes" if many(comparison) else ""


def _main_scores(comparison: Comparison) -> Sequence[str]:
    of_classes = many(comparison) and not several_findings(comparison)
    return CLASS_MAIN_SCORES if of_classes else MAIN_SCORES


def _further_scores(comparison: Comparison) -> Sequence[str]:
    if several_findings(comparison):
        return FINDING_FURTHER_SCORES
    return CLASS_FURTHER_SCORES if many(comparison) else FURTHER_SCORES


def _scores_shown(comparison: Comparison) -> tuple[list[str], list[str]]:
    """The main scores, the primary one first, and the further ones."""
    first = comparison["rank_by"]
    return [first, *(score for score in _main_scores(comparison) if score != first)], [
        score for score in _further_scores(comparison) if score != first
    ]


def _ranking(comparison: Comparison) -> Ranking | None:
    """The table on the first screen: what a phone has room for, and a little more."""
    rows, first, choice = comparison["configurations"], comparison["rank_by"], comparison["choice"]
    if not rows:
        return None
    companion = forest_scores(comparison)[1]
    several = any(len(row["seeds"]) > 1 for row in rows)
    further = ["SD of seeds"] if several else []
    words = score_words(comparison)
    validated = any(row["validation"]["scores"] for row in rows)
    further += [f"val. {words[first]}"] if validated else []
    further.append(words[companion])
    places = []
    for row in rows:
        score = row["scores"][first]
        cells = [short_number(score["sd"])] if several else []
        if validated:
            cells.append(short_number(row["validation"]["scores"].get(first)))
        cells.append(short_number(row["scores"][companion]["value"]))
        places.append(
            Place(
                rank=str(row["rank"]),
                name=row["name"],
                chosen=choice is not None and row["id"] == choice["id"],
                score=compact(score),
                further=cells,
                runs=_run_links(comparison, row),
            )
        )
    test, where = comparison["test"], images_word(comparison)
    people = "" if test["images_without_patient"] else f" of {plural(test['clusters'], 'patient')}"
    shows = comparison["about"].get("show_runs", "")
    return Ranking(
        caption=f"{test['images']:,} {where} images{people}"
        + (f"; ✓ best by {chosen_by(comparison)}" if choice is not None else ""),
        note=f"Seeds open their run in MLflow while this command runs: {shows}"
        if shows and not shows.startswith("http")
        else "",
        score=words[first],
        further=further,
        places=places[:MOST_PLACES],
        rest=places[MOST_PLACES:],
    )


def _run_links(comparison: Comparison, row: ConfigurationRow) -> list[Link]:
    """The runs of a configuration by seed; of many, the way to their table."""
    if len(row["runs"]) > MOST_LINKS:
        return [Link(plural(len(row["runs"]), "run"), "#runs")]
    return [appendix.run_link(comparison, run["run_id"], str(run["seed"])) for run in row["runs"]]


def _warnings(comparison: Comparison) -> Section | None:
    """What a reader must know, and the runs that are missing."""
    listed = warnings(comparison)
    if not listed and not comparison["unscored"]:
        return None
    tables = []
    for caption, columns, rows in (
        ("Left out", ["run", "reason"], [[left["run"], left["reason"]] for left in comparison["left_out"]]),
        (
            "Never scored on the test images",
            ["run", "score it"],
            [[run["run"], run["command"]] for run in comparison["unscored"]],
        ),
    ):
        if rows:
            tables.append(Table(caption=caption, columns=columns, rows=rows, words=True))
    return Section(
        title="Warnings", open=True, bullets=[f"{title} {text}" for title, text in listed], tables=tables
    )


def _score_cells(scores: Mapping[str, ScoreInterval], names: Sequence[str]) -> list[str]:
    return [with_interval(scores[name]) for name in names]


def _seeds_and_scores(name: str, row: ConfigurationRow, scores: Sequence[str]) -> list[str]:
    return [name, str(len(row["seeds"])), *_score_cells(row["scores"], scores)]


def _score_columns(comparison: Comparison, names: Sequence[str]) -> list[str]:
    return [score_words(comparison)[name] for name in names]


def _scores(comparison: Comparison) -> Section | None:
    rows = comparison["configurations"]
    if not rows:
        return None
    main, further = _scores_shown(comparison)
    words = score_words(comparison)
    where, first = images_word(comparison), words[comparison["rank_by"]]
    tables = [
        Table(
            caption=f"{where.capitalize()} images, {which}: mean over seeds, 95 % interval over patients",
            columns=["configuration", "seeds", *_score_columns(comparison, scores)],
            rows=[
                [ranked(row), str(len(row["seeds"])), *_score_cells(row["scores"], scores)] for row in rows
            ],
        )
        for scores, which in zip((main, further), ("main scores", "further scores"), strict=True)
    ]
    several = [row for row in rows if len(row["seeds"]) > 1]
    if several:
        tables.append(
            Table(
                caption=f"Standard deviation over training seeds (and each seed's {first})",
                columns=["configuration", *_score_columns(comparison, main), f"{first} by seed"],
                rows=[
                    [
                        ranked(row),
                        *(number(row["scores"][score]["sd"]) for score in main),
                        ", ".join(number(value) for value in row["scores"][main[0]]["per_run"]),
                    ]
                    for row in several
                ],
            )
        )
    if any(row["validation"]["auroc"] is not None for row in rows):
        tables.append(_validation(rows, words))
    text = (
        f"Ranked by {first}, the primary score, on the {where} images; the other scores are exploratory. The "
        "order follows the scores alone. Pairs shows whether two places really differ."
    )
    return Section(title="All scores", text=[text], tables=tables)


def _validation(rows: Sequence[ConfigurationRow], words: Mapping[str, str]) -> Table:
    return Table(
        caption="Validation, at the chosen epoch",
        columns=[
            "configuration",
            *(words[score] for score in ("accuracy", "auroc", "f1")),
            *("epochs chosen", "epoch chosen by"),
        ],
        rows=[
            [
                ranked(row),
                *(number(row["validation"][score]) for score in ("accuracy", "auroc", "f1")),
                ", ".join(str(run["epoch"] or "-") for run in row["runs"]),
                protocol_words(row["protocol"]),
            ]
            for row in rows
        ],
    )


def _pairs(comparison: Comparison) -> Section | None:
    pairs = comparison["pairs"]
    if not pairs:
        return None
    shown = pairs_in_tables(comparison)
    few = len(shown) == len(pairs)
    names = {row["id"]: row["name"] for row in comparison["configurations"]}
    scores = list(dict.fromkeys((comparison["rank_by"], "accuracy", "auroc", *pairs[0]["scores"])))
    words = score_words(comparison)
    text = [
        "The interval and test over seeds and patients decide. Those over patients alone are about these "
        "trained networks on patients like these; another training may turn them around. Holm's correction "
        f"is over {plural(len(pairs), 'pair')}, separately for each score. The scores after the first are "
        "exploratory. DeLong's test (of the seeds' mean) and McNemar's test (of the seeds' averaged "
        "probabilities) treat images as independent, so the conclusions do not use them.",
    ]
    if not few:
        text.append(
            f"The tables show the {len(shown)} pairs with the first, {names['c1']}; pairs.csv has all "
            f"{len(pairs)}."
        )
    tables = [_pair_table(words, score, shown, names, few) for score in scores]
    if over_folds(comparison):
        text[0] = text[0].replace("over seeds and patients decide", "over folds decide")
        for table in tables:
            table.columns = [name.replace("over seeds and patients", "over folds") for name in table.columns]
    return Section(
        title="Pairs",
        text=text,
        tables=tables[:2],
        figures=["differences"],
        details=[Details(summary=table.caption, tables=[table]) for table in tables[2:]],
    )


def _pair_table(
    words: Mapping[str, str],
    score: str,
    pairs: Sequence[PairRow],
    names: Mapping[str, str],
    both: bool,
    seeds: bool = True,
) -> Table:
    """Differences in `score`; the rows name both configurations, or only the second.

    Without `seeds` (ensembles) patients are the only chance.
    """
    columns = ["difference between" if both else f"{names['c1']} minus", *difference_columns(seeds)]
    if score == "accuracy":
        columns += ["McNemar p", "McNemar p, Holm", "only first / only second right"]
    elif score == "auroc":
        columns += ["DeLong p", "DeLong p, Holm"]
    rows = []
    for pair in pairs:
        second = names[pair["second"]]
        row = [
            f"{names[pair['first']]} minus {second}" if both else second,
            *difference_cells(pair["scores"][score], seeds),
        ]
        if score == "accuracy":
            mcnemar = pair["mcnemar"]
            row += [p_text(mcnemar["p"]), p_text(mcnemar["p_holm"])]
            row.append(f"{mcnemar['only_first']} / {mcnemar['only_second']}")
        elif score == "auroc":
            delong = pair.get("delong")
            row += [p_text(delong["p"]), p_text(delong["p_holm"])] if delong else ["-", "-"]
        rows.append(row)
    of = "" if seeds else " between ensembles"
    return Table(caption=f"Differences in {words[score]}{of}", columns=columns, rows=rows)


def _ensembles(comparison: Comparison) -> Section | None:
    rows = comparison["ensembles"]
    if not rows:
        return None
    can_rank = ranked_by(comparison)
    # The macro recall is the balanced accuracy.
    further = ("recall", "specificity") if "recall" in rows[0]["scores"] else ("specificity",)
    scores = tuple(dict.fromkeys((comparison["rank_by"], *can_rank, *further)))
    where = images_word(comparison)
    table = Table(
        caption=f"Averaged probabilities: scores on the {where} images, 95 % interval over patients",
        columns=["ensemble", *_score_columns(comparison, scores)],
        rows=[[row["name"], *_score_cells(row["scores"], scores)] for row in rows],
    )
    text = (
        "The networks' probabilities are averaged before they are scored. Each ensemble is one predictor and "
        "costs as much to run as all of its networks together."
    )
    section = Section(title="Ensembles", text=[text], tables=[table])
    if pairs := comparison["ensemble_pairs"]:
        names = {row["id"]: row["name"] for row in rows}
        section.text.append(
            "An ensemble is one predictor, so their differences are tested over patients alone, with Holm's "
            f"correction over {plural(len(pairs), 'pair')} of ensembles."
        )
        section.details = [
            Details(summary=table.caption, tables=[table])
            for score in scores[: len(can_rank)]
            for table in [_pair_table(score_words(comparison), score, pairs, names, both=True, seeds=False)]
        ]
    return section


def _seed_tables(comparison: Comparison) -> Section:
    """Best accuracy and F1 of each model, and what choosing by the test images adds."""
    optimistic, f1 = comparison["optimistic"], score_words(comparison)["f1"]
    main = _main_scores(comparison)
    tables = [
        Table(
            caption=f"Best test accuracy and {f1} of each model's runs (the best of several is optimistic "
            "too)",
            columns=["model", "runs", "best accuracy", f"best {f1}", "protocol"],
            rows=_best_of_each_model(comparison),
        )
    ]
    if optimistic:
        tables.append(
            Table(
                caption="OPTIMISTIC, not ranked: runs that chose their epoch on the test images",
                columns=["configuration", "seeds", *_score_columns(comparison, main)],
                rows=[_seeds_and_scores(row["name"], row, main) for row in optimistic],
            )
        )
    chosen = _chosen_on_test(optimistic)
    if chosen:
        tables.append(
            Table(
                caption="What choosing on test adds: test accuracy over the epochs of such a run",
                columns=[
                    "run",
                    "best",
                    f"best {f1}",
                    "epoch that validation would choose",
                    "by",
                    "median of the epochs",
                    "last epoch",
                ],
                rows=chosen,
            )
        )
    return Section(title="Best of each model", tables=tables)


def _best_of_each_model(comparison: Comparison) -> list[list[str]]:
    protocols = (
        (comparison["configurations"], "epoch chosen on validation"),
        (comparison["optimistic"], "OPTIMISTIC: epoch chosen on test"),
    )
    best = []
    for model in dict.fromkeys(row["model"] for row in all_rows(comparison)):
        for rows, protocol in protocols:
            scores = [row["scores"] for row in rows if row["model"] == model]
            accuracy = [value for entry in scores for value in entry["accuracy"]["per_run"]]
            f1 = [value for entry in scores for value in entry["f1"]["per_run"]]
            if accuracy:
                best.append([model, str(len(accuracy)), number(max(accuracy)), number(max(f1)), protocol])
    return best


def _chosen_on_test(optimistic: Sequence[ConfigurationRow]) -> list[list[str]]:
    """Of each run that recorded test accuracy by epoch: the best epoch, and what other rules would choose."""
    chosen = []
    for row in optimistic:
        for run in row["runs"]:
            history = [epoch for epoch in run["history"] if epoch.get("test/accuracy") is not None]
            if not history:
                continue
            by_test = max(history, key=lambda epoch: epoch["test/accuracy"])
            by_f1 = max(history, key=lambda epoch: epoch.get("test/f1", -1.0))
            monitor, worst = run["monitor"], -math.inf
            # As in training: of epochs with equal scores, the one with less loss.
            sign = -1 if monitor == "val/loss" else 1
            seen = [epoch for epoch in history if epoch.get(monitor) is not None]
            by_val = max(
                seen,
                key=lambda epoch: (sign * epoch[monitor], -epoch.get("val/loss", worst)),
                default=None,
            )
            middle = median(epoch["test/accuracy"] for epoch in history)
            chosen.append(
                [
                    f"{row['name']}, seed {run['seed']}",
                    f"{number(by_test['test/accuracy'])} (epoch {by_test['epoch']})",
                    f"{number(by_f1.get('test/f1'))} (epoch {by_f1['epoch']})",
                    f"{number(by_val['test/accuracy'])} (epoch {by_val['epoch']})" if by_val else "-",
                    monitor,
                    number(middle),
                    number(history[-1]["test/accuracy"]),
                ]
            )
    return chosen


def _curves(comparison: Comparison) -> Section:
    text = (
        f"The first {CURVES} configurations in one plot: the mean over seeds, with their range as a band."
        if len(all_rows(comparison)) > CURVES
        else "The mean over the seeds of a configuration, with their range as a band."
    )
    return Section(title="Curves", text=[text], figures=["curves_accuracy", "curves_f1", "curves_loss"])


def _confusions(comparison: Comparison) -> Section:
    rows, names = all_rows(comparison), class_names(comparison)
    most = CLASS_MATRICES if many(comparison) else MOST_REPORTS
    scored = f"{images_word(comparison).capitalize()} images"
    matrices_of: dict[str, Callable[[ConfigurationRow], list[Confusion]]] = {
        scored: lambda row: row["confusion"],
        "Validation images": lambda row: row["validation"]["confusion"],
    }
    if comparison["scored_on"] == "val":
        del matrices_of[scored]
    if not all(row["validation"]["confusion"] for row in rows):
        del matrices_of["Validation images"]
    groups = [
        MatrixGroup(
            title=split,
            matrices=[
                Matrix(
                    name=_run_name(row, run["seed"]),
                    called=names if many(comparison) else [name.lower() for name in names],
                    lines=_lines(matrix, names if many(comparison) else [name.lower() for name in names]),
                    wide=len(names) > FEW_CLASSES,
                )
                for row in rows[:most]
                for run, matrix in zip(row["runs"], of(row), strict=False)
            ],
        )
        for split, of in matrices_of.items()
    ]
    text = ["Counts and shares of the true class at probability 0.5, with one matrix for each run."]
    if many(comparison):
        text = ["Counts and shares of the true class (rows), with one matrix for each run."]
    if len(rows) > most:
        text.append(f"The first {most} configurations are shown; comparison.json has all.")
    return Section(title="Confusion matrices", text=text, matrices=groups)


def _run_name(row: ConfigurationRow, seed: int) -> str:
    return f"{row['name']}, seed {seed}" + ("" if row["rank"] else " (optimistic)")


def _lines(matrix: Confusion, names: Sequence[str]) -> list[MatrixLine]:
    lines = []
    for name, counts in zip(names, matrix, strict=True):
        total = max(1, sum(counts))
        cells = [
            Cell(count=count, share=f"{count / total:.1%}", shade=f"{0.55 * count / total:.2f}")
            for count in counts
        ]
        lines.append(MatrixLine(name=name, cells=cells))
    return lines


def _subtypes(comparison: Comparison) -> Section | None:
    rows = [
        [
            ranked(row),
            kind,
            f"{entry['images']} / {entry['normal']}",
            *(with_interval(score) for score in (entry["recall"], entry["auroc"], entry["auprc"])),
            with_interval(entry["accuracy"]),
        ]
        for row in all_rows(comparison)
        for kind, entry in row["subtypes"].items()
    ]
    if not rows:
        return None
    columns = ["configuration", "pneumonia", "images / normal"]
    columns += _score_columns(comparison, ("recall", "auroc", "auprc", "accuracy"))
    table = Table(caption="Each kind of pneumonia against all normal images", columns=columns, rows=rows)
    text = f"At probability 0.5. The file names tell the kind of pneumonia. Intervals use {FEW_DRAWS} draws."
    return Section(title="By subtype", text=[text], tables=[table])
