"""What a run was computed with: code, libraries, machine and command, recorded at every start.

Two things can change a run's numbers without a trace in its configuration: the code, and what the machine
resolves `auto` to. So a saved state holds the record of the start that wrote it, and a resume compares.
"""

import ast
import hashlib
import os
import platform
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import pneumo
from pneumo.versions import CORE

PACKAGE = Path(__file__).resolve().parent
# The modules whose code decides a run's numbers; commands, tracking and pages may change between two starts.
DECIDING = ("data", "models", "training", "evaluation/metrics.py", "patient_ids.py", "versions.py")


@dataclass(kw_only=True)
class StartRecord:
    """One start of a run. `dirty` names deciding files that differ from `commit`."""

    version: str
    core: int
    pixels: int
    code: str  # hash of the deciding code, as this process loaded it
    commit: str | None
    dirty: list[str]
    torch: str
    python: str
    host: str
    processor: str
    precision: str  # resolved: float32, bf16 or fp16
    world_size: int
    command: str  # as typed, without credentials
    time: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%S%z"))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "StartRecord":
        """The record that `as_dict` gave, also of a release that kept other fields."""
        known = {one.name for one in fields(cls)}
        defaults = {"dirty": [], "world_size": 1, "core": 1, "pixels": 1, "commit": None}
        text = {one.name: "" for one in fields(cls) if one.type is str}
        return cls(**{**text, **defaults, **{key: value for key, value in values.items() if key in known}})


@dataclass(kw_only=True)
class Change:
    """One thing that differs between a saved state and this start; `stops` where it can change numbers."""

    what: str
    before: str
    now: str
    stops: bool

    def __str__(self) -> str:
        return f"{self.what}: {self.before} in the saved state, {self.now} now"


def changes(before: StartRecord, now: StartRecord) -> list[Change]:
    """What differs between the start that wrote a state and this one; those that stop a resume come first."""
    found = []
    if before.code != now.code:
        # Another release with the same core and pixel versions promises the same numbers.
        edited = before.version == now.version
        what = "the code that decides the numbers" if edited else "the release"
        values = (before.code, now.code) if edited else (before.version, now.version)
        found.append(Change(what=what, before=values[0], now=values[1], stops=edited))
    for name, what in (("precision", "the precision"), ("world_size", "the number of processes")):
        values = str(getattr(before, name)), str(getattr(now, name))
        if values[0] != values[1]:
            found.append(Change(what=what, before=values[0], now=values[1], stops=True))
    for name in ("host", "processor", "torch"):
        values = getattr(before, name), getattr(now, name)
        if values[0] != values[1]:
            found.append(Change(what=f"the {name}", before=values[0], now=values[1], stops=False))
    return sorted(found, key=lambda change: not change.stops)


def start_record(
    *, pixels: int, precision: str, world_size: int, device: str, torch: str, command: str | None = None
) -> StartRecord:
    """The record of this start. `device` is the resolved device's name, `torch` its version."""
    commit, dirty = first_checkout(PACKAGE.parent, tuple(f"{PACKAGE.name}/{part}" for part in DECIDING))
    return StartRecord(
        version=pneumo.__version__,
        core=CORE,
        pixels=pixels,
        code=CODE,
        commit=commit,
        dirty=dirty,
        torch=torch,
        python=platform.python_version(),
        host=socket.gethostname(),
        processor=device if device != "cpu" else processor(),
        precision=precision,
        world_size=world_size,
        command=shlex.join(sys.argv) if command is None else command,
    )


def processor() -> str:
    """The processor's name, as Linux gives it; what Python knows of it elsewhere."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def checkout(
    folder: Path, below: Sequence[str] = (), *, untracked: bool = True
) -> tuple[str | None, list[str]]:
    """The commit of the checkout in `folder`, and the files that differ from it.

    With `below`, only files in or below these paths count. Without `untracked`, new files do not count.
    (None, []) where `folder` is not the top of a git checkout.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10, env=environment
        )
        return done.stdout.rstrip("\n")

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder.resolve():
            return None, []  # the package is installed somewhere inside another project
        files = "normal" if untracked else "no"
        rows = git("status", "--porcelain", f"--untracked-files={files}", "--", *below).splitlines()
        return git("rev-parse", "HEAD"), sorted(row[3:] for row in rows)
    except (OSError, subprocess.SubprocessError):
        return None, []


@cache
def first_checkout(
    folder: Path, below: tuple[str, ...] = (), untracked: bool = True
) -> tuple[str | None, list[str]]:
    """What `checkout` gave when this process first asked.

    A `git pull` during a sweep changes the files, but not the code that this process loaded.
    """
    return checkout(folder, below, untracked=untracked)


def code_hash(files: Iterable[tuple[str, str]]) -> str:
    """A hash of the syntax trees of (name, source) pairs: comments, layout and docstrings do not count."""
    digest = hashlib.sha256()
    for name, source in sorted(files):
        digest.update(f"{name}\n{_canonical(ast.parse(source))}\n".encode())
    return digest.hexdigest()[:16]


def deciding_sources(package: Path = PACKAGE) -> list[tuple[str, str]]:
    """(name, source) of the deciding modules below `package`."""
    found = []
    for part in DECIDING:
        path = package / part
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        found += [(file.relative_to(package).as_posix(), file.read_text()) for file in files]
    return found


def _canonical(node: object) -> object:
    """A syntax tree as nested tuples that are equal under every Python version: empty fields are left out."""
    if isinstance(node, list):
        return tuple(_canonical(item) for item in node)
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    else:
        body = None
    parts = []
    for name, value in ast.iter_fields(node):
        value = body if name == "body" and body is not None else value
        if value not in (None, []):
            parts.append((name, _canonical(value)))
    return type(node).__name__, tuple(parts)


# Taken once, when the process loads the code: files that change later are not what this process runs.
CODE = code_hash(deciding_sources())
