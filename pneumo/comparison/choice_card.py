"""The model card of the configuration that validation prefers, as Markdown.

`pneumo runs register` writes the card of one trained model; this one is about a configuration and its runs.
"""

from collections.abc import Sequence

from pneumo.comparison.content import (
    Comparison,
    ConfigurationRow,
    class_names,
    many,
    several_findings,
)
from pneumo.comparison.words import (
    chosen_by,
    headlines,
    images_by_class,
    images_word,
    limits,
    number,
    plural,
    protocol_words,
    score_words,
    setting,
    temperature,
    with_interval,
)

RULES = {
    "half": "probability 0.5",
    "sensitivity_95": "at least 95 % of the ill validation images are found",
    "youden": "sensitivity + specificity is highest on validation",
}
SPLITS = {"train": "Training", "val": "Validation", "test": "Test"}


def text(comparison: Comparison) -> str:
    """The card; a sentence that says why there is none if validation prefers no configuration."""
    choice = comparison["choice"]
    if choice is None:
        return (
            "# Model card\n\nNone: the compared runs have no validation scores, so no configuration is "
            "preferred. Choosing by the test images would make their scores too high.\n"
        )
    row = next(one for one in comparison["configurations"] if one["id"] == choice["id"])
    names = {one["id"]: one["name"] for one in comparison["configurations"]}
    tied = [names[one] for one in choice["tied"] if one != choice["id"]]
    first = score_words(comparison)[comparison["rank_by"]]
    among = plural(len(comparison["configurations"]), "configuration")
    parts = [
        f"# Model card: {_cell(row['name'])}\n",
        f"Preferred by {chosen_by(comparison)} among {among}: {first} {number(choice['score'])} there."
        + (f" Within one standard error of it: {', '.join(map(_cell, tied))}." if tied else "")
        + "\n",
        f"Made by pneumo {comparison['about']['version']} on {comparison['about']['made']}.\n",
        f"## What it is for\n\n{_purpose(comparison)}\n",
        f"## What it was trained on\n\n{_training(comparison)}\n",
        f"## How it was trained\n\n{_settings(comparison, row)}\n",
        f"## The runs\n\n{_runs(row)}\n",
        f"## Scores\n\n{_scores(comparison, row)}\n",
        *_classes(comparison, row),
        *_thresholds(row),
        *_calibration(row),
        "## Limits\n",
        *(f"- {sentence}" for sentence in limits(comparison)),
        *(f"- On the page: {title}" for title in headlines(comparison)),
        "- The model repeats the labels of its training images, including their errors.",
        "- Another kind of image also gets a probability. That probability means nothing.",
        "- Open for the author: clinical limits, who may use it, what happens after its answer.",
    ]
    return "\n".join(parts) + "\n"


def _purpose(comparison: Comparison) -> str:
    names = ", ".join(map(_cell, class_names(comparison)))
    kind = "the findings" if several_findings(comparison) else "one of the classes"
    return (
        f"Research and teaching. It estimates how likely a frontal chest X-ray shows {kind} {names}, as the "
        "training images were labelled. It knows nothing else. It is not a medical device.\n\n"
        "Open for the author: the intended users, patients and place in care."
    )


def _training(comparison: Comparison) -> str:
    about, splits = comparison["about"], comparison["splits"]
    lines = [f"- Data set: {about['data'] or 'not recorded'}, digest `{about['digest'][:16]}`"]
    if about["synthetic"]:
        lines.append("- The images are synthetic: the scores say nothing about patients")
    for name, size in (splits or {}).items():
        people = f" of {plural(size['patients'], 'patient')}" if size["patients"] else ""
        lines.append(
            f"- {SPLITS.get(name, name)}: {size['images']:,} images{people}: {images_by_class(size)}"
        )
    if not splits:
        lines.append("- The sizes of the splits are not recorded")
    return "\n".join([*lines, "- More: [data_statement.md](data_statement.md)"])


def _settings(comparison: Comparison, row: ConfigurationRow) -> str:
    differences = comparison["differences"]
    own = dict(zip(differences["keys"], differences["values"][row["id"]], strict=True))
    rows = [[f"`{key}`", _cell(setting(value))] for key, value in (own | differences["shared"]).items()]
    chosen = f"The epoch was chosen by: {protocol_words(row['protocol'])}."
    return f"{chosen}\n\n{_table(['setting', 'value'], rows)}"


def _runs(row: ConfigurationRow) -> str:
    rows = [
        [
            _cell(run["name"]),
            f"`{run['run_id']}`",
            str(run["seed"]),
            str(run["epoch"] or "-"),
            run["commit"] or "-",
        ]
        for run in row["runs"]
    ]
    return _table(["run", "id", "seed", "epoch", "commit"], rows)


def _scores(comparison: Comparison, row: ConfigurationRow) -> str:
    words = score_words(comparison)
    rows = [
        [words.get(name, name), with_interval(entry), number(entry["sd"])]
        for name, entry in row["scores"].items()
    ]
    where = images_word(comparison)
    note = (
        f"On {comparison['test']['images']:,} {where} images: the mean over "
        f"{plural(len(row['seeds']), 'seed')} with its 95 % interval over patients, and the standard "
        "deviation over seeds."
    )
    return f"{note}\n\n{_table(['score', 'mean (95 % interval)', 'SD of seeds'], rows)}"


def _classes(comparison: Comparison, row: ConfigurationRow) -> list[str]:
    if not many(comparison) or "classes" not in row:
        return []
    names = ("auroc", "recall", "specificity", "precision", "f1")
    title = "finding" if several_findings(comparison) else "class"
    rows = [
        [
            _cell(name),
            *(with_interval(entry["scores"][one]) if one in entry["scores"] else "-" for one in names),
        ]
        for name, entry in row["classes"].items()
    ]
    words = {"auroc": "AUROC", "recall": "sensitivity", "f1": "F1"}
    return [_table([title, *(words.get(one, one) for one in names)], rows) + "\n"]


def _thresholds(row: ConfigurationRow) -> list[str]:
    rows = [
        [
            RULES.get(rule, rule),
            ", ".join(number(value, 3) for value in point["thresholds"]),
            *(
                with_interval(point["scores"][one]) if one in point["scores"] else "-"
                for one in ("recall", "specificity")
            ),
        ]
        for rule, point in row["points"].items()
    ]
    if not rows:
        return []
    columns = ["chosen so that", "threshold by seed", "sensitivity", "specificity"]
    return [f"## Thresholds\n\n{_table(columns, rows)}\n"]


def _calibration(row: ConfigurationRow) -> list[str]:
    fitted = row["temperature"]
    if not fitted:
        return []
    values = ", ".join(temperature(value) for value in fitted["values"])
    return [
        f"## Calibration\n\nTemperature by seed, fitted on validation: {values}. The scores above are "
        "without it.\n"
    ]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
