"""The files for a paper beside the comparison page: reporting items, data statement and model card.

Everything in them comes from the comparison and from what the runs recorded. What only people know is marked
as open for the author.
"""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pneumo.comparison import choice_card, sections
from pneumo.comparison.blocks import Section
from pneumo.comparison.candidates import Candidate
from pneumo.comparison.content import Comparison, SplitSize, class_names, several_findings
from pneumo.comparison.reporting_items import CLAIM, STARD, TRIPOD, Evidence, Item, Pointer, items
from pneumo.comparison.words import images_by_class, plural, setting
from pneumo.evaluation.predictions import SplitResult
from pneumo.files import write_atomically
from pneumo.names import BAD_IMAGES, DATA_STATEMENT, DOSSIER, FIGURES, MODEL_CARD, REPORTING, SBOM

FEW_VALUES = 10  # of a subgroup column: so many are counted one by one
GUIDELINES = {
    CLAIM: "CLAIM 2024 (Radiology: AI 2024, doi 10.1148/ryai.240300)",
    TRIPOD: "TRIPOD+AI (BMJ 2024, doi 10.1136/bmj-2023-078378)",
    STARD: "STARD-AI (Nature Medicine 2025, doi 10.1038/s41591-025-03953-8)",
}
OPEN = "**Open for the author**"
SPLITS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(kw_only=True)
class Records:
    """What the compared runs keep beside the comparison's numbers."""

    runs: int = 0
    artifacts: Mapping[str, int] = field(default_factory=dict)  # how many runs have each
    bad_images: Sequence[str] = ()  # the different contents of their lists of left-out files
    subgroups: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)  # by split and column


def subgroups_of(runs: Sequence[Candidate]) -> dict[str, Mapping[str, Sequence[str]]]:
    """The columns of subgroups in the predictions of the first run that has some, by split."""
    for run in runs:
        splits: dict[str, SplitResult] = {"val": run.val} | ({"test": run.test} if run.scored else {})
        if any(split.subgroups for split in splits.values()):
            return {name: split.subgroups for name, split in splits.items()}
    return {}


def write(
    folder: Path, comparison: Comparison, figures: Sequence[str], records: Records, sbom: str
) -> list[str]:
    """Write the dossier below the page's `folder`; its files, relative to it.

    `figures` are the page's files in figures/. `sbom` is the bill of materials.
    """
    contents = {
        DATA_STATEMENT: data_statement(comparison, records),
        MODEL_CARD: choice_card.text(comparison),
        SBOM: sbom,
    }
    listed = items(
        comparison,
        Evidence(
            sections=[section.title for section in sections.page(comparison, {}).sections],
            figures=[Path(name).stem for name in figures],
            artifacts=records.artifacts,
            files=list(contents),
            subgroups=bool(records.subgroups),
        ),
    )
    contents[f"{REPORTING}.md"] = reporting(comparison, listed, records.runs, records.artifacts)
    contents[f"{REPORTING}.csv"] = reporting_csv(listed)
    for name, content in contents.items():
        write_atomically(folder / DOSSIER / name, content.encode("utf-8", "backslashreplace"))
    return [f"{DOSSIER}/{name}" for name in contents]


def by_number(listed: Sequence[Item], guideline: str) -> list[tuple[str, Item]]:
    """The items of one guideline with their numbers, in its order."""
    found = [
        (number.strip(), item)
        for item in listed
        if guideline in item.numbers
        for number in item.numbers[guideline].split(",")
    ]
    return sorted(found, key=lambda one: (int(one[0].rstrip("abcdefg")), one[0]))


def reporting(comparison: Comparison, listed: Sequence[Item], runs: int, artifacts: Mapping[str, int]) -> str:
    """The items of the guidelines as Markdown, a table of each."""
    parts = [
        "# Reporting items\n",
        f"{_origin(comparison)} Items have the numbers of the guidelines and words of our own. A pointer "
        "leads to a section of the page, a figure, a file of this folder, an artifact of the runs, a key of "
        "their configuration or a commit. It shows where to look. Whether that is enough, the author "
        "decides. The guidelines themselves are binding.\n",
    ]
    for guideline, title in GUIDELINES.items():
        rows = by_number(listed, guideline)
        states = Counter(item.state for _, item in rows)
        counted = f"{states['answered']} answered, {states['in part']} in part, {states['open']} open"
        parts.append(f"## {title}\n\n{plural(len(rows), 'row')}: {counted}.\n")
        lines = ["| item | subject | state | where | for the author |", "|---|---|---|---|---|"]
        for number, item in rows:
            where = "; ".join(_link(one, comparison, runs, artifacts) for one in item.pointers)
            where += f" ({_cell(item.note)})" if item.note else ""
            cells = [number, _cell(item.subject), item.state, where, _cell(item.author)]
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def reporting_csv(listed: Sequence[Item]) -> str:
    """The same as a table: a row for each item of each guideline. Pointers are `kind:name`."""
    page = io.StringIO()
    writer = csv.writer(page, lineterminator="\n")
    writer.writerow(["guideline", "item", "subject", "state", "pointers", "note", "author"])
    for guideline in GUIDELINES:
        for number, item in by_number(listed, guideline):
            pointers = "; ".join(f"{one.kind}:{one.name}" for one in item.pointers)
            writer.writerow([guideline, number, item.subject, item.state, pointers, item.note, item.author])
    return page.getvalue()


def _link(pointer: Pointer, comparison: Comparison, runs: int, artifacts: Mapping[str, int]) -> str:
    kind, name = pointer
    if kind == "section":
        return f"[{name}](../index.html#{Section(title=name).anchor})"
    if kind == "figure":
        return f"[figure {name}](../{FIGURES}/{name}.png)"
    if kind == "file":
        return f"[{name}]({name})"
    if kind == "artifact":
        return f"artifact `{_cell(name)}` of {artifacts[name]} of {plural(runs, 'run')}"
    if kind == "key":
        shared = comparison["differences"]["shared"]
        return f"`{name}={_cell(setting(shared[name]))}`" if name in shared else f"`{name}` (differs)"
    return f"commit `{name}`"


def data_statement(comparison: Comparison, records: Records) -> str:
    """What the runs record of their data, as Markdown."""
    about, names = comparison["about"], class_names(comparison)
    kind = "Findings" if several_findings(comparison) else "Classes"
    lines = [
        "# Data statement\n",
        f"{_origin(comparison)}\n",
        "## Data set\n",
        f"- Name: {about['data'] or 'not recorded'}"
        + (" (synthetic images, drawn by the program: no patients)" if about["synthetic"] else ""),
        f"- Digest of file names, labels and split: `{about['digest'] or 'not recorded'}`",
        f"- {kind}: {', '.join(map(_cell, names))}",
        f"- Source, version, licence, who collected the images and why: {OPEN}",
        f"- Where, when and with which devices the images were taken: {OPEN}",
        f"- Consent, ethics approval, de-identification: {OPEN}\n",
        "## Labels\n",
        f"- Where the labels came from, who gave them, how well annotators agree: {OPEN}\n",
        "## Splits\n",
        _splits(comparison["splits"]),
        *_split_settings(comparison),
        f"\nPatients of the compared images: {_patients(comparison)}.\n",
        "## Exclusions\n",
        *_exclusions(comparison, records),
        f"- Images and patients that were excluded before: {OPEN}\n",
        "## Subgroups\n",
        *_subgroups(records),
        f"- Whom the patients represent, and whom they do not: {OPEN}",
    ]
    return "\n".join(lines) + "\n"


def _origin(comparison: Comparison) -> str:
    about = comparison["about"]
    return f"Made by pneumo {about['version']} on {about['made']} with `{about['command']}`."


def _splits(splits: Mapping[str, SplitSize] | None) -> str:
    if not splits:
        return "The sizes of the splits are not recorded."
    rows = [
        f"| {SPLITS.get(name, name)} | {size['images']:,} | {_count(size['patients'])} "
        f"| {_cell(images_by_class(size))} |"
        for name, size in splits.items()
    ]
    return "\n".join(["| split | images | patients | images by class |", "|---|---|---|---|", *rows])


def _split_settings(comparison: Comparison) -> list[str]:
    differences = comparison["differences"]
    found = [
        f"- `{key}={_cell(setting(differences['shared'][key]))}`"
        if key in differences["shared"]
        else f"- `{key}` differs between the configurations"
        for key in ("data.val_protocol", "data.val_fraction", "data.split_seed", "data.folds")
        if key in differences["shared"] or key in differences["keys"]
    ]
    return ["", *found] if found else []


def _patients(comparison: Comparison) -> str:
    test = comparison["test"]
    if test["images_without_patient"]:
        return f"not known for {test['images_without_patient']:,} of {test['images']:,} images"
    return f"{test['clusters']:,}, with {test['images']:,} images"


def _exclusions(comparison: Comparison, records: Records) -> list[str]:
    found = []
    if records.bad_images:
        for content in records.bad_images:
            count = sum(bool(line.strip()) for line in content.splitlines())
            found.append(
                f"- {plural(count, 'unreadable file')} left out, listed in the artifact `{BAD_IMAGES}` of "
                f"{records.artifacts.get(BAD_IMAGES, 0)} of {plural(records.runs, 'run')}"
            )
    elif records.runs:
        found.append("- No run lists an unreadable file that it left out")
    else:
        found.append(f"- Unreadable files: {OPEN}")
    if "findings" in comparison:
        for name, count in comparison["findings"]["left_out"].items():
            found.append(f"- {_cell(name)} is not compared: {plural(count, 'patient')} of its rarer value")
    if comparison["left_out"]:
        found.append(f"- {plural(len(comparison['left_out']), 'run')} not compared: see Warnings on the page")
    return found


def _subgroups(records: Records) -> list[str]:
    if not records.subgroups:
        return [f"- The predictions have no columns of sex, age or other subgroups: {OPEN}"]
    return [
        f"- {SPLITS[split]}, {_cell(column)}: {_values(values)}"
        for split, columns in records.subgroups.items()
        for column, values in columns.items()
    ]


def _values(values: Sequence[str]) -> str:
    """Counts of few values; of many, how many there are, with the range of numbers."""
    known = [value.strip() for value in values if value.strip()]
    missing = (
        f"; not known for {plural(len(values) - len(known), 'image')}" if len(known) < len(values) else ""
    )
    counted = Counter(known)
    if len(counted) <= FEW_VALUES:
        listed = ", ".join(f"{_cell(value)} {count:,}" for value, count in sorted(counted.items()))
        return (listed or "no value") + missing
    try:
        numbers = sorted(float(value) for value in known)
    except ValueError:
        return f"{len(counted):,} different values{missing}"
    middle = numbers[len(numbers) // 2]
    return f"{numbers[0]:g} to {numbers[-1]:g}, median {middle:g}{missing}"


def _count(value: int | None) -> str:
    return "not known" if value is None else f"{value:,}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
