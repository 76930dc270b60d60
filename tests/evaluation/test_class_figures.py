"""The figures of more than two classes: every class and count is there, up to 15 classes."""

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pneumo.evaluation import class_figures, multiclass, plot

Draw = Callable[..., Figure]
NAMES = tuple(f"CLASS_{number}" for number in range(15))


def drawn(classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    labels = np.arange(20 * classes) % classes
    chances = rng.dirichlet(np.ones(classes), len(labels)) + np.eye(classes)[labels]
    return labels, chances / 2


def legend(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.mark.parametrize("classes", [3, 15])
def test_a_confusion_matrix_has_counts_and_row_percentages(classes: int) -> None:
    labels, chances = drawn(classes)
    matrix = multiclass.confusion(labels, chances.argmax(1), classes)
    matrix[0, 1] = 1234
    figure = class_figures.confusion_matrix(matrix, NAMES[:classes], "title", "note")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert len(texts) == classes**2 and texts[1].startswith("1,234\n") and texts[1].endswith("%")
    shares = [float(text.split("\n")[1].rstrip("%")) for text in texts]
    assert np.reshape(shares, (classes, classes)).sum(1) == pytest.approx(100, abs=0.05 * classes)
    assert "CLASS_0" in figure.axes[0].get_yticklabels()[0].get_text()
    assert plot.png(figure)[:4] == b"\x89PNG"
    side = figure.get_size_inches()[1] / classes
    assert side > 0.7, "a cell of 0.7 inches holds two lines of 9 points"


def test_a_row_without_images_has_no_shares() -> None:
    figure = class_figures.confusion_matrix(np.diag([3, 0, 2]), NAMES[:3], "title")
    assert [text.get_text() for text in figure.axes[0].texts][3:6] == ["0\n-"] * 3


@pytest.mark.parametrize("draw", [class_figures.roc, class_figures.precision_recall])
@pytest.mark.parametrize("classes", [3, 15])
def test_curves_name_each_class_and_the_macro_average(draw: Draw, classes: int) -> None:
    labels, chances = drawn(classes)
    figure = draw(labels, chances, NAMES[:classes], "title")
    scored = multiclass.scores(labels, chances)
    score = scored["auroc" if draw is class_figures.roc else "auprc"]
    texts = legend(figure.axes[0])
    assert len(texts) == classes + 1 and texts[-1] == f"macro average {score:.4f}"
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].get_lines()}
    assert len(looks) >= classes + 1, "no two classes share colour and dash"
    plot.png(figure)


@pytest.mark.parametrize("draw", [class_figures.roc, class_figures.precision_recall])
def test_the_area_below_the_mean_curve_is_the_macro_score(draw: Draw) -> None:
    labels, chances = drawn(4)
    figure = draw(labels, chances, NAMES[:4], "title")
    line = figure.axes[0].get_lines()[-1]
    x, y = line.get_xdata(), line.get_ydata()
    score = multiclass.scores(labels, chances)["auroc" if draw is class_figures.roc else "auprc"]
    area = np.trapezoid(y, x) if draw is class_figures.roc else np.mean(y)
    assert area == pytest.approx(score, abs=3e-3)


@pytest.mark.parametrize("draw", [class_figures.roc, class_figures.precision_recall])
def test_a_class_without_images_is_said_to_be_undefined(draw: Draw) -> None:
    labels, chances = drawn(3)
    figure = draw(labels[labels != 1], chances[labels != 1], NAMES[:3], "title")
    assert "CLASS_1: not defined" in legend(figure.axes[0])
    assert legend(figure.axes[0])[-1] == "macro average not defined"


def test_calibration_shows_the_called_class_and_each_class() -> None:
    labels, chances = drawn(3)
    figure = class_figures.calibration(labels, chances, NAMES[:3], "title")
    texts = legend(figure.axes[0])
    error = multiclass.top_calibration_error(labels, chances)
    assert f"called class (ECE {error:.4f})" in texts and sum("CLASS_" in text for text in texts) == 3
    bars = [text.get_text() for text in figure.axes[1].texts]
    assert sum(int(text) for text in bars if text) == len(labels)
    plot.png(figure)


def test_the_distribution_has_every_class_and_split() -> None:
    counts = {split: {name: 10 + n for n, name in enumerate(NAMES)} for split in ("train", "val", "test")}
    figure = class_figures.class_distribution(counts, {"train": 5}, "note")
    assert len(figure.axes[0].patches) == 45
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == list(NAMES)
    assert "train (5 patients)" in legend(figure.axes[0])
    plot.png(figure)


def test_a_long_name_is_cut() -> None:
    assert len(class_figures.short("x" * 99)) == class_figures.LONGEST and class_figures.short("a") == "a"
