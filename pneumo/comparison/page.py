"""Writes the comparison page and the files beside it.

index.html needs no other file and no network. comparison.json holds every number on the page.
"""

import base64
import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from pneumo import UserError
from pneumo.comparison import external_sections, second_process, sections, subgroup_drawing
from pneumo.comparison.content import Comparison, Mistake
from pneumo.comparison.figures import Rendered
from pneumo.comparison.subgroup_sections import FIGURE
from pneumo.comparison.words import answer, caption, headlines, number, ranked_by, score_words, with_interval
from pneumo.data import images, phantom
from pneumo.data.settings import PhantomSettings
from pneumo.files import write_atomically
from pneumo.names import FIGURES
from pneumo.text import finite, table

PICTURE_PIXELS = 320  # the longer side of a mistake's image on the page


@dataclass(kw_only=True)
class Page:
    """Where the files were written, and the text for the terminal."""

    folder: Path
    terminal: str
    files: list[str] = field(default_factory=list)


def write(
    folder: Path,
    comparison: Comparison,
    pictures: Mapping[str, str],
    process: ProcessPoolExecutor | None = None,
) -> Page:
    """Write index.html, comparison.json, scores.csv, pairs.csv and figures/*.png below `folder`.

    `pictures` has the mistakes' images as data URIs, by path. `process` draws half of the figures.
    """
    rendered = second_process.render(comparison, process)
    if groups := external_sections.subgroups(comparison):
        rendered |= subgroup_drawing.render(groups)
    files = {
        "index.html": html(comparison, rendered, pictures).encode(errors="backslashreplace"),
        "comparison.json": (json.dumps(finite(dict(comparison)), allow_nan=False) + "\n").encode(),
        "scores.csv": _scores_csv(comparison),
        "pairs.csv": _pairs_csv(comparison),
        **{f"{FIGURES}/{name}.png": figure.png for name, figure in rendered.items()},
    }
    for name, content in files.items():
        write_atomically(folder / name, content)
    return Page(folder=folder, terminal=terminal(comparison), files=list(files))


def html(comparison: Comparison, rendered: Mapping[str, Rendered], pictures: Mapping[str, str]) -> str:
    """The page. Names and paths come from outside, so the template escapes everything but the figures."""
    loader = PackageLoader("pneumo.comparison", ".")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    page = sections.page(comparison, pictures)
    names = ["forest", *(name for section in page.sections for name in section.figures if name in rendered)]
    shown = {name: {"caption": _caption(name, comparison), "svg": rendered[name].svg} for name in names}
    return environment.get_template("page.html.j2").render(page=page, figures=shown)


def _caption(figure: str, comparison: Comparison) -> str:
    groups = external_sections.subgroups(comparison)
    return subgroup_drawing.caption(groups) if groups and figure == FIGURE else caption(figure, comparison)


def pictures(
    mistakes: Sequence[Mistake],
    root: Path | None,
    synthetic: PhantomSettings | None = None,
    file_of: Callable[[str], str] = str,
) -> dict[str, str]:
    """The mistakes' images as small JPEG data URIs, by path.

    Those of a `synthetic` set are drawn again; others are read below `root`, if they are on this machine.
    `file_of` gives an image's file below it.
    """
    shown = {}
    for mistake in mistakes:
        try:
            if synthetic is not None:
                picture = Image.fromarray(phantom.render(mistake["path"], synthetic))
            elif root is not None and (file := root / file_of(mistake["path"])).resolve().is_relative_to(
                root.resolve()
            ):
                picture = Image.fromarray(images.read(file))
            else:  # a path in a CSV may lead elsewhere
                continue
        except (images.BadImage, UserError):
            continue
        picture.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
        jpeg = io.BytesIO()
        picture.save(jpeg, format="JPEG", quality=80)
        shown[mistake["path"]] = "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode()
    return shown


def terminal(comparison: Comparison) -> str:
    """The ranking as plain text, the primary score first; then the answer, and a line of warnings."""
    first = comparison["rank_by"]
    words = score_words(comparison)
    others = [score for score in ranked_by(comparison) if score != first]
    rows = [
        {
            "rank": "-" if row["rank"] is None else row["rank"],
            "configuration": row["name"],
            "seeds": len(row["seeds"]),
            words[first]: with_interval(row["scores"][first]),
            "SD": number(row["scores"][first]["sd"]),
            **{words[score]: number(row["scores"][score]["value"]) for score in others},
            "protocol": row["protocol"]
            + (" OPTIMISTIC, not ranked" if row in comparison["optimistic"] else ""),
        }
        for row in [*comparison["configurations"], *comparison["ensembles"], *comparison["optimistic"]]
    ]
    lines = [table(rows), "", answer(comparison), *external_sections.verdict(comparison)]
    if titles := " ".join(headlines(comparison)):
        lines.append(f"Warnings (the page says more): {titles}")
    return "\n".join(lines)


def _scores_csv(comparison: Comparison) -> bytes:
    rows: list[list[object]] = []
    for row in [*comparison["configurations"], *comparison["ensembles"], *comparison["optimistic"]]:
        start = [row["rank"] or "", row["name"], row["protocol"], " ".join(map(str, row["seeds"]))]
        for score, entry in row["scores"].items():
            each = " ".join(repr(value) for value in entry["per_run"])
            rows.append([*start, score, entry["value"], entry["low"], entry["high"], entry["sd"], each])
    head = ["rank", "configuration", "protocol", "seeds", "score", "value", "low", "high", "sd", "per_run"]
    return _csv(head, rows)


def _pairs_csv(comparison: Comparison) -> bytes:
    names = {row["id"]: row["name"] for row in comparison["configurations"]}
    rows: list[list[object]] = []
    for pair in comparison["pairs"]:
        start = [names[pair["first"]], names[pair["second"]]]
        for score, entry in pair["scores"].items():
            bounds = [entry[key] for key in ("difference", "low", "high", "p", "p_holm")]
            seeds = entry["with_seeds"]
            over = [seeds["low"], seeds["high"], seeds["p"], seeds["p_holm"]] if seeds else [""] * 4
            rows.append([*start, score_words(comparison)[score], *bounds, *over])
    head = ["first", "second", "score", "difference", "low", "high", "p", "p_holm"]
    head += ["low_seeds", "high_seeds", "p_seeds", "p_holm_seeds"]
    return _csv(head, rows)


def _csv(head: Sequence[str], rows: Sequence[Sequence[object]]) -> bytes:
    page = io.StringIO()
    writer = csv.writer(page, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(["" if cell is None else cell for cell in row] for row in rows)
    return page.getvalue().encode(errors="surrogateescape")
