"""The figure of subgroups: the primary score of every group with its interval, column by column."""

from matplotlib.figure import Figure

from pneumo.comparison.canvas import TEXT, canvas, label, short
from pneumo.comparison.figures import Rendered, png
from pneumo.comparison.subgroup_sections import FIGURE, group_name, score_words, size, size_words
from pneumo.evaluation import plot
from pneumo.evaluation.plot import INK, RULE, SERIES
from pneumo.evaluation.subgroup_statistics import NOT_SHOWN, Group, SubgroupResult
from pneumo.evaluation.subgroups import NOT_KNOWN

MOST_LINES = 40  # with more groups, intersections are left to the tables


def render(result: SubgroupResult) -> dict[str, Rendered]:
    """The figure by its name, for the folder and for the page; nothing if no group has the score."""
    figure = draw(result)
    if figure is None:
        return {}
    picture = png(figure)  # first: it lays the figure out, which the SVG then reuses
    return {FIGURE: Rendered(png=picture, svg=plot.svg(figure, FIGURE, caption(result)))}


def caption(result: SubgroupResult) -> str:
    word, words = score_words(result)[result["primary"]], size_words(result)
    parts = [
        f"{word[:1].upper()}{word[1:]} of each group with its 95 % interval over patients; "
        f"the number of {words}. Vertical line: all images.",
    ]
    groups = [group for listed in _shown(result).values() for group in listed]
    if any(_claimed(result, group) for group in groups):
        parts.append("Orange: the gap to the other groups is shown.")
    if any(result["primary"] in group["few"] or group["name"] == NOT_KNOWN for group in groups):
        parts.append(f"Hollow: in no gap (fewer than {result['few']} {words}, or not known).")
    return " ".join(parts)


def draw(result: SubgroupResult) -> Figure | None:
    """Rows of groups, with the score of all images as a line."""
    score = result["primary"]
    rows = [(column, group) for column, groups in _shown(result).items() for group in groups]
    if not rows:
        return None
    figure, (axes,) = canvas(0.55 + 0.21 * len(rows))
    axes.axvline(result["whole"]["scores"][score]["value"], color=INK, linewidth=0.9, linestyle=":")
    names = []
    for place, (column, group) in zip(range(len(rows) - 1, -1, -1), rows, strict=True):
        entry = group["scores"][score]
        colour = SERIES[1] if _claimed(result, group) else SERIES[0]
        in_gap = score in group["gaps"]
        axes.hlines(place, entry["low"], entry["high"], colors=colour, linewidth=1.8 if in_gap else 1.0)
        axes.plot(
            entry["value"], place, "o", color=colour, markersize=5.5,
            markerfacecolor=colour if in_gap else "white",
        )  # fmt: skip
        names.append(f"{short(group_name(column, group['name']), 32)} ({size(group):,})")
        if place < len(rows) - 1 and column != rows[len(rows) - 2 - place][0]:
            axes.axhline(place + 0.5, color=RULE, linewidth=0.9)
    axes.set_yticks(range(len(rows) - 1, -1, -1), names, fontsize=TEXT - 1)
    for tick in axes.get_yticklabels():
        tick.set_parse_math(False)  # a name may have a dollar
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.locator_params(axis="x", nbins=5)
    label(axes, score_words(result)[score])
    return figure


def _shown(result: SubgroupResult) -> dict[str, list[Group]]:
    columns = {
        column: [group for group in groups if group["scores"][result["primary"]]["low"] >= 0]  # not NaN
        for column, groups in result["columns"].items()
    }
    if sum(map(len, columns.values())) > MOST_LINES:
        columns = {column: groups for column, groups in columns.items() if "*" not in column}
    return columns


def _claimed(result: SubgroupResult, group: Group) -> bool:
    gap = group["gaps"].get(result["primary"])
    return gap is not None and gap["verdict"] != NOT_SHOWN
