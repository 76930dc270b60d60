"""What is below a data set's root: its files, the name nearest to a missing one, and what is not used."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pneumo import UserError
from pneumo.data.formats import SUFFIXES
from pneumo.data.found import listed

TABLE_SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".xlsx", ".xls", ".parquet")
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".7z", ".rar")
MAX_FILES = 5_000_000  # below a root; a listing of a million files takes 300 MB


def is_clutter(name: str) -> bool:
    """True for the extra files that macOS adds to archives."""
    return name.startswith("._") or name in ("__MACOSX", ".DS_Store")


def is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


@dataclass
class Listing:
    """The files below `root`, as sorted paths relative to it. Folders behind links are not entered.

    Hidden folders, hidden files that are not images, and the clutter of macOS are left out. `closed` lists
    folders that may not be read, `links` the links among the files.
    """

    root: Path
    files: list[str]
    closed: list[str] = field(default_factory=list)
    links: set[str] = field(default_factory=set)

    @cached_property
    def names(self) -> dict[str, list[str]]:
        """The images by their bare names."""
        return self._by(lambda path: path.rpartition("/")[2])

    @cached_property
    def stems(self) -> dict[str, list[str]]:
        """The images by their bare names without suffix."""
        return self._by(lambda path: path.rpartition("/")[2].rpartition(".")[0])

    @cached_property
    def known(self) -> frozenset[str]:
        return frozenset(self.files)

    def _by(self, key: Callable[[str], str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for path in self.files:
            if is_image(path):
                found[key(path)].append(path)
        return found


def scan(root: Path, skip: Iterable[Path] = ()) -> Listing:
    """List what is below `root`, without the folders in `skip`. Raises UserError for more than MAX_FILES."""
    base = str(root)
    left_out = {str(path) for path in skip}
    files: list[str] = []
    closed: list[str] = []
    links: set[str] = set()
    pending = [""]
    while pending:
        above = pending.pop()
        try:
            entries = list(os.scandir(os.path.join(base, above) if above else base))  # noqa: PTH118
        except PermissionError:
            if not above:
                raise
            closed.append(above)
            continue
        for entry in entries:
            if is_clutter(entry.name) or (entry.name.startswith(".") and not is_image(entry.name)):
                continue
            path = f"{above}/{entry.name}" if above else entry.name
            if not entry.is_dir(follow_symlinks=False):
                files.append(path)
                if entry.is_symlink():
                    links.add(path)
            elif entry.path not in left_out:
                pending.append(path)
        if len(files) > MAX_FILES:
            raise UserError(
                f"data.root={root} has more than {MAX_FILES:,} files below it; name the data set's folder."
            )
    return Listing(root, sorted(files), sorted(closed), links)


class Boundary:
    """Which paths stay below a root. A link counts by where it leads; this holds for folders and tables."""

    def __init__(self, root: Path) -> None:
        self.base = os.path.realpath(root)
        self._folders: dict[str, bool] = {}  # resolves each folder once, not once per image

    def holds(self, path: str) -> bool:
        """True if `path`, relative to the root, leads to a place below it."""
        full = os.path.join(self.base, path)  # noqa: PTH118 - strings: this runs for every image
        if ".." in path.split("/") or os.path.islink(full):  # noqa: PTH114
            return self._below(os.path.realpath(full))
        parent = os.path.dirname(full)  # noqa: PTH120
        if parent not in self._folders:
            self._folders[parent] = self._below(os.path.realpath(parent))
        return self._folders[parent]

    def is_link(self, path: str) -> bool:
        """True if `path` or a folder in it is a link."""
        parts = path.split("/")
        return any(
            os.path.islink(os.path.join(self.base, *parts[: count + 1]))  # noqa: PTH114, PTH118
            for count in range(len(parts))
        )

    def _below(self, resolved: str) -> bool:
        return (resolved + os.sep).startswith(self.base.rstrip(os.sep) + os.sep)


def refuse_links(links: list[str], root: Path) -> None:
    """Raise UserError for links that lead out of the root."""
    if links:
        raise UserError(
            f"{len(links)} links lead out of data.root={root}: {listed(links)}. A link is followed while it "
            "stays below data.root: copy the images there, or set data.root higher."
        )


def with_targets(listing: Listing, paths: Iterable[str]) -> list[str]:
    """`paths`, with the links that they lead through and the files that they lead to."""
    found: list[str] = []
    folders: dict[str, str] = {}
    base = os.path.realpath(listing.root)
    for path in paths:
        found.append(path)
        if path in listing.known and path not in listing.links:
            continue
        above, _, name = path.rpartition("/")
        if above not in folders:
            folders[above] = os.path.realpath(os.path.join(base, above))  # noqa: PTH118
            found += listing.links.intersection(_above(above))
        target = os.path.join(folders[above], name)  # noqa: PTH118
        found.append(os.path.relpath(os.path.realpath(target), base))
    return found


def _above(path: str) -> list[str]:
    """`path` and the folders that hold it."""
    parts = path.split("/")
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def suffix_of(name: str) -> str:
    """The suffix of a file's name in lower case, `.csv.gz` as a whole."""
    lower = name.lower()
    compound = [suffix for suffix in (*TABLE_SUFFIXES, *ARCHIVE_SUFFIXES) if lower.endswith(suffix)]
    return max(compound, key=len, default=os.path.splitext(lower)[1])  # noqa: PTH122


def unused(listing: Listing, used: Iterable[str]) -> list[str]:
    """What is below the root and not in `used`, one item for each: folders with their number of images first.

    A folder with nothing used below it is one item, whatever is in it.
    """
    used = set(used)
    used_folders = {""}
    for path in used:
        while "/" in path:
            path = path.rpartition("/")[0]
            if path in used_folders:
                break
            used_folders.add(path)
    whole: Counter[str] = Counter()  # images in folders of which nothing is used
    others: dict[str, int] = Counter()
    partly: Counter[str] = Counter()  # unused images in folders of which something is used
    single: list[str] = []
    for path in listing.files:
        if path in used:
            continue
        parts = path.split("/")[:-1]
        above = ""
        for part in parts:
            above = f"{above}/{part}" if above else part
            if above not in used_folders:
                break
        if above not in used_folders:
            whole[above] += is_image(path)
            others[above] += 1
        elif is_image(path):
            partly[above] += 1
        else:
            single.append(path)
    folders = [(-count, name, f"{name}/ ({_images(count, others[name])})") for name, count in whole.items()]
    folders += [
        (-count, name, f"{count:,} images in {name + '/' if name else 'the root itself'}")
        for name, count in partly.items()
    ]
    items = [text for _, _, text in sorted(folders)]
    return items + [f"{path} (a table)" if suffix_of(path) in TABLE_SUFFIXES else path for path in single]


def _images(count: int, files: int) -> str:
    return f"{count:,} images" if count else f"no image, {files:,} files"


def contents(folder: Path) -> str:
    """What is in a folder, for a message: its folders with their images, tables and archives."""
    listing = scan(folder)
    counts: Counter[str] = Counter()
    plain = []
    for path in listing.files:
        top, _, rest = path.partition("/")
        if rest:
            counts[top] += is_image(path)
        else:
            plain.append(path)
    names = [f"{name}/ ({count:,} images)" for name, count in sorted(counts.items())]
    names += [f"{name}/" for name in sorted(_folders(folder)) if name not in counts]
    images = sum(is_image(name) for name in plain)
    names += [f"{images:,} images"] if images else []
    names += [name for name in plain if not is_image(name)]
    archives = [name for name in plain if suffix_of(name) in ARCHIVE_SUFFIXES]
    found = f"It has {listed(names)}." if names else "It is empty."
    return found + (f" {archives[0]} is an archive: unpack it first." if archives else "")


def _folders(folder: Path) -> list[str]:
    return [entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_clutter(entry.name)]


def nearest(listing: Listing, path: str) -> tuple[str, str] | None:
    """The existing image whose name is nearest to the missing `path`, and what is different; None if none is.

    A doubled prefix, another case, a missing or another suffix, or another folder.
    """
    parts = path.split("/")
    for start in range(1, len(parts)):
        if (tail := "/".join(parts[start:])) in listing.known:
            prefix = "/".join(parts[:start])
            return tail, (
                f"without {prefix}/: set data.path_prefix={prefix}/ to remove it from the table's paths"
            )
    lower = path.lower()
    stem = lower.rpartition(".")[0] if is_image(path) else lower
    for other in listing.files:
        if other.lower() == lower:
            return other, "in another case: write the table's paths as the files are written"
    for other in listing.files:
        if is_image(other) and other.lower().rpartition(".")[0] == stem:
            suffix = suffix_of(other)
            if is_image(path):
                return other, f"with another suffix: write {suffix} into the table"
            return other, f"with a suffix: add {suffix} to the table's paths"
    name = parts[-1]
    places = listing.names.get(name) or listing.stems.get(name) or []
    if places:
        return places[0], "in another folder: set data.root to the folder that the table's paths begin in"
    return None
