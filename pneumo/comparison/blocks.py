"""What a section of the comparison page is made of."""

from collections.abc import Mapping, Sequence
from typing import Any

Facts = Mapping[str, Any]
MOST_REPORTS = 12  # configurations whose matrices and reports are shown


def section(title: str, text: Sequence[str] = (), **blocks: Any) -> dict[str, Any]:
    blocks = {"verdicts": [], "bullets": [], "flow": [], "tables": [], "figures": []} | blocks
    blocks = {"matrices": [], "pictures": [], "details": []} | blocks
    mark = title.lower().replace(" ", "-")
    return {**blocks, "id": mark, "title": title, "text": list(text)}


def table(
    caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], words: bool = False
) -> dict[str, Any]:
    return {
        "caption": caption,
        "columns": list(columns),
        "rows": [list(row) for row in rows],
        "words": words,
        "marked": set(),
        "notes": [],
    }


def val_confusion(row: Facts) -> Sequence[Any]:
    return row["validation"]["confusion"]
