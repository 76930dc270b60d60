"""The comparison page and the files beside it, from the dict that a finished comparison is.

index.html needs nothing else and no network; comparison.json holds every number of it.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pneumo.comparison import figures as comparison_figures
from pneumo.comparison import sections as page_sections
from pneumo.comparison import words as comparison_words
from pneumo.comparison.pairs import SCORE_WORDS
from pneumo.files import write_atomically
from pneumo.text import finite
from pneumo.text import table as terminal_table

Facts = Mapping[str, Any]


@dataclass(kw_only=True)
class Page:
    """Where things were written, and the text for the terminal."""

    folder: Path
    terminal: str
    files: list[str] = field(default_factory=list)


def write(folder: Path, result: Facts, pictures: Mapping[str, str]) -> Page:
    """Write index.html, comparison.json, scores.csv, pairs.csv and figures/*.png below `folder`.

    `result` is what `comparison.build` returned, with `about`, `splits` and `left_out` added, and with `cost`
    in its configurations where that is known; `pictures` has the mistakes' images as data URIs, by path.
    """
    figures = comparison_figures.draw(result)
    drawn = {f"figures/{name}.png": comparison_figures.png(figure) for name, figure in figures.items()}
    files = {
        "index.html": html(result, figures, pictures).encode(),
        "comparison.json": (json.dumps(finite(dict(result)), allow_nan=False) + "\n").encode(),
        "scores.csv": _scores_csv(result),
        "pairs.csv": _pairs_csv(result),
        **drawn,
    }
    for name, content in files.items():
        write_atomically(folder / name, content)
    return Page(folder=folder, terminal=terminal(result), files=list(files))


def html(result: Facts, figures: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """The page. Names and paths come from outside: the template escapes all but the figures."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("pneumo.comparison", ".")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    page = page_sections.page(result, pictures)
    drawn = {}
    for name in [name for section in page["sections"] for name in section["figures"] if name in figures]:
        caption = comparison_words.caption(name, result)
        drawn[name] = {"caption": caption, "svg": comparison_figures.svg(figures[name], name, caption)}
    return environment.get_template("page.html.j2").render(**page, figures=drawn)


def terminal(result: Facts) -> str:
    """The ranking and the verdicts as plain text."""
    rows = [
        {
            "rank": "-" if row["rank"] is None else row["rank"],
            "configuration": row["name"],
            "seeds": len(row["seeds"]),
            "accuracy": comparison_words.with_interval(row["scores"]["accuracy"]),
            "SD": comparison_words.number(row["scores"]["accuracy"]["sd"]),
            "AUROC": comparison_words.with_interval(row["scores"]["auroc"]),
            "F1": comparison_words.with_interval(row["scores"]["f1"]),
            "protocol": row["protocol"] + (" OPTIMISTIC, not ranked" if row in result["optimistic"] else ""),
        }
        for row in [*result["configurations"], *result["ensembles"], *result["optimistic"]]
    ]
    lines = [terminal_table(rows), "", comparison_words.lead(result)]
    lines += [f"note: {title} {text}" for title, text in comparison_words.warnings(result)]
    lines += [f"left out: {entry['run']}: {entry['reason']}" for entry in result["left_out"]]
    return "\n".join([*lines, "", *comparison_words.verdicts(result)])


def _scores_csv(result: Facts) -> bytes:
    rows = []
    for row in [*result["configurations"], *result["ensembles"], *result["optimistic"]]:
        start = [row["rank"] or "", row["name"], row["protocol"], " ".join(map(str, row["seeds"]))]
        for score, entry in row["scores"].items():
            each = " ".join(repr(value) for value in entry["per_run"])
            rows.append([*start, score, *(entry[key] for key in ("value", "low", "high", "sd")), each])
    head = ["rank", "configuration", "protocol", "seeds", "score", "value", "low", "high", "sd", "per_run"]
    return _csv(head, rows)


def _pairs_csv(result: Facts) -> bytes:
    names = {row["id"]: row["name"] for row in result["configurations"]}
    rows = []
    for pair in result["pairs"]:
        start = [names[pair["first"]], names[pair["second"]]]
        for score, entry in pair["scores"].items():
            with_seeds = entry["with_seeds"] or ("", "")
            figures = [entry[key] for key in ("difference", "low", "high", "p", "p_holm")]
            rows.append([*start, SCORE_WORDS[score], *figures, *with_seeds])
    head = ["first", "second", "score", "difference", "low", "high", "p", "p_holm", "low_seeds", "high_seeds"]
    return _csv(head, rows)


def _csv(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> bytes:
    page = io.StringIO()
    writer = csv.writer(page, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(["" if cell is None else cell for cell in row] for row in rows)
    return page.getvalue().encode(errors="surrogateescape")
