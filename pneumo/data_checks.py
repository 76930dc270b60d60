"""Checks of a data set that compare its images or learn from them: near-copies, suspect labels, shortcuts."""

import csv
import io
import shutil
from dataclasses import replace
from pathlib import Path

from pneumo import UserError
from pneumo.data import cache, copies, manifest, shortcuts, suspect_labels
from pneumo.data.settings import DataSettings
from pneumo.evaluation import statistics
from pneumo.evaluation.metrics import all_scores
from pneumo.files import write_atomically
from pneumo.text import table


def near_copies(data: cache.ImageCache, settings: DataSettings) -> list[str]:
    """Print the near-copies across splits or labels; the problems that they are."""
    if settings.name == "phantom":
        return []
    if settings.image_size < copies.LEAST_SIDE:
        print(f"near-copies: not looked for below data.image_size={copies.LEAST_SIDE}")
        return []
    if (count := len(data.rows)) > copies.MOST_IMAGES:
        print(
            f"near-copies: not looked for among {count} images, which takes long; `pneumo data copies` does"
        )
        return []
    pairs = copies.near_copies(data, Path(settings.cache_dir or ".cache").expanduser())
    certain = [pair for pair in pairs if pair.is_certain]
    doubtful = [pair for pair in pairs if not pair.is_certain]
    print(f"near-copies across splits or labels: {len(certain)} certain, {len(doubtful)} uncertain")
    for line in copies.described(doubtful):
        print(f"  uncertain: {line}")
    if not certain:
        return []
    if settings.near_copies == "allow":
        for line in copies.described(certain):
            print(f"  certain: {line}")
        return []
    return [
        f"{len(certain)} pairs of images show the same picture in two splits or under two labels: "
        f"{'; '.join(copies.described(certain))}. Remove one of each pair, or put both into one split under "
        "one label. `pneumo data copies` lists all; data.near_copies=allow accepts them."
    ]


def find_copies(settings: DataSettings, output: str) -> None:
    """Write the pairs of near-copies to the CSV file `output`."""
    if settings.image_size < copies.LEAST_SIDE:
        raise UserError(
            f"data.image_size={settings.image_size} is too small; give {copies.LEAST_SIDE} or more."
        )
    described = manifest.describe(settings)
    data = cache.inspect(described, replace(settings, on_bad_image="skip"))
    pairs = copies.near_copies(data, Path(settings.cache_dir or ".cache").expanduser())
    rows: list[list[object]] = [["first", "second", "split", "other_split", "label", "other_label",
                                 "correlation", "certain"]]  # fmt: skip
    rows += [
        [
            *(
                pair.first,
                pair.second,
                *pair.splits,
                *(described.class_names[label] for label in pair.labels),
            ),
            *(f"{pair.correlation:.4f}", str(pair.is_certain).lower()),
        ]
        for pair in pairs
    ]
    _write_csv(output, rows)
    certain = sum(pair.is_certain for pair in pairs)
    print(f"{certain} certain and {len(pairs) - certain} uncertain near-copies across splits or labels")
    print(f"written to {output}")


def rank_labels(settings: DataSettings, output: str) -> None:
    """Write all images to the CSV file `output`, ranked by how suspect their label is."""
    described = manifest.describe(settings)
    data = cache.inspect(described, replace(settings, on_bad_image="skip"))
    ranked = suspect_labels.rank(data, described.class_names)
    rows = [list(ranked.table.columns), *ranked.table.astype(object).to_numpy().tolist()]
    _write_csv(output, [[_plain(value) for value in row] for row in rows])
    print(f"{ranked.count} of {len(ranked.table)} labels are suspect; the first ones:")
    shown = ranked.table.head(10)[["path", "label", "suggested", "p_label"]]
    first = [{str(key): value for key, value in row.items()} for row in shown.to_dict("records")]
    print(table(first, shutil.get_terminal_size().columns))
    print(f"written to {output}. Look at the images before you change a label: a small model ranked them.")


def _plain(value: object) -> object:
    """A cell of a CSV file: true or false, and nothing for an unknown patient."""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None or value != value else value


def probe_shortcuts(settings: DataSettings) -> None:
    """Print how well the label can be predicted from how the files were made."""
    if settings.name == "phantom":
        raise UserError("data=phantom has no files; give a data set of images, such as data=chest_xray.")
    found = shortcuts.find(manifest.describe(settings), settings.pixel_rule, settings.num_workers)
    weights = statistics.resample(found.labels, found.patients)
    counts = statistics.PatientCounts.of(found.labels, found.patients)
    rows: list[dict[str, object]] = []
    for probe in found.probes:
        draws = statistics.resampled_scores(found.labels, probe.chances, weights, parts=("areas",))["auroc"]
        auroc = all_scores(found.labels, probe.chances)["auroc"]
        low, high = statistics.interval("auroc", auroc, draws, counts)
        rows.append({"from": probe.name, "auroc": auroc, "low": low, "high": high})
    print(f"the label of {len(found.labels)} images of {counts.all} patients, predicted from other patients:")
    print(table(rows))
    print(
        "AUROC with a 95 % interval over patients; 0.5 is chance. What is far above it is a shortcut: a "
        "network can use it instead of the disease, and a test set of the same source does not show that."
    )


def _write_csv(output: str, rows: list[list[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    file = Path(output).expanduser()
    try:
        write_atomically(file, text.getvalue().encode(errors="surrogateescape"))
    except OSError as error:
        raise UserError(f"output={output} cannot be written: {error.strerror}") from None
