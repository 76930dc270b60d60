"""What reporting guidelines ask of a study like this: where the software answers it, and what stays open.

Items have the numbers of CLAIM 2024 (Tejani et al., Radiology: AI 2024), TRIPOD+AI (Collins et al., BMJ 2024)
and STARD-AI (Sounderajah et al., Nature Medicine 2025). The words are ours. The guidelines themselves are
binding, not this list.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from pneumo.comparison.content import Comparison, ConfigurationRow, all_rows
from pneumo.comparison.words import from_outside
from pneumo.names import (
    BAD_IMAGES,
    BEST_FACTS,
    BEST_WEIGHTS,
    CONFIG,
    DATA_STATEMENT,
    EXTERNAL,
    MODEL_CARD,
    OFFICIAL_VAL,
    SBOM,
    STARTS,
    TEST_PREDICTIONS,
    TRAINING_IMAGES,
    VAL_PREDICTIONS,
)

CLAIM, TRIPOD, STARD = "CLAIM", "TRIPOD+AI", "STARD-AI"
# What a run may keep that answers an item.
ARTIFACTS = (
    *(CONFIG, STARTS, BAD_IMAGES, BEST_WEIGHTS, BEST_FACTS, TRAINING_IMAGES),
    *(VAL_PREDICTIONS, TEST_PREDICTIONS),
)


class Pointer(NamedTuple):
    """Where an item is answered."""

    kind: str  # section, figure, artifact, file, key or commit
    name: str


@dataclass(kw_only=True)
class Evidence:
    """What exists beside the page's own numbers: only this is pointed at."""

    sections: Collection[str]  # titles
    figures: Collection[str] = ()  # names, without folder and ending
    artifacts: Mapping[str, int] = field(default_factory=dict)  # how many of the runs have each
    files: Collection[str] = ()  # in the dossier's folder
    subgroups: bool = False  # do predictions have columns such as sex and age?


@dataclass(kw_only=True)
class Item:
    """One subject, the numbers of the items that ask for it, and what answers it.

    Without `pointers` it is open. `author` is what people have to add in any case.
    """

    subject: str
    numbers: dict[str, str]  # by guideline: "12", "3a, 3b"
    pointers: list[Pointer]
    note: str = ""
    author: str = ""

    @property
    def guidelines(self) -> str:
        """The guidelines that ask for it, with their numbers."""
        return "; ".join(f"{name} {numbers}" for name, numbers in self.numbers.items())

    @property
    def state(self) -> str:
        """answered, in part or open."""
        if not self.pointers:
            return "open"
        return "in part" if self.author else "answered"


def items(comparison: Comparison, evidence: Evidence) -> list[Item]:
    """The list, with pointers to what `comparison` and `evidence` have. Nothing else is pointed at."""
    differences = comparison["differences"]
    existing: dict[str, Collection[str]] = {
        "section": evidence.sections,
        "figure": evidence.figures,
        "artifact": evidence.artifacts,
        "file": evidence.files,
        "key": {*differences["keys"], *differences["shared"]},
        "commit": comparison["about"]["commits"],
    }
    listed = [
        *_study(),
        *_data(comparison),
        *_reference_standard(),
        *_model(comparison, STARTS in evidence.artifacts),
        *_analysis(comparison),
        *_results(comparison, evidence.subgroups),
        *_discussion(),
        *_open_science(comparison),
    ]
    for item in listed:
        item.pointers = [one for one in item.pointers if one.name in existing[one.kind]]
        if not item.pointers:
            item.note, item.author = "", "everything"
    return listed


def _item(
    subject: str,
    numbers: str,
    *where: list[Pointer],
    note: str = "",
    author: str = "",
) -> Item:
    """An item; `numbers` are those of CLAIM, TRIPOD+AI and STARD-AI with | between."""
    given = zip((CLAIM, TRIPOD, STARD), (part.strip() for part in numbers.split("|")), strict=True)
    return Item(
        subject=subject,
        numbers={name: asked for name, asked in given if asked},
        pointers=[pointer for some in where for pointer in some],
        note=note,
        author=author,
    )


def _of(kind: str, *names: str) -> list[Pointer]:
    return [Pointer(kind, name) for name in names]


def _sections(*titles: str) -> list[Pointer]:
    return _of("section", *titles)


def _study() -> list[Item]:
    return [
        _item("Title: artificial intelligence, its kind of model, an accuracy", "1|1|1"),
        _item("Structured abstract", "2|2|2"),
        _item("Clinical background, intended use and users", "3|3a, 3b|3"),
        _item("Known inequalities in health", "|3c|"),
        _item("Objectives and hypotheses stated beforehand; goal of the study", "4, 6|4|4"),
        _item("Prospective or retrospective", "5||5"),
        _item("Ethics approval; consent", "|17|6"),
        _item("Involvement of patients and the public", "|19|"),
    ]


def _data(comparison: Comparison) -> list[Item]:
    test, splits = comparison["test"], comparison["splits"]
    flow = _sections("Data") if splits else []
    statement = _of("file", DATA_STATEMENT)
    known = test["patients"] is not None and not from_outside(comparison)
    level = _sections("Data") if known else []
    return [
        _item(
            "Source of the data, its version",
            "7|5a|11",
            _sections("Data"),
            statement,
            note=f"digest {comparison['about']['digest'][:16]}",
            author="who collected the images, why, and whom they represent",
        ),
        _item("Setting, centres, dates", "|5b, 6a|9"),
        _item("Inclusion and exclusion of patients and of data", "8|6b|7"),
        _item("How patients were found; consecutive, random or convenient", "||8, 10"),
        _item("Treatments that patients received", "|6c|"),
        _item("Selection of parts of the data", "10||"),
        _item("De-identification", "11||"),
        _item(
            "Missing data and unreadable images",
            "12|11|20",
            _sections("Warnings"),
            _of("artifact", BAD_IMAGES),
            statement,
            author="missing labels and missing patients in the source",
        ),
        _item("Image acquisition protocol", "13||"),
        _item(
            "Devices that took the images; software behind the model",
            "||13",
            _of("artifact", STARTS),
            author="manufacturers and models of the devices; intended use",
        ),
        _item(
            "Preprocessing of the images, checks of their quality",
            "9|7, 12b|14",
            _of("key", "data.image_size", "data.crop_black", "data.equalize"),
            _of("artifact", CONFIG),
            author="what was done to the images before, and the acquisition",
        ),
        _item(
            "How data were partitioned, with numbers",
            "19|12a, 21|",
            flow,
            _of("figure", "class_distribution"),
            _of("key", "data.val_protocol", "data.val_fraction", "data.split_seed"),
        ),
        _item(
            "Level at which partitions are disjoint",
            "20||",
            level,
            _of("artifact", TRAINING_IMAGES) if level else [],
            note=_level(all_rows(comparison)),
        ),
        _item("Sample size: how it was arrived at", "21|10|22"),
        _item(
            "Predictors: their choice, definition, measurement",
            "|9a, 9b|",
            _of("artifact", CONFIG),
            note="the pixels of one image and nothing else",
            author="how and when the images were taken",
        ),
        _item("Readers who measure predictors", "|9c|"),
    ]


def _reference_standard() -> list[Item]:
    return [
        _item("Reference standard: definition, cut-offs, time from the image", "14|8a|16a, 16c, 27"),
        _item("Why this reference standard", "15||16b"),
        _item("Who annotated, with which training; the test set", "16, 17|8b|12"),
        _item("Agreement of annotators", "18||"),
        _item("Blinding of readers and of annotators", "|8c|17a, 17b"),
    ]


def _model(comparison: Comparison, starts: bool) -> list[Item]:
    about = comparison["about"]
    libraries = ", ".join(f"{name} {version}" for name, version in about["software"].items())
    return [
        _item(
            "Model in full: architecture, inputs, outputs",
            "22||15a",
            _sections("Settings"),
            _of("key", "model.name"),
            _of("artifact", CONFIG),
            _of("file", MODEL_CARD),
            _of("commit", *about["commits"]),
        ),
        _item(
            "The model itself, for predictions of new images",
            "|22|",
            _of("artifact", BEST_WEIGHTS, BEST_FACTS),
            author="access and its restrictions",
        ),
        _item(
            "Software and its versions",
            "23||",
            _sections("How it was made"),
            _of("artifact", STARTS),
            _of("file", SBOM),
            note=f"compared with {libraries}",
            author="" if starts else "the versions that trained the models",
        ),
        _item("Initialisation of the parameters", "24||", _of("key", "model.pretrained", "model.weights")),
        _item(
            "Development: optimiser, schedule, augmentation, epochs, computing",
            "25|12c|15b",
            _sections("Settings", "Curves", "Cost"),
            _of("artifact", CONFIG),
            author="why this kind of model; what was tried before",
        ),
        _item(
            "How the final model was selected",
            "26||",
            _of("key", "trainer.select_on", "trainer.monitor"),
            _sections("All scores") if comparison["choice"] else [],
        ),
        _item(
            "Ensembles",
            "27||",
            _sections("Ensembles" if comparison["ensembles"] else "All scores"),
            note="" if comparison["ensembles"] else "no ensemble was made",
        ),
        _item(
            "Class imbalance and how it was handled",
            "|13|",
            _sections("Data"),
            _of("key", "sampler.name", "trainer.class_weights"),
            author="why it was handled so",
        ),
        _item(
            "Output; thresholds and how they were chosen",
            "|15|15c",
            _sections("Thresholds", "By class", "By finding"),
            author="why this threshold suits the use",
        ),
        _item("Users and the expertise that they need", "|27b|15d"),
        _item(
            "How predictions were calculated",
            "|12g|",
            _of("artifact", TEST_PREDICTIONS),
            _of("commit", *about["commits"]),
        ),
    ]


def _analysis(comparison: Comparison) -> list[Item]:
    seeds = max((len(row["seeds"]) for row in all_rows(comparison)), default=0)
    outside = [f"{EXTERNAL}/{name}/scores.json" for name in comparison["about"].get("external", [])]
    return [
        _item(
            "Measures of performance and plots of them",
            "28|12e|",
            _sections("All scores", "Calibration", "Decision curve", "ROC and precision-recall"),
        ),
        _item(
            "Statistics: uncertainty, tests, correction for their number",
            "29||18",
            _sections("Pairs", "How it was made"),
        ),
        _item("Indeterminate results", "||19"),
        _item(
            "Robustness: several trainings",
            "30||",
            _sections("All scores") if seeds > 1 else [],
            note=f"up to {seeds} seeds",
            author="other analyses of robustness",
        ),
        _item(
            "Performance by kind of disease, and other variability",
            "||21",
            _sections("By subtype", "By class", "By finding"),
            author="which analyses were planned beforehand",
        ),
        _item("Explainability and its evaluation", "31||"),
        _item(
            "Evaluation on internal data",
            "32||",
            _sections("All scores") if comparison["scored_on"] == "test" else [],
        ),
        _item("Evaluation on external data", "33||", _of("artifact", *outside)),
        _item(
            "How other data differ from those of development",
            "|16, 20c|29",
            _of("artifact", *outside),
            author="differences in setting, eligibility and reference standard",
        ),
        _item("Performance by hospital or country", "|12d, 23b|"),
        _item(
            "Updates of the model after its evaluation",
            "|12f, 24|",
            [] if from_outside(comparison) else _sections("Calibration"),
            note="none: temperatures come from validation images",
        ),
        _item("Fairness and errors by age, sex, origin: methods", "|14|23", _sections("Subgroups")),
    ]


def _results(comparison: Comparison, subgroups: bool) -> list[Item]:
    flow = _sections("Data") if comparison["splits"] else []
    return [
        _item("Flow of patients and images", "35|20a|24", flow, author="exclusions before these data"),
        _item(
            "Demographic and clinical characteristics by partition",
            "36|20b|25",
            _of("file", DATA_STATEMENT) if subgroups else [],
            author="those of the training images; clinical ones",
        ),
        _item("Severity of disease; other diagnoses", "||26a, 26b"),
        _item(
            "Share of the condition, and the one expected in use",
            "||28",
            flow,
            _of("figure", "class_distribution"),
            author="the share where the model will be used",
        ),
        _item(
            "Performance with its uncertainty",
            "37, 38|23a|31",
            _sections("All scores"),
            _of("figure", "forest", "roc"),
        ),
        _item(
            "Cross tabulation of results and reference",
            "||30",
            _sections("Confusion matrices"),
            _of("figure", "confusion_test"),
        ),
        _item("Adverse events", "||32"),
        _item("Failure analysis", "39||", _sections("Mistakes"), author="why these images fail"),
    ]


def _discussion() -> list[Item]:
    return [
        _item(
            "Interpretation of the results, also of fairness",
            "|25|",
            _sections("Conclusions"),
            author="earlier studies; fairness",
        ),
        _item(
            "Limitations",
            "40|26|33",
            _sections("What this does not show"),
            author="clinical limitations",
        ),
        _item("Ethics and fairness of use", "||35"),
        _item("Images of poor quality in use", "|27a|"),
        _item("Implications for practice, next steps", "41|27c|34"),
    ]


def _open_science(comparison: Comparison) -> list[Item]:
    return [
        _item("Registration", "34|18d|36"),
        _item("Protocol of the study", "42|18c|37"),
        _item(
            "Availability of code, models and data",
            "43|18e, 18f|40a",
            _of("commit", *comparison["about"]["commits"]),
            _of("artifact", BEST_WEIGHTS),
            author="where data, code and weights can be had, with their licences",
        ),
        _item(
            "Outputs stored, so that others can check them",
            "||40b",
            _of("artifact", VAL_PREDICTIONS, TEST_PREDICTIONS, STARTS),
        ),
        _item("Funding and the funders' role", "44|18a|38"),
        _item("Conflicts of interest, commercial interests", "|18b|39"),
    ]


def _level(rows: Sequence[ConfigurationRow]) -> str:
    """How validation and test are kept apart from training; a folder used unchanged keeps nothing apart."""
    if any(row["protocol"] == OFFICIAL_VAL for row in rows):
        return "by patient, as file names or the patient column tell; official validation images: as they are"
    return "by patient, as file names or the patient column tell"
