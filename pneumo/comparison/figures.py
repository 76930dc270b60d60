"""The figures of a comparison.

They are narrow, so that a phone shows them at a readable size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from pneumo.comparison import class_drawings
from pneumo.comparison.canvas import TEXT, canvas, label, legend, row_name, short
from pneumo.comparison.content import (
    Comparison,
    ConfigurationRow,
    Confusion,
    Curve,
    Decision,
    PairRow,
    SplitSize,
    all_rows,
    class_names,
    many,
    several_findings,
)
from pneumo.comparison.words import caption, claimed, score_words, shown_pairs
from pneumo.evaluation import plot
from pneumo.evaluation.plot import DASHES, INK, MARKERS, RULE, SERIES, UNITS
from pneumo.names import CLASS_NAMES

PNG_DPI = 120
MOST_LINES = 20  # of the forest plot


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A figure for the folder, as a PNG on white, and for the page."""

    png: bytes
    svg: str


def render(comparison: Comparison, part: slice = slice(None)) -> dict[str, Rendered]:
    """Every figure that `comparison` has the data for, by file name; or `part` of all."""
    return {
        name: draw_twice(figure, name, caption(name, comparison))
        for name, figure in draw(comparison, part).items()
    }


def draw_twice(figure: Figure, name: str, alt: str) -> Rendered:
    """The PNG first: it lays the figure out, which the SVG then reuses."""
    return Rendered(png=png(figure), svg=plot.svg(figure, name, alt))


def draw(comparison: Comparison, part: slice = slice(None)) -> dict[str, Figure]:
    """Every figure that `comparison` has the data for, by file name; or `part` of all."""
    rows = all_rows(comparison)
    shown = [row for row in rows if "curves" in row]
    of_many, classes = many(comparison), class_names(comparison)
    of_one = "finding" if several_findings(comparison) else "class against the rest"

    def matrices(found: Sequence[list[Confusion]]) -> Figure | None:
        if several_findings(comparison):
            return None  # a table of each finding's calls is easier to read
        if not all(found):
            return None  # predictions from elsewhere, without those of validation images
        if of_many:
            return class_drawings.confusions(rows, found, classes)
        return _confusions(rows, found)

    makers: dict[str, Callable[[], Figure | None]] = {
        "forest": lambda: _forest(comparison),
        "differences": lambda: _differences(comparison),
        "roc": lambda: _roc(shown),
        "precision_recall": lambda: _precision_recall(shown),
        "classes": lambda: class_drawings.by_class(shown, of_one) if of_many else None,
        "calibration": lambda: _calibration(shown),
        "decision_curve": lambda: _decision_curve(shown, comparison["decision"]),
        **{f"curves_{name}": partial(_curves, shown, name) for name in UNITS},
        "confusion_test": lambda: (
            None if comparison["scored_on"] == "val" else matrices([row["confusion"] for row in rows])
        ),
        "confusion_validation": lambda: matrices([row["validation"]["confusion"] for row in rows]),
        "class_distribution": lambda: (class_drawings.distribution if of_many else _classes)(
            comparison["splits"]
        ),
    }
    drawn = {name: make() for name, make in list(makers.items())[part]}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def png(figure: Figure) -> bytes:
    """The figure as a PNG on white. It keeps its layout from now on: the SVG needs no second one."""
    content = plot.png(figure, dpi=PNG_DPI, facecolor="white")
    figure.set_layout_engine("none")  # laying out takes as long as drawing
    return content


def _forest(comparison: Comparison) -> Figure:
    """The primary score of every configuration with its 95 % interval, and a small mark for each seed.

    The ensemble of a configuration's seeds is a diamond on its line.
    """
    score = comparison["rank_by"]
    first, apart = comparison["configurations"], comparison["optimistic"]
    ensembles = {_run_ids(row): row for row in comparison["ensembles"]}
    rows = [*first[:MOST_LINES], *apart[:MOST_LINES]]
    own = {_run_ids(row) for row in rows}
    rows += [row for ids, row in ensembles.items() if ids not in own and len(ids) == _run_count(first)]
    figure, (axes,) = canvas(0.55 + 0.21 * len(rows))
    _widen(figure)
    for place, row in zip(range(len(rows) - 1, -1, -1), rows, strict=True):
        entry, colour = row["scores"][score], SERIES[1] if row in apart else SERIES[0]
        axes.hlines(place, entry["low"], entry["high"], colors=colour, linewidth=1.8)
        if entry["sd"] is not None:
            seeds = entry["per_run"]
            axes.plot(seeds, [place] * len(seeds), "|", color=INK, markersize=7, markeredgewidth=1)
        mark = "D" if row["ensemble"] else "o"
        face = "white" if row in apart else colour
        axes.plot(entry["value"], place, mark, color=colour, markerfacecolor=face, markersize=5.5)
        average = ensembles.get(_run_ids(row))
        if average is not None and average is not row:
            value = average["scores"][score]["value"]
            axes.plot(value, place, "D", color=colour, markerfacecolor="none", markersize=5)
    label(axes, score_words(comparison)[score])
    axes.grid(axis="y", visible=False)
    axes.locator_params(axis="x", nbins=5)
    axes.set_yticks(range(len(rows) - 1, -1, -1), [row_name(row, 30) for row in rows], fontsize=TEXT - 1)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    return figure


def _widen(figure: Figure) -> None:
    """Room beside long labels: a page's typeface is wider than the one that the layout measures."""
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(w_pad=0.12)


def _run_ids(row: ConfigurationRow) -> frozenset[str]:
    return frozenset(run["run_id"] for run in row["runs"])


def _run_count(rows: Sequence[ConfigurationRow]) -> int:
    return sum(len(row["runs"]) for row in rows)


def _differences(comparison: Comparison) -> Figure | None:
    """The paired differences in the score that ranks, the largest first."""
    score = comparison["rank_by"]
    pairs: Sequence[PairRow] = shown_pairs(comparison)
    if not pairs:
        return None
    names = {row["id"]: row["name"] for row in comparison["configurations"]}
    figure, (axes,) = canvas(0.8 + 0.36 * len(pairs))
    _widen(figure)
    for place, pair in enumerate(reversed(pairs)):
        entry = pair["scores"][score]
        better = claimed(entry)
        colour = SERIES[1] if better else SERIES[0]
        if seeds := entry["with_seeds"]:
            axes.plot((seeds["low"], seeds["high"]), (place, place), color=colour, linewidth=1.8)
        axes.plot((entry["low"], entry["high"]), (place, place), color=RULE, linewidth=4, alpha=0.6)
        axes.plot(
            entry["difference"], place, "o", color=colour, markersize=5.5,
            markerfacecolor=colour if better else "white",
        )  # fmt: skip
    axes.axvline(0, color=INK, linewidth=1)
    named = [
        f"{short(names[pair['first']], 30)}\nminus {short(names[pair['second']], 30)}"
        for pair in reversed(pairs)
    ]
    axes.set_yticks(range(len(pairs)), named, fontsize=TEXT - 2)
    axes.set_ylim(-0.6, len(pairs) - 0.4)
    axes.grid(axis="y", visible=False)
    axes.locator_params(axis="x", nbins=4)
    label(axes, f"difference in {score_words(comparison)[score]}")
    return figure


def _roc(rows: Sequence[ConfigurationRow]) -> Figure | None:
    if not rows:
        return None
    figure, (axes,) = canvas(_square_height(rows))
    for number, row in enumerate(rows):
        _banded(axes, number, row, row["curves"]["roc"], "auroc")
    axes.plot((0, 1), (0, 1), color=INK, linewidth=0.8, linestyle=":", label="chance (0.5)")
    label(axes, "false positive rate (1 - specificity)", "sensitivity")
    plot.unit_square(axes, margin=0.01)
    legend(figure, axes)
    return figure


def _precision_recall(rows: Sequence[ConfigurationRow]) -> Figure | None:
    if not rows:
        return None
    figure, (axes,) = canvas(_square_height(rows))
    for number, row in enumerate(rows):
        _banded(axes, number, row, row["curves"]["pr"], "auprc")
    label(axes, "recall (sensitivity)", "precision")
    plot.unit_square(axes, margin=0.01)
    legend(figure, axes)
    return figure


def _square_height(rows: Sequence[ConfigurationRow]) -> float:
    """Inches for a square and a legend below it."""
    return 4.4 + 0.17 * len(rows)


def _banded(axes: Axes, number: int, row: ConfigurationRow, curve: Curve, area: str) -> None:
    """A curve with its band; the legend gives its area, a score."""
    grid, colour = row["curves"]["grid"], SERIES[number % len(SERIES)]
    name = f"{row_name(row)} ({row['scores'][area]['value']:.3f})"
    axes.fill_between(grid, curve["low"], curve["high"], color=colour, alpha=0.13, linewidth=0)
    axes.plot(grid, curve["value"], color=colour, linestyle=DASHES[number % 6], linewidth=1.5, label=name)


def _calibration(rows: Sequence[ConfigurationRow]) -> Figure | None:
    if not rows:
        return None
    of_call = "ece_top" in rows[0]["scores"]
    error = "ece_top" if of_call else "ece"
    figure, (axes,) = canvas(_square_height(rows))
    axes.plot((0, 1), (0, 1), color=INK, linewidth=0.8, linestyle=":", label="perfect")
    for number, row in enumerate(rows):
        bins = row["curves"]["calibration"]
        axes.vlines(
            [entry["mean"] for entry in bins], [entry["low"] for entry in bins],
            [entry["high"] for entry in bins], color=SERIES[number % 6], linewidth=0.7, alpha=0.5,
        )  # fmt: skip
        axes.plot(
            [entry["mean"] for entry in bins], [entry["share"] for entry in bins],
            color=SERIES[number % 6], linestyle=DASHES[number % 6], marker=MARKERS[number % 6], markersize=4,
            linewidth=1.2, label=f"{row_name(row)} (ECE {row['scores'][error]['value']:.3f})",
        )  # fmt: skip
    if of_call:
        label(axes, "probability of the called class (bin means)", "share of right calls")
    elif "classes" in rows[0]:
        label(axes, "predicted probability of a finding (bin means)", "observed share of the finding")
    else:
        label(axes, "predicted probability of PNEUMONIA (bin means)", "observed share of PNEUMONIA")
    plot.unit_square(axes, margin=0.02)
    legend(figure, axes)
    return figure


def _decision_curve(rows: Sequence[ConfigurationRow], decision: Decision | None) -> Figure | None:
    """Net benefit by threshold probability, with the first configuration's band, treat all and treat none."""
    if not rows or decision is None:
        return None
    figure, (axes,) = canvas(3.4 + 0.17 * len(rows))
    at = decision["thresholds"]
    axes.plot(at, decision["treat_all"], color=INK, linewidth=0.8, linestyle="--", label="treat all")
    axes.axhline(0, color=INK, linewidth=0.8, linestyle=":", label="treat none")
    for number, row in enumerate(rows):
        curve, colour = row["curves"]["net_benefit"], SERIES[number % len(SERIES)]
        if not number:
            axes.fill_between(at, curve["low"], curve["high"], color=colour, alpha=0.13, linewidth=0)
        axes.plot(
            at, curve["value"], color=colour, linestyle=DASHES[number % 6], linewidth=1.5, label=row_name(row)
        )  # fmt: skip
    top = max(max(row["curves"]["net_benefit"]["high"]) for row in rows)
    axes.set_ylim(-0.15 * top, 1.05 * top)  # treat all falls without end
    axes.set_xlim(0, 1)
    label(axes, "threshold probability", "net benefit")
    legend(figure, axes)
    return figure


def _curves(rows: Sequence[ConfigurationRow], metric: str) -> Figure | None:
    """`metric` by epoch, one panel for each split: the mean over seeds, with their range as a band."""
    splits = [
        (split, title)
        for split, title in (("train", "training"), ("val", "validation"), ("test", "test, seen every epoch"))
        if any(_by_epoch(row, f"{split}/{metric}") for row in rows)
    ]
    if not splits:
        return None
    figure, panels = canvas(2.0 * len(splits) + 0.6 + 0.17 * len(rows), rows=len(splits), sharex=True)
    named: set[int] = set()
    for axes, (split, title) in zip(panels, splits, strict=True):
        for number, row in enumerate(rows):
            points = _by_epoch(row, f"{split}/{metric}")
            if not points:
                continue
            epochs = sorted(points)
            mean = [np.mean(points[epoch]) for epoch in epochs]
            colour = SERIES[number % 6]
            axes.fill_between(
                epochs, [min(points[e]) for e in epochs], [max(points[e]) for e in epochs], color=colour,
                alpha=0.15, linewidth=0,
            )  # fmt: skip
            axes.plot(
                epochs, mean, color=colour, linestyle=DASHES[number % 6], linewidth=1.4,
                marker=MARKERS[number % 6], markersize=3.5 if len(epochs) <= 25 else 0,
                label=None if number in named else row_name(row),
            )  # fmt: skip
            named.add(number)
        label(axes, "epoch" if axes is panels[-1] else "", metric if metric != "f1" else "F1", title)
        plot.whole_epochs(axes)
    handles = [pair for axes in panels for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    figure.legend(
        [handle for handle, _ in handles], [text for _, text in handles], loc="outside lower center",
        fontsize=TEXT - 1, frameon=False, labelcolor=INK,
    )  # fmt: skip
    return figure


def _by_epoch(row: ConfigurationRow, key: str) -> dict[int, list[float]]:
    points: dict[int, list[float]] = {}
    for run in row["runs"]:
        for entry in run["history"]:
            if entry.get(key) is not None:
                points.setdefault(int(entry["epoch"]), []).append(float(entry[key]))
    return points


def _confusions(rows: Sequence[ConfigurationRow], matrices: Sequence[list[Confusion]]) -> Figure | None:
    """The first runs' matrices side by side, four in a row: counts and shares of the true class."""
    cells = [
        (row_name(row, 22), run["seed"], matrix)
        for row, found in zip(rows, matrices, strict=True)
        for run, matrix in zip(row["runs"], found, strict=True)
    ][:12]
    if not cells:
        return None
    lines = -(-len(cells) // 4)
    figure, panels = canvas(1.75 * lines + 0.3, columns=min(4, len(cells)), rows=lines)
    figure.set_figwidth(2.0 * min(4, len(cells)) + 0.6)
    for axes in panels[len(cells) :]:
        axes.set_visible(False)
    for axes, (name, seed, matrix) in zip(panels, cells, strict=False):
        counts = np.asarray(matrix)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1)
        axes.invert_yaxis()
        axes.set_aspect("equal")
        for (i, j), count in np.ndenumerate(counts):
            colour = "white" if shares[i, j] > 0.5 else "black"
            text = f"{count}\n{shares[i, j]:.1%}"
            axes.text(j + 0.5, i + 0.5, text, ha="center", va="center", color=colour, fontsize=TEXT - 1)
        axes.set_xticks((0.5, 1.5), ("N", "P"))
        axes.set_yticks((0.5, 1.5), ("N", "P"))
        axes.grid(visible=False)
        axes.set_title(f"{name}\nseed {seed}", fontsize=TEXT - 2, color=INK)
    figure.supxlabel("predicted (N normal, P pneumonia)", fontsize=TEXT - 1)
    figure.supylabel("true", fontsize=TEXT - 1)
    return figure


def _classes(splits: Mapping[str, SplitSize] | None) -> Figure | None:
    if not splits:
        return None
    figure, (axes,) = canvas(2.9)
    normal = [split["normal"] for split in splits.values()]
    pneumonia = [split["pneumonia"] for split in splits.values()]
    for k, (name, values) in enumerate(zip(CLASS_NAMES, (normal, pneumonia), strict=True)):
        bars = axes.bar(np.arange(len(splits)) + (k - 0.5) * 0.4, values, 0.38, label=name, color=SERIES[k])
        texts = [
            f"{n:,}\n{n / max(1, s['images']):.0%}" for n, s in zip(values, splits.values(), strict=True)
        ]
        axes.bar_label(bars, texts, fontsize=TEXT - 1, color=INK, padding=1)
    axes.set_xticks(range(len(splits)), list(splits))
    axes.margins(y=0.2)
    axes.grid(axis="x", visible=False)
    label(axes, "", "images")
    legend(figure, axes)
    return figure
