"""What the figures share, above all the SVG that a page embeds."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
from matplotlib.figure import Figure

from pneumo.evaluation import plot


@pytest.fixture
def figure() -> Figure:
    figure, (axes,) = plot.axes_grid((3, 2), points=8, rule=(plot.RULE, 0.7))
    axes.plot((0, 1), (0, 1), color=plot.SERIES[1], marker="o")
    axes.set_xlabel("a < b", color=plot.INK)
    return figure


def test_the_svg_is_an_element_with_a_name_for_screen_readers(figure: Figure) -> None:
    text = plot.svg(figure, "roc", 'a "quoted" caption')
    root = ElementTree.fromstring(text)
    assert root.attrib["role"] == "img" and root.attrib["aria-label"] == 'a "quoted" caption'
    assert "width" not in root.attrib and "<metadata" not in text
    assert "a &lt; b</text>" in text  # text stays text


def test_the_svg_takes_the_pages_colours(figure: Figure) -> None:
    text = plot.svg(figure, "roc", "")
    assert "var(--series-2)" in text and "currentColor" in text and "var(--rule)" in text
    assert not set(plot.CSS_COLOURS) & set(re.findall("#[0-9a-f]{6}", text))


def test_two_figures_on_one_page_share_no_id(figure: Figure) -> None:
    ids = [set(re.findall(r' id="([^"]+)"', plot.svg(figure, name, ""))) for name in ("roc", "forest")]
    assert ids[0] and not ids[0] & ids[1] and all(mark.startswith("roc-") for mark in ids[0])
    text = plot.svg(figure, "roc", "")
    assert set(re.findall(r'href="#([^"]+)"', text)) <= ids[0]


def test_axes_come_row_by_row_without_a_frame() -> None:
    figure, axes = plot.axes_grid((3, 2), 2, 3, points=8, rule=("#dddddd", 1.0), dpi=50)
    assert len(axes) == 6 and axes[:3] == figure.axes[:3] and figure.dpi == 50
    assert not axes[0].spines["top"].get_visible() and axes[0].spines["left"].get_visible()


def test_epochs_are_whole_and_a_square_is_one() -> None:
    figure, (axes,) = plot.axes_grid((3, 2), points=8, rule=("#dddddd", 1.0))
    axes.set_xlim(0.5, 2.5)
    plot.whole_epochs(axes)
    assert all(tick == int(tick) for tick in axes.get_xticks())
    plot.unit_square(axes, margin=0.1)
    assert axes.get_xlim() == axes.get_ylim() == (-0.1, 1.1) and axes.get_aspect() == 1
    assert plot.png(figure).startswith(b"\x89PNG")
