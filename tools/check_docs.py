"""Check the documentation: links, images, anchors, navigation, and the names of files, keys and targets.

    python tools/check_docs.py    print the problems; exit code 1 if there are any

The strict build of the site also checks links and anchors. It does not check images or README.md, or whether
the files, keys and make targets in a page exist.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import reference
import yaml

ROOT = Path(__file__).resolve().parents[1]
BESIDE = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")  # pages outside the site
FOLDERS = "pneumo|tools|tests|benchmarks|conf|sweeps|docs|hydra_plugins"
MADE_BY = ("benchmarks/results/",)  # files that commands write
IN_HOW_TO = ("pneumo/models/tiny.py", "conf/model/tiny.yaml")  # files that the reader of a how-to writes

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_FILE = re.compile(rf"(?:{FOLDERS})/[\w./*-]*")
_MERGE = re.compile(r"^(?:<{7}|>{7}).*$", re.M)
_FENCE = re.compile(r"^```.*?^```", re.M | re.S)


def pages(root: Path) -> list[Path]:
    """Every Markdown page that is checked."""
    return sorted((root / "docs").rglob("*.md")) + [root / name for name in BESIDE if (root / name).is_file()]


def slugs(text: str) -> set[str]:
    """The anchors of a page's headings, as the site and repository hosts build them."""
    headings = re.findall(r"^#+\s+(.*)$", _FENCE.sub("", text), re.M)
    plain = (re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings)
    return {re.sub(r"\s", "-", heading) for heading in plain}


def problems(root: Path = ROOT) -> list[str]:
    """The problems, one per line."""
    messages = []
    keys = known_keys(root / "conf")
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text(), re.M))
    for page in pages(root):
        name, text = page.relative_to(root).as_posix(), page.read_text()
        messages += [f"{name}: {problem}" for problem in _links(page, text, root)]
        messages += [f"{name}: {mark} is left of a merge" for mark in _MERGE.findall(text)]
        messages += [f"{name}: {file} does not exist" for file in _files(text) if not _exists(root, file)]
        messages += [f"{name}: the key {key} is not in conf/" for key in _keys(text) if key not in keys]
        made = re.findall(r"(?:^|`|    )make ([a-z][a-z-]*)", text, re.M)
        messages += [
            f"{name}: `make {target}` is not in the Makefile" for target in made if target not in targets
        ]
    return [*messages, *_navigation(root)]


def _links(page: Path, text: str, root: Path) -> Iterator[str]:
    in_site = page.is_relative_to(root / "docs")
    for target in _LINK.findall(_CODE.sub("", _FENCE.sub("", text))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.is_file():
            yield f"{target} does not exist"
        elif in_site and not file.is_relative_to((root / "docs").resolve()):
            yield f"{target} leads out of the site: name the file in backticks instead"
        elif anchor and anchor not in slugs(file.read_text()):
            yield f"{target}: {path or 'this page'} has no heading of that name"


def _files(text: str) -> list[str]:
    """Paths of this repository in backticks or code blocks."""
    code = [*_CODE.findall(_FENCE.sub("", text)), *_FENCE.findall(text), *re.findall(r"^    .*$", text, re.M)]
    named = [match for part in code for match in re.findall(rf"(?<![\w./<-]){_FILE.pattern}", part)]
    return sorted(
        {file.rstrip(".") for file in named if not file.startswith(MADE_BY) and file not in IN_HOW_TO}
    )


def _exists(root: Path, file: str) -> bool:
    return any(root.glob(file)) if "*" in file else (root / file).exists()


def known_keys(conf: Path) -> set[str]:
    """Every dotted key of conf/, and the groups that hold them."""
    keys = set()
    for group, options in reference.groups(conf).items():
        prefix = f"{group.replace('/', '.')}." if group else ""
        for name in [line.key for option in options for line in option.keys]:
            parts = f"{prefix}{name}".split(".")
            keys |= {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
    return keys


def _keys(text: str) -> set[str]:
    """Dotted keys that a page sets (`optim.lr=3e-4`) or names in backticks."""
    groups = "model|sampler|augment|optim|schedule|trainer|data|tracking|hydra.launcher|hydra.sweeper"
    key = rf"(?:{groups})(?:\.[a-z_]+)+"
    named = set(re.findall(rf"(?<![\w./~]){key}(?==)", text))
    named |= {code for code in _CODE.findall(_FENCE.sub("", text)) if re.fullmatch(key, code)}
    return {name for name in named if not re.search(r"\.(json|onnx|safetensors|params\.)", name)}


def _navigation(root: Path) -> Iterator[str]:
    """Pages missing from the site's navigation, and entries of the navigation without a page."""
    config = yaml.safe_load((root / "mkdocs.yml").read_text())
    listed: list[str] = []

    def collect(entry: object) -> None:
        if isinstance(entry, str):
            listed.append(entry)
        elif isinstance(entry, dict):
            for value in entry.values():
                collect(value)
        elif isinstance(entry, list):
            for value in entry:
                collect(value)

    collect(config["nav"])
    present = {page.relative_to(root / "docs").as_posix() for page in (root / "docs").rglob("*.md")}
    yield from (f"mkdocs.yml: {page} is not in the navigation" for page in sorted(present - set(listed)))
    yield from (f"mkdocs.yml: {page} does not exist" for page in sorted(set(listed) - present))


def main() -> int:
    messages = problems()
    for message in messages:
        print(message, file=sys.stderr)
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main())
