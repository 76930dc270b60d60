"""What backs the results up on the comparison page: data, cost, mistakes, reports, settings, method."""

from collections.abc import Collection, Mapping, Sequence

from pneumo.comparison.blocks import Details, Link, Picture, Section, Table
from pneumo.comparison.content import (
    Comparison,
    Confusion,
    Mistake,
    all_rows,
    class_names,
    many,
    several_findings,
)
from pneumo.comparison.reporting_items import Evidence, Item, items
from pneumo.comparison.words import (
    images_by_class,
    images_word,
    number,
    ranked,
    scaled,
    score_words,
    setting,
)

MOST_REPORTS = 12  # configurations whose matrices and reports are shown
NO_IMAGES = "This machine lacks the images. Set data.root=DIR to the folder that contains them."
_SPLITS = {
    "train": ("Training", "fits the weights"),
    "val": ("Validation", "chooses epoch, thresholds, temperature"),  # of two classes
    "test": ("Test", "scored"),
}


def data(comparison: Comparison) -> Section:
    splits = comparison["splits"]
    digest = comparison["about"]["digest"][:16]
    section = Section(
        title="Data",
        text=[f"Data digest {digest}. Every run compared here was scored on the same images."],
        figures=["class_distribution"],
    )
    if not splits:
        section.text.append(
            "The runs do not record the sizes of their training splits, and this machine lacks the images."
        )
        return section
    subtypes = ", ".join(f"{count} {kind}" for kind, count in comparison["test"]["subtypes"].items())
    people = [split["patients"] for split in splits.values()]
    total = sum(split["images"] for split in splits.values())
    known = f" of {sum(count or 0 for count in people):,} patients" if all(people) else ""
    section.flow.append(("All usable images", f"{total:,} images{known}"))
    for name, split in splits.items():
        title, role = _SPLITS[name]
        if many(comparison):
            role = role.replace("thresholds, ", "")  # calls are made without one chosen there
        if name == "val" and comparison["cross_validation"] is not None:
            title, role = "Folds", "each is scored by the network trained on the others"
        patients = f" of {split['patients']:,} patients" if split["patients"] else ""
        kinds = f" ({subtypes})" if name == "test" and subtypes else ""
        section.flow.append(
            (
                title,
                f"{split['images']:,} images{patients}: {images_by_class(split)}{kinds}; {role}",
            )
        )
    return section


def cost(comparison: Comparison) -> Section | None:
    rows = []
    for row in all_rows(comparison):
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
    columns += ["training images/s", "time per epoch", "peak memory", "trained on"]
    text = (
        "FLOPs are for one image; a multiply-add counts as two. Latency is the median time for one image, in "
        "float32, on the CPU that made this page. Training times are the median of each run's epochs, "
        "averaged over the seeds; a dash means that nothing was logged. Peak memory is the largest of the "
        "epochs. It counts tensors on a GPU, and the whole process on a CPU."
    )
    table = Table(caption="What each configuration costs", columns=columns, rows=rows)
    return Section(title="Cost", text=[text], tables=[table])


def mistakes(comparison: Comparison, pictures: Mapping[str, str]) -> Section | None:
    if not comparison["mistakes"]:
        return None
    name = comparison["configurations"][0]["name"]
    if several_findings(comparison):
        return _finding_mistakes(comparison, pictures, name)
    if many(comparison):
        return _class_mistakes(comparison, pictures, name)
    classes = [name.lower() for name in class_names(comparison)]
    shown = []
    for mistake in comparison["mistakes"]:
        truth, called = classes[mistake["label"]], classes[1 - mistake["label"]]
        of = f"a probability of pneumonia of {mistake['probability']:.4f}"
        shown.append(_picture(mistake, truth, called, of, pictures))
    text = [
        f"The {images_word(comparison)} images that {name} gets wrong with the most confidence, at "
        "probability 0.5, its seeds averaged."
    ]
    if not pictures:
        text.append(NO_IMAGES)
    return Section(title="Mistakes", text=text, pictures=shown)


def _picture(
    mistake: Mistake, truth: str, called: str, probability: str, pictures: Mapping[str, str]
) -> Picture:
    caption = (
        f"{mistake['path']}: {truth}, called {called} with {probability}; wrong in {mistake['wrong_in']} of "
        f"{mistake['of']} runs"
    )
    alt = f"Chest X-ray labelled {truth}, called {called}"
    return Picture(data=pictures.get(mistake["path"], ""), alt=alt, caption=caption)


def _class_mistakes(comparison: Comparison, pictures: Mapping[str, str], name: str) -> Section:
    """The mistakes of more than two classes, by true and called class."""
    names = class_names(comparison)
    shown = [
        _picture(
            mistake,
            names[mistake["label"]],
            names[mistake["called"]],
            f"a probability of {mistake['probability']:.4f} ({names[mistake['label']]}: "
            f"{mistake['own_probability']:.4f})",
            pictures,
        )
        for mistake in comparison["mistakes"]
    ]
    text = [
        f"The {images_word(comparison)} images that {name} gets wrong with the most confidence, its seeds "
        "averaged: at most two of each true and called class."
    ]
    if not pictures:
        text.append(NO_IMAGES)
    return Section(title="Mistakes", text=text, pictures=shown)


def _finding_mistakes(comparison: Comparison, pictures: Mapping[str, str], name: str) -> Section:
    """The mistakes of several findings, by finding."""
    shown = []
    for mistake in comparison["mistakes"]:
        finding = mistake["finding"]
        truth, called = (f"with {finding}", f"without {finding}")[:: 1 if mistake["label"] else -1]
        of = f"a probability of {mistake['probability']:.4f}"
        shown.append(_picture(mistake, truth, called, of, pictures))
    text = [
        f"The {images_word(comparison)} images that {name} gets wrong with the most confidence, at "
        "probability 0.5, its seeds averaged: of each finding at most two that it misses, and two that it "
        "calls wrongly."
    ]
    if not pictures:
        text.append(NO_IMAGES)
    return Section(title="Mistakes", text=text, pictures=shown)


def reports(comparison: Comparison) -> Section:
    details = []
    for row in all_rows(comparison)[:MOST_REPORTS]:
        splits = {"test": row["confusion"], "validation": row["validation"]["confusion"]}
        if comparison["scored_on"] == "val":
            del splits["test"]
        tables = [
            _classification(f"{split} images, seed {run['seed']}", matrix, class_names(comparison))
            for split, matrices in splits.items()
            for run, matrix in zip(row["runs"], matrices, strict=False)
        ]
        details.append(Details(summary=ranked(row), tables=tables))
    return Section(title="Classification reports", text=["One report for each run."], details=details)


def _classification(caption: str, matrix: Confusion, names: Sequence[str]) -> Table:
    def line(hit: int, false: int, missed: int) -> list[float]:
        precision = hit / (hit + false) if hit + false else 0.0
        recall = hit / (hit + missed) if hit + missed else 0.0
        return [precision, recall, 2 * hit / (2 * hit + false + missed) if hit + false + missed else 0.0]

    hits, sizes = [counts[k] for k, counts in enumerate(matrix)], [sum(counts) for counts in matrix]
    called = [sum(column) for column in zip(*matrix, strict=True)]
    each = [line(hit, c - hit, n - hit) for hit, c, n in zip(hits, called, sizes, strict=True)]
    total = max(1, sum(sizes))
    weighted = [
        sum(value * n for value, n in zip(values, sizes, strict=True)) / total
        for values in zip(*each, strict=True)
    ]
    macro = [sum(values) / len(names) for values in zip(*each, strict=True)]
    rows = [
        *([name, *map(number, values), str(n)] for name, values, n in zip(names, each, sizes, strict=True)),
        ["accuracy", "", "", number(sum(hits) / total), str(total)],
        ["macro average", *map(number, macro), str(total)],
        ["weighted average", *map(number, weighted), str(total)],
    ]
    return Table(caption=caption, columns=["class", "precision", "recall", "F1", "images"], rows=rows)


def settings(comparison: Comparison) -> Section:
    differences = comparison["differences"]
    tables = []
    if differences["keys"]:
        tables.append(
            Table(
                caption="What differs between the configurations",
                columns=["configuration", *differences["keys"]],
                rows=[
                    [ranked(row), *map(setting, differences["values"][row["id"]])]
                    for row in all_rows(comparison)
                ],
            )
        )
    shared = Table(
        caption="In common",
        columns=["setting", "value"],
        rows=[[key, setting(value)] for key, value in differences["shared"].items()],
    )
    details = [Details(summary="Settings that all configurations share", tables=[shared])]
    return Section(title="Settings", tables=tables, details=details)


def runs(comparison: Comparison) -> Section:
    """Every run: its scores, where it was made, and its page in MLflow."""
    score = comparison["rank_by"]
    word = score_words(comparison)[score]
    listed = [
        (row, run, value)
        for row in all_rows(comparison)
        for run, value in zip(row["runs"], row["scores"][score]["per_run"], strict=True)
    ]
    table = Table(
        caption=f"{word} on the {images_word(comparison)} images, by run",
        columns=["run", "configuration", "seed", word, "epoch", "commit", "device"],
        rows=[
            [
                run["name"],
                ranked(row),
                str(run["seed"]),
                number(value),
                str(run["epoch"] or "-"),
                str(run["commit"] or "-")[:12],
                str(run["device"] or "-"),
            ]
            for row, run, value in listed
        ],
        links=[[run_link(comparison, run["run_id"], run["run_id"][:8])] for _, run, _ in listed],
    )
    shows = comparison["about"].get("show_runs")
    return Section(title="Runs", text=[f"MLflow's pages: {shows}"] if shows else [], tables=[table])


def run_link(comparison: Comparison, run_id: str, text: str) -> Link:
    """`text` as a link to the run's page in MLflow, if the address is known."""
    address = comparison["about"].get("runs_at")
    return Link(text, f"{address}{run_id}" if address else "")


def reporting(comparison: Comparison, titles: Collection[str]) -> Section:
    """What the guidelines ask for, answered where the page has the section (`titles`)."""
    listed = items(comparison, Evidence(sections=titles))
    done = sum(item.state != "open" for item in listed)
    text = (
        "What CLAIM 2024, TRIPOD+AI and STARD-AI ask for, by subject and number. This page answers "
        f"{done} of {len(listed)} subjects, some in part; the others are open. pneumo compare dossier=true "
        "also points at files and artifacts. This list does not replace the guidelines themselves."
    )
    table = Table(
        caption="Reporting items",
        columns=["subject", "asked by", "answered"],
        rows=[[item.subject, item.guidelines, _answered(item)] for item in listed],
        words=True,
        marked={index for index, item in enumerate(listed) if item.state == "open"},
    )
    return Section(title="Reporting items", text=[text], tables=[table])


def _answered(item: Item) -> str:
    if item.state == "open":
        return "OPEN: for people to answer"
    words = "; ".join(filter(None, [", ".join(one.name for one in item.pointers), item.note]))
    return f"{words}; open: {item.author}" if item.author else words


def method(comparison: Comparison) -> Section:
    bootstrap, command = comparison["bootstrap"], comparison["about"]["command"]
    return Section(
        title="How it was made",
        text=[f"{bootstrap['draws']:,} draws, seed {bootstrap['seed']}. Made with {command}."],
        details=[Details(summary="The bootstrap", text=bootstrap["scheme"])],
    )
