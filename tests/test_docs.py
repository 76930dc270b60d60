"""The documentation is complete: every key has its line, every link and every name leads somewhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pneumo.commands import COMMANDS
from pneumo.config_files import groups, key_lines
from pneumo.models import MODELS

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import check_docs  # noqa: E402
import reference  # noqa: E402

GROUPS = {
    path.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").rglob("*") if path.is_dir()
} | {"sweep"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what the documentation is made from."""
    for name in ("conf", "sweeps", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.png"))
    for name in (*check_docs.BESIDE, "Makefile", "mkdocs.yml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


# ---- the reference of keys


def test_the_reference_is_up_to_date() -> None:
    assert (ROOT / reference.PAGE).read_text() == reference.page(ROOT / "conf", ROOT / "sweeps"), (
        "run `make reference`"
    )


def test_every_key_that_composes_has_a_line_in_the_reference() -> None:
    """Independent of how the page is written: every leaf of every yaml file, read by OmegaConf."""
    from omegaconf import OmegaConf

    page = (ROOT / reference.PAGE).read_text()
    lines = set(re.findall(r"^\| `([\w.]+)` \|", page, re.M))
    missing = []
    for file in sorted((ROOT / "conf").rglob("*.yaml")):
        group = file.parent.relative_to(ROOT / "conf").as_posix().replace("/", ".")
        if group == "experiment":
            continue
        node = OmegaConf.to_container(OmegaConf.load(file), resolve=False) or {}
        for key in leaves(
            {key: value for key, value in node.items() if key not in ("defaults", "hydra", "_target_")}
        ):
            full = key if group == "." else f"{group}.{key}"
            if full not in lines and not (key == "name" and not group.startswith("hydra")):
                missing.append(f"{file.name}: {full}")
    assert not missing


def leaves(node: dict, above: str = "") -> list[str]:
    found = []
    for key, value in node.items():
        nested = isinstance(value, dict) and value and above + key != "labels"  # a mapping that is a value
        found += leaves(value, f"{above}{key}.") if nested else [above + key]
    return found


def test_a_key_without_a_comment_is_named_with_its_file(checkout: Path) -> None:
    file = checkout / "conf/optim/adamw.yaml"
    file.write_text(file.read_text().rstrip("\n") + "\namsgrad: false\n")
    with pytest.raises(reference.UndocumentedKey, match=r"conf/optim/adamw\.yaml: amsgrad has no comment"):
        reference.page(checkout / "conf", checkout / "sweeps")


def test_a_new_key_with_a_comment_makes_the_page_out_of_date(checkout: Path) -> None:
    file = checkout / "conf/optim/adamw.yaml"
    file.write_text(file.read_text().rstrip("\n") + "\namsgrad: false  # the AMSGrad variant\n")
    page = reference.page(checkout / "conf", checkout / "sweeps")
    assert "| `optim.amsgrad` | `false` | - | the AMSGrad variant |" in page
    assert page != (checkout / reference.PAGE).read_text()


def test_two_comments_of_one_key_are_refused(checkout: Path) -> None:
    file = checkout / "conf/optim/adamw.yaml"
    comment = next(line.comment for line in reference.read(file, checkout).keys if line.key == "lr")
    edit(file, comment, "how fast it learns")
    with pytest.raises(reference.UndocumentedKey, match="the comment of lr differs"):
        reference.page(checkout / "conf", checkout / "sweeps")


def test_values_and_comments_are_read_as_written(tmp_path: Path) -> None:
    file = tmp_path / "conf/some.yaml"
    file.parent.mkdir()
    file.write_text(
        "# What it is. More.\n"
        "plain: 1e-3  # a number; see #3\n"
        "quoted: 'a # b'  # a text\n"
        "nested:\n"
        "  empty: {}  # nothing yet\n"
        "  listed: [1, 2]  # two\n"
        "address: ${oc.env:NAME,'sqlite:///${pneumo.project:x.db}'}  # where\n"
    )
    option = reference.read(file, tmp_path)
    assert option.purpose == "What it is. More."
    assert [(line.key, line.value, line.comment) for line in option.keys] == [
        ("plain", "1e-3", "a number; see #3"),
        ("quoted", "'a # b'", "a text"),
        ("nested.empty", "{}", "nothing yet"),
        ("nested.listed", "[1, 2]", "two"),
        ("address", "${oc.env:NAME,'sqlite:///${pneumo.project:x.db}'}", "where"),
    ]


# ---- links and names


def test_every_link_and_every_name_in_the_documentation_leads_somewhere() -> None:
    assert check_docs.problems() == []


@pytest.mark.parametrize(
    ("added", "problem"),
    [
        ("[x](nowhere.md)", "README.md: nowhere.md does not exist"),
        ("![x](images/none.png)", "README.md: images/none.png does not exist"),
        ("[x](performance.md#no-such-heading)", "performance.md has no heading of that name"),
        ("[x](../README.md)", "leads out of the site"),
        ("`pneumo/no_such_module.py`", "pneumo/no_such_module.py does not exist"),
        ("`trainer.epoch=3`", "the key trainer.epoch is not in conf/"),
        ("`optim.learning_rate`", "the key optim.learning_rate is not in conf/"),
        ("<<<<<<< HEAD", "<<<<<<< HEAD is left of a merge"),
        ("`make everything`", "`make everything` is not in the Makefile"),
    ],
)
def test_a_name_that_leads_nowhere_is_found(checkout: Path, added: str, problem: str) -> None:
    before = check_docs.problems(checkout)  # the copy has no code and no pictures
    page = checkout / "docs/README.md"
    page.write_text(page.read_text() + f"\n{added}\n")
    (new,) = set(check_docs.problems(checkout)) - set(before)
    assert problem in new


def test_a_page_outside_the_navigation_is_found(checkout: Path) -> None:
    (checkout / "docs/lost.md").write_text("# Lost\n")
    assert "mkdocs.yml: lost.md is not in the navigation" in check_docs.problems(checkout)


def test_documents_that_the_code_names_exist() -> None:
    """A comment or message that sends the reader to a page must name one that is there."""
    named = {}
    for file in [
        *(ROOT / "pneumo").rglob("*.py"),
        *(ROOT / "conf").rglob("*.yaml"),
        *(ROOT / "sweeps").glob("*"),
    ]:
        for name in re.findall(r"\bdocs/[\w./-]+\w", file.read_text()):
            named[name] = file.name
    assert named
    assert {name: where for name, where in named.items() if not (ROOT / name).exists()} == {}


def test_the_readme_is_short_and_shows_the_page() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    assert "docs/images/comparison_page.png" in text
    assert "make demo" in text and "make test" in text


# ---- commands


def command_lines() -> list[tuple[str, list[str]]]:
    """Every `pneumo ...` line in a code block of the documentation: the page and its words."""
    found = []
    for page in check_docs.pages(ROOT):
        text = page.read_text()
        blocks = [
            *re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S),
            *re.findall(r"(?:^    .*\n?)+", text, re.M),
        ]
        for block in blocks:
            for line in block.replace("\\\n", " ").splitlines():
                line = re.sub(r"\s+#.*", "", line.strip().removeprefix("$ "))
                if line.startswith("pneumo "):
                    found.append((page.relative_to(ROOT).as_posix(), line.split()[1:]))
    return found


def test_every_documented_command_exists_and_takes_the_keys_that_are_shown() -> None:
    in_groups = {
        f"{group}.{line.key}".replace("/", ".")
        for group, options in reference.groups(ROOT / "conf").items()
        for option in options
        for line in option.keys
        if group
    }
    wrong = []
    for page, (name, *words) in command_lines():
        command = COMMANDS.get(name)
        if name in ("completion", "--help", "--version"):
            continue
        if command is not None and command.actions:
            word = words.pop(0)
            if words and f"{word} {words[0]}" in command.actions:
                word = f"{word} {words.pop(0)}"
            command = command.actions.get(word)
        if command is None:
            wrong.append(f"{page}: pneumo {name} is not a command")
            continue
        own = {line.key for line in key_lines(ROOT / f"conf/{command.config_name}.yaml")}
        own |= in_groups | GROUPS if groups(command.config_name) else set(command.renamed)
        own |= {"key", "group"}  # as in key=value
        for word in words:
            key, equals, _ = word.strip("[]'\"").lstrip("~+").partition("=")
            if equals and re.fullmatch(r"[a-z_./]+", key) and key not in own:
                wrong.append(f"{page}: pneumo {name} has no key {key}")
    assert len(command_lines()) > 60
    assert wrong == []


def test_every_command_is_in_the_reference() -> None:
    text = (ROOT / "docs/reference/commands.md").read_text()
    names = [f"{name} {action}" for name, command in COMMANDS.items() for action in command.actions or [""]]
    assert [name for name in names if f"    pneumo {name}".rstrip() not in text] == []


# ---- how-tos


def test_the_how_to_for_an_architecture_works(checkout: Path) -> None:
    import torch

    text = (ROOT / "docs/how-to/own-architecture.md").read_text()
    network, registry, option = re.findall(r"```(?:python|yaml)\n(.*?)```", text, re.S)
    module: dict = {}
    exec(network, module)
    model = module["build"]("tiny", num_classes=2, in_channels=1, dropout=0.1)
    assert model(torch.zeros(3, 1, 32, 32)).shape == (3, 2)
    assert '"tiny": "pneumo.models.tiny"' in registry
    assert registry.count("pneumo.models.") == len(MODELS) + 1
    (checkout / "conf/model/tiny.yaml").write_text(option)
    assert "| `model=tiny` | A small network" in reference.page(checkout / "conf", checkout / "sweeps")


# ---- the site


def test_the_site_builds_strictly_and_fetches_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="mkdocs-material is not installed: pip install 'pneumo[docs]'")
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=120, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loaded = re.findall(
            r"<(?:script|img|link|iframe)[^>]+(?:src|href)=\"(https?:[^\"]+)\"", page.read_text()
        )
        assert loaded == [], page
