"""What backs the results up on the comparison page: data, cost, mistakes, reports, settings, method."""

from collections.abc import Mapping, Sequence
from typing import Any

from pneumo.comparison.blocks import MOST_REPORTS, Facts, section, table, val_confusion
from pneumo.comparison.reporting_items import items
from pneumo.comparison.words import number, ranked, rows_of, scaled


def data(result: Facts) -> dict[str, Any]:
    splits, test = result["splits"], result["test"]
    text = [f"Data set digest {result['about']['digest'][:16]}: every run compared here has the same."]
    if not splits:
        text.append(
            "The runs do not record the sizes of their training splits, and the images are not at hand."
        )
    subtypes = ", ".join(f"{n} {kind}" for kind, n in test["subtypes"].items())
    flow = []
    if splits:
        total = sum(split["images"] for split in splits.values())
        people = [split["patients"] for split in splits.values()]
        known = f" of {sum(people):,} patients" if all(people) else ""
        flow.append(("All usable images", f"{total:,} images{known}"))
        roles = {
            "train": "fits the weights",
            "val": "chooses epoch, thresholds, temperature",
            "test": "scored",
        }
        for name, split in splits.items():
            count = f" of {split['patients']:,} patients" if split["patients"] else ""
            kinds = f" ({subtypes})" if name == "test" and subtypes else ""
            flow.append(
                (
                    {"train": "Training", "val": "Validation", "test": "Test"}[name],
                    f"{split['images']:,} images{count}: {split['normal']:,} normal, "
                    f"{split['pneumonia']:,} pneumonia{kinds}; {roles[name]}",
                )
            )
    return section("Data", text, flow=flow, figures=("class_distribution",))


def cost(result: Facts) -> dict[str, Any] | None:
    rows = []
    for row in rows_of(result):
        cost = row.get("cost")
        if not cost:
            continue
        rows.append(
            [
                ranked(row),
                str(cost.get("image_size") or "-"),
                scaled(cost.get("parameters"), 1e6, "M"),
                scaled(cost.get("flops"), 1e9, "G"),
                scaled(cost.get("weights_bytes"), 2**20, "MiB"),
                scaled(cost.get("latency_ms"), 1, "ms"),
                scaled(cost.get("images_per_s"), 1, ""),
                scaled(cost.get("epoch_s"), 1, "s"),
                scaled(cost.get("peak_memory_mib"), 1, "MiB"),
                str(cost.get("device") or "-"),
            ]
        )
    if not rows:
        return None
    columns = ["configuration", "image size", "parameters", "FLOPs", "model size", "latency"]
    columns += ["training images/s", "time an epoch", "peak memory", "trained on"]
    shown = table("What each costs", columns, rows)
    text = [
        "FLOPs of one image, a multiply-add counted as two. Latency: one image at a time on the CPU that "
        "made this page, median, float32. Training figures are of the runs' last epochs, mean over the "
        "seeds; a dash was not logged. Peak memory: tensors on a GPU; on a CPU the whole process."
    ]
    return section("Cost", text, tables=[shown])


def mistakes(result: Facts, pictures: Mapping[str, str]) -> dict[str, Any] | None:
    found = result["mistakes"]
    if not found:
        return None
    classes = ("normal", "pneumonia")
    shown = []
    for entry in found:
        truth, called = classes[entry["label"]], classes[1 - entry["label"]]
        caption = (
            f"{entry['path']}: {truth}, called {called} with probability of pneumonia "
            f"{entry['probability']:.4f}; wrong in {entry['wrong_in']} of {entry['of']} runs"
        )
        alt = f"Chest X-ray labelled {truth}, called {called}"
        shown.append({"data": pictures.get(entry["path"], ""), "alt": alt, "caption": caption})
    name = result["configurations"][0]["name"]
    text = [f"Of {name}, its seeds averaged, at probability 0.5: the surest of what it got wrong."]
    if not pictures:
        text.append("The images are not at hand; data.root=DIR names their folder.")
    return section("The most confident mistakes", text, pictures=shown)


def reports(result: Facts) -> dict[str, Any]:
    details = []
    for row in rows_of(result)[:MOST_REPORTS]:
        tables = []
        for split, matrices in (("test", row["confusion"]), ("validation", val_confusion(row))):
            for run, matrix in zip(row["runs"], matrices, strict=False):
                tables.append(_classification(f"{split} images, seed {run['seed']}", matrix))
        details.append({"summary": ranked(row), "pre": "", "tables": tables})
    return section("Classification reports", details=details)


def _classification(name: str, matrix: Sequence[Sequence[int]]) -> dict[str, Any]:
    (tn, fp), (fn, tp) = matrix

    def line(hit: int, false: int, missed: int) -> list[float]:
        precision = hit / (hit + false) if hit + false else 0.0
        recall = hit / (hit + missed) if hit + missed else 0.0
        return [precision, recall, 2 * hit / (2 * hit + false + missed) if hit + false + missed else 0.0]

    normal, ill = line(tn, fn, fp), line(tp, fp, fn)
    sizes = (tn + fp, fn + tp)
    total = max(1, sum(sizes))
    weighted = [(a * sizes[0] + b * sizes[1]) / total for a, b in zip(normal, ill, strict=True)]
    macro = [(a + b) / 2 for a, b in zip(normal, ill, strict=True)]
    rows = [
        ["NORMAL", *map(number, normal), str(sizes[0])],
        ["PNEUMONIA", *map(number, ill), str(sizes[1])],
        ["accuracy", "", "", number((tn + tp) / total), str(total)],
        ["macro average", *map(number, macro), str(total)],
        ["weighted average", *map(number, weighted), str(total)],
    ]
    return table(name, ["class", "precision", "recall", "F1", "images"], rows)


def settings(result: Facts) -> dict[str, Any]:
    found = result["differences"]
    tables = []
    if found["keys"]:
        values = found["values"]
        rows = [[ranked(row), *map(str, values[row["id"]])] for row in rows_of(result)]
        tables.append(
            table("What differs between the configurations", ["configuration", *found["keys"]], rows)
        )
    if result["left_out"]:
        rows = [[entry["run"], entry["reason"]] for entry in result["left_out"]]
        tables.append(table("Left out", ["run", "reason"], rows, words=True))
    runs = [
        [run["name"], run["run_id"], str(run["seed"]), ranked(row), str(run.get("commit") or "-")[:12]]
        for row in rows_of(result)
        for run in row["runs"]
    ]
    shared = table("In common", ["setting", "value"], [[k, str(v)] for k, v in found["shared"].items()])
    every = table("Runs", ["run", "MLflow id", "seed", "configuration", "commit"], runs)
    details = [
        {"summary": "Settings that all have in common", "pre": "", "tables": [shared]},
        {"summary": "The runs", "pre": "", "tables": [every]},
    ]
    return section("Settings", tables=tables, details=details)


def reporting(result: Facts) -> dict[str, Any]:
    listed = items(result)
    rows = [[item.subject, item.guidelines, item.filled or "OPEN: for people to answer"] for item in listed]
    done = sum(item.filled is not None for item in listed)
    text = [
        f"What CLAIM 2024, TRIPOD+AI and STARD-AI ask, by subject: {done} of {len(listed)} have an answer on "
        "this page, the others are open. No list stands in for the guidelines themselves."
    ]
    shown = table("Reporting items", ["subject", "asked by", "answered"], rows, words=True)
    shown["marked"] = {index for index, item in enumerate(listed) if item.filled is None}
    return section("Reporting items", text, tables=[shown])


def method(result: Facts) -> dict[str, Any]:
    boot = result["bootstrap"]
    text = [
        f"{boot['draws']:,} draws, seed {boot['seed']}. Made with {result['about']['command']}.",
    ]
    return section(
        "How it was made", text, details=[{"summary": "The bootstrap", "pre": boot["scheme"], "tables": []}]
    )
