"""What reporting guidelines ask of a study like this: what the software can answer, and what stays open.

The subjects follow CLAIM 2024 (Tejani et al., Radiology: AI 2024), TRIPOD+AI (Collins et al., BMJ 2024) and
STARD-AI (Sounderajah et al., Nature Medicine 2025). The guidelines themselves are binding, not this list.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from pneumo.comparison.content import Comparison, ConfigurationRow, all_rows
from pneumo.names import OFFICIAL_VAL


class Item(NamedTuple):
    """One subject; `filled` is where it is answered, or None if people have to answer it."""

    subject: str
    guidelines: str
    filled: str | None


C, T, S = "CLAIM", "TRIPOD+AI", "STARD-AI"


def items(comparison: Comparison, sections: Collection[str]) -> list[Item]:
    """The list, with what `comparison` answers on a page that has `sections` (titles)."""

    def there(title: str, more: str = "") -> str | None:
        return f"{title}{more}" if title in sections else None

    test, about = comparison["test"], comparison["about"]
    patients = test["patients"] is not None
    rows, splits = all_rows(comparison), comparison["splits"]
    seeds = max((len(row["seeds"]) for row in rows), default=0)
    libraries = ", ".join(f"{name} {version}" for name, version in about["software"].items())
    return [
        Item(
            "Study as one of artificial intelligence, its kind of model",
            f"{C}, {T}, {S}",
            "The table at the top",
        ),
        Item("Clinical background, intended use and users", f"{C}, {T}, {S}", None),
        Item("Objectives and hypotheses stated beforehand", f"{C}, {T}, {S}", None),
        Item("Prospective or retrospective; setting, dates, centres", f"{C}, {T}, {S}", None),
        Item("Eligibility, inclusion and exclusion of patients", f"{C}, {T}, {S}", None),
        Item("Source of the data, its version", f"{C}, {T}", f"Data: digest {about['digest'][:16]}"),
        Item("Preprocessing of the images", f"{C}, {T}", "Settings in common; what differs"),
        Item("De-identification; ethics approval; consent", f"{C}, {T}, {S}", None),
        Item(
            "Missing data and unreadable images",
            f"{C}, {T}, {S}",
            "Warnings: runs left out; each run's bad_images.txt",
        ),
        Item("Image acquisition protocol", C, None),
        Item("Reference standard: definition, annotators, their agreement", f"{C}, {T}, {S}", None),
        Item(
            "How data were partitioned, with numbers",
            f"{C}, {T}, {S}",
            "Data" if splits else None,
        ),
        Item(
            "Level at which partitions are disjoint",
            f"{C}, {S}",
            _level(rows) if patients else None,
        ),
        Item("Sample size: how it was arrived at", f"{C}, {T}, {S}", None),
        Item("Class imbalance and how it was handled", T, "Data; sampler in what differs"),
        Item("Model in full: architecture, inputs, outputs", f"{C}, {T}", "Settings; each run's config.yaml"),
        Item("Initialisation of the parameters", C, "Settings: model.pretrained, model.weights"),
        Item("Software and its versions", f"{C}, {T}, {S}", libraries),
        Item("Training: optimiser, schedule, augmentation, epochs", f"{C}, {T}", "Settings; curves"),
        Item(
            "How the final model was selected",
            f"{C}, {T}",
            "All scores: what chose the epochs" if comparison["configurations"] else None,
        ),
        Item("Ensembles", C, there("Ensembles") or "No ensemble was made"),
        Item(
            "Measures of performance, with their uncertainty",
            f"{C}, {T}, {S}",
            there("All scores", "; how it was made"),
        ),
        Item("Tests for differences, corrected for their number", f"{C}, {S}", there("Pairs")),
        Item(
            "Thresholds and how they were chosen",
            f"{T}, {S}",
            there("By class", ": none, the most probable class is called")
            or there("By finding", ": 0.5 for each, fixed beforehand")
            or there("Thresholds"),
        ),
        Item("Calibration", T, there("Calibration")),
        Item("Robustness: several trainings", C, f"Up to {seeds} seeds" if seeds > 1 else None),
        Item("Explainability and its evaluation", C, None),
        Item("Fairness: performance by age, sex, origin", f"{C}, {T}, {S}", None),
        Item(
            "Performance by kind of disease",
            S,
            there("By class") or there("By finding") or there("By subtype"),
        ),
        Item("External test data", f"{C}, {T}", None),
        Item("Flow of patients and images", f"{C}, {T}, {S}", "Data" if splits else None),
        Item("Demographic and clinical characteristics by partition", f"{C}, {T}, {S}", None),
        Item("Cross tabulation of results and reference", S, there("Confusion matrices")),
        Item("Failure analysis", C, there("Mistakes")),
        Item("Computing resources", T, there("Cost")),
        Item("Limitations", f"{C}, {T}, {S}", "What this does not show; clinical ones are open"),
        Item("Implications for practice", f"{C}, {T}, {S}", None),
        Item("Registration, protocol, funding, conflicts of interest", f"{C}, {T}, {S}", None),
        Item(
            "Availability of code, models and data",
            f"{C}, {T}, {S}",
            f"Commit {', '.join(about['commits'])[:60] or 'not recorded'}; weights with each run",
        ),
    ]


def _level(rows: Sequence[ConfigurationRow]) -> str:
    """How validation and test are kept apart from training; a folder used unchanged keeps nothing apart."""
    if any(row["protocol"] == OFFICIAL_VAL for row in rows):
        return "By patient, as file names or the patient column tell; official validation images: as they are"
    return "By patient, as file names or the patient column tell"
