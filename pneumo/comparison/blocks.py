"""What the comparison page is made of: sections with text, tables, matrices, pictures and figures."""

from dataclasses import dataclass, field
from typing import NamedTuple


class Link(NamedTuple):
    """Text that leads somewhere; without `href` it is only text."""

    text: str
    href: str


@dataclass(kw_only=True)
class Table:
    """A table; its cells are texts. `links` are one more cell for each row, under `links_title`."""

    caption: str
    columns: list[str]
    rows: list[list[str]]
    words: bool = False  # sentences instead of numbers: left-aligned and wrapped
    marked: set[int] = field(default_factory=set)  # rows shown on another ground
    links: list[list[Link]] = field(default_factory=list)
    links_title: str = "in MLflow"


@dataclass(kw_only=True)
class Cell:
    """A cell of a confusion matrix; `shade` is the opacity of its colour."""

    count: int
    share: str
    shade: str


@dataclass(kw_only=True)
class MatrixLine:
    """The images of one true class."""

    name: str
    cells: list[Cell]


@dataclass(kw_only=True)
class Matrix:
    """The confusion matrix of one run; `called` are the classes of its columns."""

    name: str
    called: list[str]
    lines: list[MatrixLine]
    wide: bool = False  # it takes the whole width, and scrolls


@dataclass(kw_only=True)
class MatrixGroup:
    """The matrices of one split."""

    title: str
    matrices: list[Matrix]


@dataclass(kw_only=True)
class Picture:
    """An image with its caption; without `data` (a data URI) only the caption is shown."""

    data: str
    alt: str
    caption: str


@dataclass(kw_only=True)
class Details:
    """A part of a section that opens on a click."""

    summary: str
    text: str = ""
    tables: list[Table] = field(default_factory=list)


@dataclass(kw_only=True)
class Section:
    """A fold of the page; `figures` names the figures to show, if they were drawn."""

    title: str
    open: bool = False
    text: list[str] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    bullets: list[str] = field(default_factory=list)
    flow: list[tuple[str, str]] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    matrices: list[MatrixGroup] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    details: list[Details] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        return self.title.lower().replace(" ", "-")


class Place(NamedTuple):
    """A line of the ranking on the first screen; a phone shows `score` and `runs`, but not `further`."""

    rank: str
    name: str
    chosen: bool  # by validation
    score: str
    further: list[str]
    runs: list[Link]


@dataclass(kw_only=True)
class Ranking:
    """The table on the first screen, and the rest of a long one, folded."""

    caption: str
    note: str
    score: str  # the primary score's name
    further: list[str]
    places: list[Place]
    rest: list[Place]


@dataclass(kw_only=True)
class PageContent:
    """All that the page's template needs, apart from the drawn figures."""

    title: str
    answer: str
    warnings: list[str]  # their headlines
    ranking: Ranking | None
    sections: list[Section]
    footer: str
