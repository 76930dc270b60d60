"""The section of a page with the scores of subgroups and their gaps: the answer first, then tables."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from pneumo.comparison.blocks import Details, Section, Table
from pneumo.comparison.words import (
    CLASS_SCORE_WORDS,
    SCORE_WORDS,
    number,
    p_text,
    plural,
    short_number,
    with_interval,
)
from pneumo.evaluation.subgroup_statistics import (
    CALLED,
    HIGHER,
    LOWER,
    NOT_SHOWN,
    Gap,
    Group,
    SubgroupResult,
)
from pneumo.evaluation.subgroups import NOT_KNOWN

FIGURE = "subgroups"
MOST_NAMED = 6  # groups that a sentence names
VERDICTS = {LOWER: "lower than the others", HIGHER: "higher than the others", NOT_SHOWN: "not shown"}


class Found(NamedTuple):
    """A gap and whose it is; `other` is the second of two groups."""

    column: str
    group: Group
    gap: Gap
    other: str | None


def section(result: SubgroupResult) -> Section:
    """The scores of each group, and the gaps; those of intersections are folded."""
    words = score_words(result)
    single = [column for column in result["columns"] if "*" not in column]
    pairs = [column for column in result["columns"] if "*" in column]
    details = [
        Details(summary=f"Intersections: {title(column)}", tables=_tables(result, column)) for column in pairs
    ]
    details += [
        Details(
            summary=f"Gaps in {words[score]} (exploratory)",
            text=gaps_in(result, score),
            tables=[table for column in result["columns"] if (table := _gaps(result, column, score))],
        )
        for score in result["scores"][1:]
    ]
    return Section(
        title="Subgroups",
        verdicts=[answer(result)],
        text=[_how(result), *_left_out(result)],
        figures=[FIGURE],
        tables=[table for column in single for table in _tables(result, column)],
        details=details,
    )


def answer(result: SubgroupResult) -> str:
    """Which groups have a lower score than the others, in the primary score."""
    return gaps_in(result, result["primary"])


def gaps_in(result: SubgroupResult, score: str) -> str:
    """The gaps in `score` that can be shown, and how many others there are; or the largest."""
    word, count = score_words(result)[score], result["gaps"][score]
    if not count:
        return f"No gap in {word} can be tested: no column has two groups with {_enough(result, score)}."
    found = list(_distinct(result, score))
    shown = [one for one in found if one.gap["verdict"] != NOT_SHOWN]
    shown.sort(key=lambda one: one.gap["difference"])
    sentences = [_sentence(one, word) for one in shown]
    if shown:
        rest = count - len(shown)
        sentences += [f"No other gap of {count} can be shown."] if rest else []
        return " ".join(sentences)
    largest = max(found, key=lambda one: abs(one.gap["difference"]))
    which = "The gap" if count == 1 else f"None of {count} gaps"
    cannot = "cannot be shown" if count == 1 else "can be shown"
    start = "" if count == 1 else "The largest: "
    sentence = _sentence(largest, word)
    if start:
        sentence = sentence[:1].lower() + sentence[1:] if not word[:1].isupper() else sentence
    return f"{which} in {word} {cannot}. {start}{sentence}"


def score_words(result: SubgroupResult) -> dict[str, str]:
    """The scores' names."""
    words = CLASS_SCORE_WORDS if len(result["whole"]["by_class"]) > 2 else SCORE_WORDS
    return {score: words[score] for score in result["scores"]} | {CALLED: "called ill"}


def title(column: str) -> str:
    """A column's name, or both of an intersection."""
    return column.replace("*", " and ")


def group_name(column: str, group: str) -> str:
    """A group in a sentence: `Sex F`, `Sex F and age 30-39`."""
    names, parts = column.split("*"), group.split(", ", 1)
    if len(names) == len(parts) == 2:
        return f"{names[0]} {parts[0]} and {names[1]} {parts[1]}"
    return f"{title(column)} {group}"


def size(group: Group) -> int:
    """The patients that decide how sure a group's primary score is: ill ones, or of the smallest class."""
    by_class = group["by_class"]
    return by_class[1] if len(by_class) == 2 else min(by_class)


def size_words(result: SubgroupResult) -> str:
    """What `size` counts."""
    return "ill patients" if len(result["whole"]["by_class"]) == 2 else "patients of the smallest class"


def _distinct(result: SubgroupResult, score: str) -> Iterator[Found]:
    """Each gap once: of two groups, that of the lower one."""
    for column, groups in result["columns"].items():
        taking = [group for group in groups if score in group["gaps"]]
        if len(taking) == 2:
            low, high = sorted(taking, key=lambda group: group["gaps"][score]["difference"])
            yield Found(column, low, low["gaps"][score], high["name"])
        else:
            for group in taking:
                yield Found(column, group, group["gaps"][score], None)


def _sentence(found: Found, word: str) -> str:
    gap = found.gap
    lower = gap["difference"] <= 0
    sides = sorted((-gap["low"], -gap["high"]) if lower else (gap["low"], gap["high"]))
    ends = " to ".join(short_number(end) for end in sides)
    others = group_name(found.column, found.other) if found.other else "the others"
    return (
        f"{word[:1].upper()}{word[1:]} is {short_number(abs(gap['difference']))} "
        f"{'lower' if lower else 'higher'} (95 % {ends}) for {group_name(found.column, found.group['name'])} "
        f"than for {others}."
    )


def _how(result: SubgroupResult) -> str:
    words, first = score_words(result), result["primary"]
    runs = "" if result["runs"] == 1 else f" Scores are the mean of {result['runs']} runs."
    at = "" if len(result["whole"]["by_class"]) > 2 else " at each run's own threshold"
    further = " and ".join(words[score] for score in result["scores"][1:])
    return (
        f"A gap is the score of a group minus that of the other groups of its column together. The primary "
        f"score is {words[first]}{at}; {further} {'is' if len(result['scores']) == 2 else 'are'} exploratory."
        f"{runs} Intervals of scores are 95 % over patients. Those of gaps, and their p, are corrected for "
        f"the number of gaps of that score in all columns (Bonferroni): {result['gaps'][first]:,} in "
        f"{words[first]}. The networks are given: another training may turn gaps around. A gap that is not "
        "shown may exist; its interval says how large it may be."
    )


def _enough(result: SubgroupResult, score: str) -> str:
    least = result["few"]
    if len(result["whole"]["by_class"]) > 2:
        return f"{least} or more patients of each class"
    kind = {"recall": "ill patients", "specificity": "normal patients"}
    return f"{least} or more {kind.get(score, 'ill and as many normal patients')}"


def _left_out(result: SubgroupResult) -> list[str]:
    """The sizes that a reader must know: the smallest group, those with few patients, and those not known."""
    first, words = result["primary"], size_words(result)
    known = [
        (column, group)
        for column, groups in result["columns"].items()
        for group in groups
        if group["name"] != NOT_KNOWN
    ]
    sentences = []
    if known:
        column, least = min(known, key=lambda one: size(one[1]))
        sentences.append(
            f"The smallest group is {group_name(column, least['name'])}: {size(least):,} {words}, "
            f"{plural(least['images'], 'image')}."
        )
    few = [(column, group) for column, group in known if first in group["few"]]
    if few:
        named = [f"{group_name(column, group['name'])} ({size(group):,})" for column, group in few]
        more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
        sentences.append(
            f"Groups with fewer than {result['few']} {words} take part in no gap in "
            f"{score_words(result)[first]}: {', '.join(named[:MOST_NAMED])}{more}."
        )
    for column, groups in result["columns"].items():
        for group in groups:
            if group["name"] == NOT_KNOWN:
                sentences.append(
                    f"{title(column)} is not known of {plural(group['images'], 'image')} "
                    f"({plural(group['patients'], 'patient')}), which take part in no gap."
                )
    return [" ".join(sentences)] if sentences else []


def _tables(result: SubgroupResult, column: str) -> list[Table]:
    gaps = _gaps(result, column, result["primary"])
    return [_scores(result, column), *([gaps] if gaps else [])]


def _scores(result: SubgroupResult, column: str) -> Table:
    words = score_words(result)
    two = len(result["whole"]["by_class"]) == 2
    scores = [*result["scores"], *([CALLED] if two else [])]
    groups = [*result["columns"][column], result["whole"]]
    few = any(group["few"] for group in groups)
    note = f"; few: fewer than {result['few']} patients of a class" if few else ""
    return Table(
        caption=f"{title(column)}: scores with 95 % intervals over patients{note}",
        columns=[
            "group",
            *("images", "patients", "ill / normal" if two else "smallest class"),
            *(words[score] for score in scores),
        ],
        rows=[
            [
                "all images" if group is result["whole"] else group["name"],
                f"{group['images']:,}",
                f"{group['patients']:,}",
                f"{group['by_class'][1]:,} / {group['by_class'][0]:,}" if two else f"{size(group):,}",
                *(_cell(group, score) for score in scores),
            ]
            for group in groups
        ],
        marked={len(groups) - 1},
    )


def _cell(group: Group, score: str) -> str:
    entry = group["scores"][score]
    if not math.isfinite(entry["value"]):
        return "-"
    return with_interval(entry) + (", few" if score in group["few"] else "")


def _gaps(result: SubgroupResult, column: str, score: str) -> Table | None:
    """The gaps of a column in `score`; None if it has none."""
    groups = [group for group in result["columns"][column] if score in group["gaps"]]
    if not groups:
        return None
    word, count = score_words(result)[score], result["gaps"][score]
    corrected = f", corrected for {count} gaps" if count > 1 else ""
    return Table(
        caption=f"{title(column)}: gaps in {word}{corrected}",
        columns=["group", word, "the others", "gap", "95 %", "p", "verdict"],
        rows=[
            [
                group["name"],
                number(group["scores"][score]["value"]),
                number(gap["others"]),
                f"{gap['difference']:+.4f}",
                f"{gap['low']:+.4f} to {gap['high']:+.4f}",
                p_text(gap["p"]),
                VERDICTS[gap["verdict"]],
            ]
            for group in groups
            for gap in (group["gaps"][score],)
        ],
    )
