"""What the page says of another labelled set: drops, rankings, calibration, and how the sets differ."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pneumo.comparison import subgroup_sections
from pneumo.comparison.blocks import Section, Table
from pneumo.comparison.content import Comparison, Drop, ExternalSet, ScoreInterval, all_rows
from pneumo.comparison.words import (
    number,
    p_text,
    plural,
    ranked,
    score_words,
    short_number,
    with_interval,
)
from pneumo.evaluation.subgroup_statistics import SubgroupResult
from pneumo.names import EXTERNAL

WORDS = {
    "recall_at_threshold": "sensitivity at the model's threshold",
    "specificity_at_threshold": "specificity at the model's threshold",
}
RULES = {
    "sensitivity_95": "chosen on validation for a sensitivity of .95",
    "youden": "chosen on validation by Youden's index",
    "half": "probability 0.5",
}


def sections(comparison: Comparison) -> list[Section]:
    """The sections about another set; none where the runs' own test images were scored."""
    external = comparison.get("external")
    if external is None:
        return []
    found = [
        _conclusion(comparison, external),
        _subgroups(comparison, external),
        _use(comparison, external),
        _shift(external),
    ]
    return [section for section in found if section is not None]


def elsewhere(comparison: Comparison) -> list[str]:
    """Where the pages are that show the runs on other sets."""
    found = [] if "external" in comparison else comparison["about"].get("external", [])
    return [
        f"Some of these runs were scored on {name} too: {EXTERNAL}/{name}/index.html among the artifacts of "
        "the sweep's parent run (or of the run, if one was scored alone)."
        for name in found
    ]


def subgroups(comparison: Comparison) -> SubgroupResult | None:
    """The subgroups of the other set, if it has any."""
    external = comparison.get("external")
    return external.get("subgroups") if external else None


def _subgroups(comparison: Comparison, external: ExternalSet) -> Section | None:
    found = subgroups(comparison)
    if found is None:
        return None
    section = subgroup_sections.section(found)
    section.text.insert(0, f"Of {external['subgroups_of']}, the mean over its seeds.")
    return section


def verdict(comparison: Comparison) -> list[str]:
    """What the other set shows about the models, in sentences."""
    external = comparison.get("external")
    if external is None:
        return []
    groups = subgroups(comparison)
    of_groups = [f"{external['subgroups_of']}: {subgroup_sections.answer(groups)}"] if groups else []
    return [*_drops(comparison, external), *_ranking(external), *of_groups, *_overlap(external)]


def headline(comparison: Comparison) -> str:
    """The drop of the configuration that validation prefers, if there are own test images."""
    external = comparison.get("external")
    found = _drops(comparison, external) if external else []
    return found[0] if found else ""


def _overlap(external: ExternalSet) -> list[str]:
    known = [row for row in external["overlap"] if row["images"]]
    sentences = [
        f"Not independent (allow_overlap=true): {row['run']} knows {row['words']} from its training."
        for row in known
    ]
    unchecked = sorted({reason for row in external["overlap"] for reason in row["unchecked"]})
    return sentences + [f"Overlap with the training images was not checked for {text}." for text in unchecked]


def _drops(comparison: Comparison, external: ExternalSet) -> list[str]:
    chosen = comparison["choice"]["id"] if comparison["choice"] else None
    rows = [row for row in all_rows(comparison) if row["id"] in external["rows"]]
    row = next((one for one in rows if one["id"] == chosen), rows[0] if rows else None)
    if row is None:
        return []
    sentences = []
    word = score_words(comparison)["auroc"]
    entry = external["rows"][row["id"]]["drops"]["auroc"]
    if entry["difference"] is not None and entry["internal"] is not None:
        change = "lower" if entry["difference"] < 0 else "higher"
        shown = entry["p"] is not None and entry["p"] < 0.05
        sentences.append(
            f"{row['name']}: {word} {number(entry['internal'], 3)} on its own test images and "
            f"{number(entry['external'], 3)} on {external['name']}, {_size(entry)} {change} "
            f"(95 % interval {_interval(entry)})"
            + ("." if shown else "; chance alone can explain the difference.")
        )
    drops = external["rows"][row["id"]]["drops"]
    recall, specificity = (drops.get(name) for name in WORDS)
    if recall and specificity:
        sentences.append(
            f"At its threshold ({RULES.get(external['rule'], external['rule'])}) it finds "
            f"{_percent(recall['external'])} of the ill and calls {_percent(1 - specificity['external'])} of "
            f"the normal images of {external['name']} ill"
            + (
                f"; on its own test images {_percent(recall['internal'])} and "
                f"{_percent(1 - specificity['internal'])}."
                if recall["internal"] is not None and specificity["internal"] is not None
                else "."
            )
        )
    return sentences


def _ranking(external: ExternalSet) -> list[str]:
    tau = external["tau"]
    if tau is None:
        return []
    if tau["low"] > 0:
        words = f"The ranking of the own test images holds on {external['name']}"
    elif tau["high"] < 0:
        words = f"The ranking is reversed on {external['name']}"
    else:
        words = f"Whether the ranking of the own test images holds on {external['name']} cannot be told"
    return [
        f"{words}: Kendall's tau {number(tau['value'], 2)}, 95 % interval {number(tau['low'], 2)} to "
        f"{number(tau['high'], 2)} over the patients of both sets, "
        f"{plural(tau['configurations'], 'configuration')}."
    ]


def _conclusion(comparison: Comparison, external: ExternalSet) -> Section:
    rows = [row for row in all_rows(comparison) if row["id"] in external["rows"]]
    words = {**score_words(comparison), **WORDS}
    tables = []
    if rows:
        for score in external["rows"][rows[0]["id"]]["drops"]:
            tables.append(
                Table(
                    caption=words[score],
                    columns=[
                        *("configuration", "own test images", external["name"], "difference"),
                        *("95 % interval", "p"),
                        *(["place: own, here"] if score == comparison["rank_by"] else []),
                    ],
                    rows=[
                        [
                            *_drop_cells(ranked(row), external["rows"][row["id"]]["drops"][score]),
                            *([_places(external, row["id"])] if score == comparison["rank_by"] else []),
                        ]
                        for row in rows
                    ],
                )
            )
    text = [
        "Differences are this set minus the own test images, with 95 % intervals over the patients of both "
        "sets, and over the seeds where there are several. p is not corrected for the number of rows.",
        "No image of this set chose anything: epochs, thresholds and calibration come from each model's "
        "training.",
    ]
    return Section(
        title="Own test images and this set",
        open=True,
        verdicts=verdict(comparison),
        text=text,
        tables=tables,
    )


def _places(external: ExternalSet, row: str) -> str:
    one = external["rows"][row]
    return f"{one['internal_rank'] or '-'}, {one['external_rank'] or '-'}"


def _drop_cells(name: str, entry: Drop) -> list[str]:
    difference = "-" if entry["difference"] is None else f"{entry['difference']:+.4f}"
    interval = "-" if entry["difference"] is None else _interval(entry)
    p = "-" if entry["difference"] is None else p_text(entry["p"])
    return [name, number(entry["internal"]), number(entry["external"]), difference, interval, p]


def _use(comparison: Comparison, external: ExternalSet) -> Section | None:
    rows = [row for row in all_rows(comparison) if row["id"] in external["rows"]]
    if not rows:
        return None
    words = score_words(comparison)
    tables = []
    for key, caption in (
        ("used", "As the models are used: their own calibration and threshold"),
        ("recalibrated", "After recalibration on other patients of this set (cross-fitted, five folds)"),
    ):
        each = [external["rows"][row["id"]]["use"][key] for row in rows]  # type: ignore[literal-required]
        if all(each):
            tables.append(_score_table(caption, [ranked(row) for row in rows], each, words))
    text = [
        "Recalibration is not a result of the models as they are: it shows what "
        "`pneumo runs recalibrate` with labelled patients of this place would give on its other patients."
    ]
    if len(tables) == 1:
        text = ["This set has too few patients of a class to show what recalibration would give."]
    unlike = [(row, external["rows"][row["id"]]["unlike"]) for row in rows]
    known = [(row, one) for row, one in unlike if one is not None]
    if known:
        tables.append(
            Table(
                caption="Images that look unlike the training images (`pneumo predict` withholds a decision)",
                columns=[
                    *("configuration", "share", "AUROC with them", "without"),
                    *("sensitivity with them", "without", "specificity with them", "without"),
                ],
                rows=[
                    [
                        ranked(row),
                        _percent(one["share"]),
                        *(
                            with_interval(part[score]) if part else "-"
                            for score in ("auroc", "recall", "specificity")
                            for part in (one["every"], one["without"])
                        ),
                    ]
                    for row, one in known
                ],
            )
        )
    return Section(title="Use on this set", text=text, tables=tables)


def _score_table(
    caption: str,
    names: Sequence[str],
    scores: Sequence[Mapping[str, ScoreInterval]],
    words: Mapping[str, str],
) -> Table:
    return Table(
        caption=caption,
        columns=["configuration", *(words[score] for score in scores[0])],
        rows=[
            [name, *(with_interval(entry) for entry in each.values())]
            for name, each in zip(names, scores, strict=True)
        ],
    )


def _shift(external: ExternalSet) -> Section | None:
    shift = external.get("shift")
    if not shift:
        return None
    rows = [[what, *values] for what, values in shift["rows"].items()]
    table = Table(
        caption="The two sets",
        columns=["", "own test images", external["name"]],
        rows=rows,
        words=True,
    )
    return Section(title="How the sets differ", text=[*_two_sample(shift), *shift["notes"]], tables=[table])


def _two_sample(shift: Mapping[str, Any]) -> list[str]:
    found = shift["two_sample"]
    if found is None:
        return []
    return [
        "A classifier that sees only the network's features tells the origin of an image of another patient "
        f"with AUROC {short_number(found['auroc'])} (95 % interval {short_number(found['low'])} to "
        f"{short_number(found['high'])}; {found['internal']:,} own test images, {found['external']:,} of "
        "this set). At .5 the sets would look alike to the network."
    ]


def _size(entry: Drop) -> str:
    return number(abs(entry["difference"] or 0), 3)


def _interval(entry: Drop) -> str:
    if not math.isfinite(entry["low"]):
        return "no interval"
    return f"{entry['low']:+.3f} to {entry['high']:+.3f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
