"""The figures of one run with more than two classes: arrays in, a matplotlib Figure out.

Each function takes `note`, a line under the figure, as in `figures`. They are readable up to 15 classes.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from pneumo.evaluation import metrics, multiclass, multilabel
from pneumo.evaluation.figures import SMALL, TEXT, canvas, histogram, legend_above, undefined, wilson
from pneumo.evaluation.plot import BLUE, DASHES, GREY, INK, ORANGE, SERIES, SKY, unit_square

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SPLIT_COLOURS = (SKY, ORANGE, BLUE)
LONGEST = 24  # characters of a class name in a figure


def class_distribution(
    counts: Mapping[str, Mapping[str, int]],
    patients: Mapping[str, int] | None = None,
    note: str | None = None,
    images: Mapping[str, int] | None = None,
) -> "Figure":
    """Bars of the images by class and split; `patients` has the number of patients by split, if known.

    Shares are of `images` by split, without it of all classes together.
    """
    names = list(next(iter(counts.values()), {}))
    height = 1.6 + 0.2 * max(1, len(counts)) * len(names)
    figure, axes = canvas("Images by class and split", "images", "", note, size=(8.0, height))
    thickness = 0.84 / max(1, len(counts))
    people = patients or {}
    for k, (split, of_class) in enumerate(counts.items()):
        places = np.arange(len(names)) + (k - (len(counts) - 1) / 2) * thickness
        values = [of_class.get(name, 0) for name in names]
        total = max(1, images[split] if images else sum(values))
        label = f"{split} ({people[split]:,} patients)" if split in people else split
        bars = axes.barh(places, values, 0.94 * thickness, label=label, color=SPLIT_COLOURS[k % 3])
        texts = [f"{value:,} ({value / total:.1%})" for value in values]
        axes.bar_label(bars, texts, padding=2, fontsize=SMALL - 2)
    axes.set_yticks(range(len(names)), [short(name) for name in names])
    axes.invert_yaxis()
    axes.margins(x=0.2, y=0.01)  # x: for the text beside the longest bar
    axes.grid(axis="y", visible=False)
    legend_above(axes)
    return figure


def confusion_matrix(
    matrix: ArrayLike, class_names: Sequence[str], title: str, note: str | None = None
) -> "Figure":
    """Counts and shares of the true class (rows) for `matrix` [K, K]."""
    counts = np.asarray(matrix)
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    side = 3.2 + 0.72 * len(counts)
    xlabel = "predicted class (shares are of the true class)"
    figure, axes = canvas(title, xlabel, "true class", note, size=(side + 1, side))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = TEXT + 2 if len(counts) <= 6 else SMALL - 1
    for (i, j), count in np.ndenumerate(counts):
        text = f"{count:,}\n{shares[i, j]:.1%}" if totals[i, 0] else f"{count:,}\n-"
        color = "white" if shares[i, j] > 0.5 else GREY if not count else INK
        axes.text(j, i, text, ha="center", va="center", color=color, fontsize=size)
    names = [short(name) for name in class_names]
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    rows = [f"{name}\n({total:,} images)" for name, total in zip(names, totals[:, 0], strict=True)]
    axes.set_yticks(range(len(names)), rows)
    axes.grid(visible=False)
    return figure


def finding_confusions(
    matrices: ArrayLike, class_names: Sequence[str], title: str, note: str | None = None
) -> "Figure":
    """Counts of each finding (rows) by what is true and called, for `matrices` [K, 2, 2]."""
    counts = np.asarray(matrices).reshape(-1, 4)[:, [3, 2, 1, 0]]
    groups = [(0, 1), (0, 1), (2, 3), (2, 3)]
    totals = np.stack([counts[:, list(group)].sum(1) for group in groups], 1)
    shares = counts / np.maximum(totals, 1)
    figure, axes = canvas(title, "shares are of the images with, or without, the finding", "", note)
    figure.set_size_inches(9.4, 2.6 + 0.42 * len(counts))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), count in np.ndenumerate(counts):
        text = f"{count:,} ({shares[i, j]:.1%})" if totals[i, j] else "-"
        color = "white" if shares[i, j] > 0.5 else INK
        axes.text(j, i, text, ha="center", va="center", color=color, fontsize=SMALL)
    heads = ("present,\ncalled", "present,\nmissed", "absent,\ncalled", "absent,\nnot called")
    axes.set_xticks(range(4), heads)
    axes.set_yticks(range(len(counts)), [short(name) for name in class_names])
    axes.grid(visible=False)
    return figure


def roc(
    labels: ArrayLike,
    probabilities: ArrayLike,
    class_names: Sequence[str],
    title: str,
    note: str | None = None,
) -> "Figure":
    """Receiver operating characteristic of each class against the rest, and their mean curve.

    The mean curve averages sensitivity at equal specificity; its area is the macro AUROC.
    """
    from sklearn.metrics import roc_curve

    of_class, columns = _by_class(labels, probabilities)
    x, y = "false positive rate (1 - specificity)", "true positive rate (recall)"
    figure, axes = canvas(title, x, y, note, size=(9.4, 6.0))
    grid = np.linspace(0, 1, 1001)
    curves = []
    for label, name in enumerate(class_names):
        area = of_class[label]["auroc"]
        if np.isnan(area):
            axes.plot([], [], " ", label=f"{short(name)}: not defined")
            continue
        false, true, _ = roc_curve(*columns[label], drop_intermediate=False)
        axes.plot(false, true, label=f"{short(name)} {area:.4f}", linewidth=1.3, **_style(label))
        curves.append(np.interp(grid, false, true))
    if not curves:
        return undefined(figure, axes)
    axes.plot((0, 1), (0, 1), color=GREY, linestyle="--", linewidth=1.2)
    _macro_average(axes, grid, curves, _areas(labels, of_class, "auroc"))
    _legend_beside(axes, "AUROC, class against the rest" if np.ndim(labels) == 1 else "AUROC of each finding")
    return figure


def precision_recall(
    labels: ArrayLike,
    probabilities: ArrayLike,
    class_names: Sequence[str],
    title: str,
    note: str | None = None,
) -> "Figure":
    """Precision against recall of each class against the rest; the macro average precision in the legend."""
    from sklearn.metrics import precision_recall_curve

    of_class, columns = _by_class(labels, probabilities)
    x, y = "recall (true positive rate)", "precision (positive predictive value)"
    figure, axes = canvas(title, x, y, note, size=(9.4, 6.0))
    grid = np.linspace(0, 1, 1001)[1:]
    curves = []
    for label, name in enumerate(class_names):
        area = of_class[label]["auprc"]
        if np.isnan(area):
            axes.plot([], [], " ", label=f"{short(name)}: not defined")
            continue
        precision, recall, _ = precision_recall_curve(*columns[label])
        share = of_class[label]["images"] / len(columns[label][0])
        text = f"{short(name)} {area:.4f} (chance {share:.3f})"
        axes.step(recall, precision, where="post", label=text, linewidth=1.3, **_style(label))
        # As average precision counts: up to a recall, the precision of the highest threshold that reaches it.
        curves.append(precision[::-1][np.searchsorted(recall[::-1], grid, side="left")])
    if not curves:
        return undefined(figure, axes)
    _macro_average(axes, grid, curves, _areas(labels, of_class, "auprc"))
    rest = ", class against the rest" if np.ndim(labels) == 1 else " of each finding"
    _legend_beside(axes, f"average precision{rest}")
    return figure


def calibration(
    labels: ArrayLike,
    probabilities: ArrayLike,
    class_names: Sequence[str],
    title: str,
    note: str | None = None,
) -> "Figure":
    """Reliability of the called class's probability over its histogram; thin lines show each class."""
    _, columns = _by_class(labels, probabilities)
    figure, axes = canvas(title, "", "observed share", note, size=(9.4, 7.2), rows=2)
    below = figure.axes[1]
    axes.plot((0, 1), (0, 1), color=GREY, linestyle="--", linewidth=1.2, label="perfect")
    for label, name in enumerate(class_names):
        if not len(columns[label][0]):
            axes.plot([], [], " ", label=f"{short(name)}: not known of any image")
            continue
        of_bins, of_mean, of_share = metrics.calibration_bins(*columns[label])
        some = of_bins > 0
        error = metrics.calibration_error(*columns[label])
        text = f"{short(name)} (ECE {error:.4f})"
        axes.plot(of_mean[some], of_share[some], linewidth=0.9, alpha=0.7, label=text, **_style(label))
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.03, 1.03)
    scored = multiclass.scores_of(labels, probabilities)
    if np.ndim(labels) == 2:
        _legend_beside(axes, f"mean ECE of the findings {scored['ece']:.4f}")
        every = np.concatenate([chances for _, chances in columns])
        bins = np.bincount(metrics.bin_of(every), minlength=metrics.ECE_BINS)
        histogram(below, bins, "predicted probability (histogram: of all findings)")
        return figure
    images, mean, share = multiclass.top_bins(labels, probabilities)
    seen = images > 0
    text = f"called class (ECE {scored['ece_top']:.4f})"
    axes.plot(mean[seen], share[seen], color=INK, marker="o", markersize=7, linewidth=2, label=text)
    low, high = wilson(share[seen], images[seen])
    axes.vlines(mean[seen], low, high, color=INK, alpha=0.35, linewidth=5, label="95 % interval")
    _legend_beside(axes, f"mean ECE of the classes {scored['ece']:.4f}")
    histogram(below, images, "predicted probability (histogram: of the called class)")
    return figure


def _by_class(
    labels: ArrayLike, probabilities: ArrayLike
) -> tuple[list[dict[str, float]], list[tuple[metrics.Ints, metrics.Floats]]]:
    """The scores, and the labels 0 or 1 and probabilities, of each class against the rest or each finding."""
    if np.ndim(labels) == 2:
        pair = multilabel.checked(labels, probabilities)
        return multilabel.finding_scores(*pair), list(multilabel.columns(*pair))
    truth, chances = multiclass.checked(labels, probabilities)
    columns = [((truth == k).astype(np.int64), chances[:, k]) for k in range(chances.shape[1])]
    return multiclass.class_scores(truth, chances), columns


def _areas(labels: ArrayLike, of_class: Sequence[dict[str, float]], area: str) -> list[float]:
    """The areas that the macro average counts: of findings, those that are defined."""
    areas = [one[area] for one in of_class]
    return areas if np.ndim(labels) == 1 else [value for value in areas if not np.isnan(value)]


def _macro_average(
    axes: "Axes", grid: metrics.Floats, curves: Sequence[metrics.Floats], areas: Sequence[float]
) -> None:
    """The mean of the classes' curves on `grid`, with the mean of their areas, on axes from 0 to 1."""
    mean = float(np.mean(areas))
    text = "not defined" if np.isnan(mean) else f"{mean:.4f}"
    axes.plot(grid, np.mean(curves, axis=0), color=INK, linewidth=2.6, label=f"macro average {text}")
    unit_square(axes, margin=0.01)


def short(name: str) -> str:
    """A class name that fits into a figure."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _style(number: int) -> dict[str, Any]:
    """Colour and dash of a class: each pair is unique up to 36 classes."""
    return {
        "color": SERIES[number % len(SERIES)],
        "linestyle": DASHES[number // len(SERIES) % len(DASHES)],
    }


def _legend_beside(axes: "Axes", title: str) -> None:
    axes.legend(
        fontsize=SMALL - 1,
        title=title,
        title_fontsize=SMALL - 1,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
    )
