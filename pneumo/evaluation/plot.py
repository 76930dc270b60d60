"""What every figure shares: colours, empty axes, and how a figure becomes a PNG or an SVG.

No pyplot and no global state. matplotlib is imported where a figure is made: the modules above are loaded
long before anything is drawn. Colours are Okabe and Ito's (2008), which stay apart under the common colour
blindnesses; lines also differ in dash and marker, for a grey print.
"""

import io
import re
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, SKY, GREY = "#0072b2", "#d55e00", "#009e73", "#56b4e9", "#555555"
INK, RULE = "#1c2127", "#d5dae0"  # text and grid on a page
# For many lines at once: the same colours, darkened where they are thin on white.
SERIES = (BLUE, ORANGE, "#007a5a", "#a8508a", "#8a6d00", "#2b8fc9")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")
# A page sets these colours itself, for daylight, the dark and paper.
CSS_COLOURS = {INK: "currentColor", RULE: "var(--rule)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)
}
UNITS = {
    "loss": "loss (cross-entropy, nats)",
    "accuracy": "accuracy (fraction of images)",
    "f1": "F1 of the positive class (0 to 1)",
}


def axes_grid(
    size: tuple[float, float],
    rows: int = 1,
    columns: int = 1,
    *,
    points: float,
    rule: tuple[str, float],
    dpi: int | None = None,
    **subplots: Any,
) -> tuple["Figure", list["Axes"]]:
    """A figure of `size` inches and its axes, row by row: a grid behind the data, no frame above and right.

    `points` is the size of the tick labels, `rule` the grid's colour and width; `subplots` goes to
    Figure.subplots.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=dpi, layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False, **subplots).ravel())
    for axes in grid:
        axes.tick_params(labelsize=points)
        axes.grid(color=rule[0], linewidth=rule[1])
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, grid


def whole_epochs(axes: "Axes") -> None:
    """Ticks on the x axis at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def unit_square(axes: "Axes", margin: float) -> None:
    """0 to 1 on both axes, equally long, with `margin` around."""
    axes.set_xlim(-margin, 1 + margin)
    axes.set_ylim(-margin, 1 + margin)
    axes.set_aspect("equal")


def png(figure: "Figure", **savefig: Any) -> bytes:
    page = io.BytesIO()
    figure.savefig(page, format="png", **savefig)
    return page.getvalue()


def svg(figure: "Figure", name: str, alt: str) -> str:
    """The figure as an <svg> element: text stays text, colours become the page's, ids start with `name`."""
    from matplotlib import rc_context

    page = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(page, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = page.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    for colour, variable in CSS_COLOURS.items():
        text = text.replace(colour, variable)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", text)  # the page's typeface
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", text))
    kept = {mark: f"{name}-{mark}" for mark in used}
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{kept[m[1]]}"' if m[1] in kept else "", text)
    text = re.sub(r"(url\(#|href=\"#)([^)\"]+)", lambda m: m[1] + kept[m[2]], text)
    text = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"', "", text, count=1)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(alt, quote=True)}" ', 1)
