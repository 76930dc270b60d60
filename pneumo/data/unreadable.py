"""Files that cannot be read, in a few lines: by reason, with examples, and the rest in a file."""

import re
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pneumo import UserError
from pneumo.data.limits import BadImage
from pneumo.data.listing import Listing, nearest, scan
from pneumo.files import write_atomically

MISSING = "No such file or directory"
SHOWN = 10  # of one reason
_NUMBER = re.compile(r"\d[\d,.]*")


def lines(bad: Sequence[BadImage], file: Path | None = None) -> list[str]:
    """A line for each file, the first ten of each reason, and how many more there are.

    If some are left out, all are written to `file`. Reasons that differ only in numbers are one reason.
    """
    groups: dict[str, list[BadImage]] = defaultdict(list)
    for image in bad:
        groups[_NUMBER.sub("#", image.reason)].append(image)
    found = []
    for group in groups.values():
        found += [f"{image.path}: {image.reason}" for image in group[:SHOWN]]
        if len(group) > SHOWN:
            found.append(f"and {len(group) - SHOWN:,} more: {group[0].reason}")
    if file is not None and any(len(group) > SHOWN for group in groups.values()):
        text = "".join(f"{image.path}: {image.reason}\n" for image in bad)
        with suppress(OSError, UserError):  # on a full or read-only disk, the examples must do
            write_atomically(file, text.encode(errors="surrogateescape"))
            found.append(f"all {len(bad):,} are listed in {file}")
    return found


def all_missing(root: Path, paths: Sequence[str], bad: Sequence[BadImage]) -> str | None:
    """One message for a set whose images are all missing; None if one is there.

    It has the full path of the first and the nearest name that exists.
    """
    if not paths or len(bad) < len(paths) or any(image.reason != MISSING for image in bad):
        return None
    first = paths[0]
    listing: Listing = scan(root)
    close = nearest(listing, first)
    words = (
        f"The nearest existing name is {root / close[0]}, {close[1]}."
        if close
        else f"No image of that name is below {root}; name the folder of the images with data.root=DIR."
    )
    return (
        f"none of the {len(paths):,} images exists below data.root={root}. The first is {first!r}, looked "
        f"for as {root / first}. {words}"
    )
