"""python -m pneumo.compare experiment=NAME [sweep=ID] [output=DIR]: what finished runs allow one to say."""

import base64
import io
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import pneumo
from pneumo import UserError, config, fingerprint, one_of
from pneumo.names import MEASURED
from pneumo.tracking.settings import TrackingSettings

if TYPE_CHECKING:
    from pneumo.comparison.page import Page
    from pneumo.comparison.result import Candidate
    from pneumo.tracking.reading import Found, Reader, TrackedRun

NEEDED = ("predictions/test.csv", "predictions/val.csv", "config.yaml")
SOFTWARE = ("torch", "numpy", "scipy", "scikit-learn", "statsmodels")
PICTURE_PIXELS = 320
# Ten times as fast as OmegaConf, and nothing in a run's own file is left to resolve.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(kw_only=True)
class Images:
    """Where the images lie; null: where the runs found them."""

    root: str | None = None


@dataclass(kw_only=True)
class CompareConfig:
    """One comparison, whole and checked."""

    experiment: str = "pneumo"
    sweep: str | None = None
    output: str | None = None
    rank_by: str = "accuracy"
    draws: int = 2000
    seed: int = 0
    latency: bool = True
    upload: bool = True
    data: Images = field(default_factory=Images)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)

    def __post_init__(self) -> None:
        from pneumo.comparison.result import RANKED_BY

        one_of("rank_by", self.rank_by, RANKED_BY)
        if not 50 <= self.draws <= 100_000:
            raise UserError(f"draws={self.draws}: give 50 to 100,000; 2000 is usual.")
        if self.seed < 0:
            raise UserError(f"seed={self.seed} must not be negative.")


def main() -> None:
    """Compare what the command line names; the exit code is 0 done, 1 failed, 2 wrong usage."""

    def show(settings: CompareConfig) -> int:
        print(compare(settings).terminal)
        return 0

    sys.exit(config.run_typed(show, "compare", CompareConfig))


def compare(settings: CompareConfig) -> "Page":
    """Read the runs, compare them, write the page; onto the sweep's parent run too, where there is one."""
    from pneumo.comparison import page as report
    from pneumo.comparison import result as comparison
    from pneumo.tracking.reading import Reader

    reader = Reader(settings.tracking.uri or "")
    found = reader.find(settings.tracking.experiment, settings.sweep)
    candidates, left_out = _candidates(found, reader)
    kept, others = comparison.sort_out(candidates)
    left_out += others
    if not kept:
        reasons = "".join(f"\n  {entry['run']}: {entry['reason']}" for entry in left_out)
        raise UserError(
            f"experiment {settings.tracking.experiment} holds no finished run to compare. Train some first: "
            f"python -m pneumo.train --multirun model=resnet18,resnet50 "
            f"tracking.experiment={settings.tracking.experiment}{reasons}"
        )
    result = comparison.build(kept, rank_by=settings.rank_by, draws=settings.draws, seed=settings.seed)
    root = _image_root(settings, kept)
    result |= {
        "about": _about(settings, kept),
        "left_out": left_out,
        "splits": _splits(kept, root),
    }
    _add_costs(result, kept, settings.latency)
    folder = Path(settings.output or config.project_dir() / "reports" / _file_name(settings)).expanduser()
    page = report.write(folder, result, _pictures(result["mistakes"], root))
    page.terminal += f"\n\nThe page: {folder / 'index.html'}"
    if settings.upload and found.parent is not None:
        reader.upload(found.parent, folder, page.files, "comparison")
        page.terminal += f"\nAlso on the sweep's parent run {found.parent.name}, under comparison/."
    return page


def _file_name(settings: CompareConfig) -> str:
    name = settings.tracking.experiment + (f"-{settings.sweep}" if settings.sweep else "")
    return "".join(sign if sign.isalnum() or sign in "._-" else "_" for sign in name).strip(".") or "_"


def _candidates(found: "Found", reader: "Reader") -> tuple[list["Candidate"], list[dict[str, str]]]:
    left_out = [
        {"run": run.name, "reason": f"not finished: {run.status.lower()}"} for run in found.unfinished
    ]
    candidates = []
    for run in found.runs:
        missing = [name for name in NEEDED if name not in run.files]
        if missing:
            reason = (
                f"its artifacts are incomplete: {', '.join(missing)} missing (python -m pneumo.runs sync)"
            )
            left_out.append({"run": run.name, "reason": reason})
            continue
        try:
            candidates.append(_candidate(run, reader))
        except UserError as error:
            left_out.append({"run": run.name, "reason": f"its artifacts cannot be read: {error}"})
    return candidates, left_out


def _candidate(run: "TrackedRun", reader: "Reader") -> "Candidate":
    from pneumo.comparison.result import Candidate
    from pneumo.evaluation.metrics import checked
    from pneumo.evaluation.predictions import read_predictions

    try:
        whole = yaml.load(run.files["config.yaml"], Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(f"config.yaml is damaged: {str(error).splitlines()[0]}") from None
    if not isinstance(whole, dict):
        raise UserError("config.yaml holds no configuration")
    settings = fingerprint.relevant({str(key): value for key, value in whole.items()})
    seed = int(settings.pop("seed", 0))
    splits = {}
    for name in ("test", "val"):
        splits[name] = read_predictions(run.files[f"predictions/{name}.csv"])
        checked(splits[name].labels, splits[name].probabilities)
    facts = run.facts
    history = facts.get("history") or reader.history(run)
    notes = []
    if settings.get("trainer.limit_batches"):
        notes.append("Some runs trained on part of each epoch only (trainer.limit_batches): smoke runs.")
    if run.tags.get("pneumo.git_dirty") == "true":
        notes.append("Some runs were made with uncommitted changes in the code.")
    epoch = facts.get("epoch", run.metrics.get("best/epoch"))
    return Candidate(
        run_id=run.run_id,
        name=run.name,
        seed=seed,
        config=settings,
        protocol=run.tags.get("pneumo.protocol", "unknown"),
        digest=run.tags.get("pneumo.data_digest", ""),
        test=splits["test"],
        val=splits["val"],
        fingerprint=run.tags.get("pneumo.fingerprint", ""),
        started_ms=run.started_ms,
        epoch=None if epoch is None else int(epoch),
        history=history,
        notes=notes,
        about={
            "commit": run.tags.get("mlflow.source.git.commit"),
            "device": run.params.get("device"),
            "weights_bytes": run.weights_bytes,
            "measured": {key: value for key, value in run.metrics.items() if key.startswith(MEASURED)},
            "synthetic": run.tags.get("pneumo.synthetic") == "true",
            "data": whole.get("data") or {},
            "sizes": {key: facts[key] for key in ("images", "patients") if facts.get(key)},
        },
    )


def _about(settings: CompareConfig, kept: Sequence["Candidate"]) -> dict[str, Any]:
    data = kept[0].about["data"]
    sweep = f" sweep={settings.sweep}" if settings.sweep else ""
    return {
        "experiment": settings.tracking.experiment,
        "sweep": settings.sweep,
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "version": pneumo.__version__,
        "command": f"python -m pneumo.compare experiment={settings.tracking.experiment}{sweep}",
        "software": {name: version(name) for name in SOFTWARE},
        "commits": sorted({str(run.about["commit"])[:12] for run in kept if run.about["commit"]}),
        "digest": kept[0].digest,
        "data": data.get("name"),
        "synthetic": any(run.about["synthetic"] for run in kept),
    }


def _image_root(settings: CompareConfig, kept: Sequence["Candidate"]) -> Path | None:
    """The folder with the compared images, if it is here."""
    for given in (settings.data.root, *(run.about["data"].get("root") for run in kept)):
        if not given:
            continue
        root = Path(given).expanduser()
        for folder in (root, root / "chest_xray", root / "chest_xray" / "chest_xray"):
            if (folder / kept[0].test.paths[0]).is_file():
                return folder
    if settings.data.root:
        print(f"note: {settings.data.root} does not hold the test images ({kept[0].test.paths[0]}, ...)")
    return None


def _splits(kept: Sequence["Candidate"], root: Path | None) -> dict[str, Any] | None:
    """Images and patients by split: as the runs recorded them, else as the images at hand show."""
    for run in kept:
        sizes = run.about["sizes"]
        if sizes.get("images") and sizes.get("patients"):
            return {
                split: {
                    "images": sum(counts.values()),
                    "normal": counts.get("NORMAL", 0),
                    "pneumonia": counts.get("PNEUMONIA", 0),
                    "patients": sizes["patients"].get(split) or None,
                }
                for split, counts in sizes["images"].items()
            }
    if root is None or not (root / "train").is_dir():
        return None
    from pneumo.data import manifest
    from pneumo.data.settings import DataSettings

    try:
        table = manifest.describe(
            DataSettings(name="chest_xray", root=str(root), val_protocol="patient")
        ).table
    except UserError:
        return None
    # The runs' own validation images, which also keep copies of an image together.
    test, val = set(kept[0].test.paths), set(kept[0].val.paths)
    split = table["path"].map(lambda path: "test" if path in test else "val" if path in val else "train")
    return {
        name: {
            "images": len(rows),
            "normal": int((rows["label"] == 0).sum()),
            "pneumonia": int((rows["label"] == 1).sum()),
            "patients": int(rows["patient"].nunique()) or None,
        }
        for name in ("train", "val", "test")
        for rows in [table[split == name]]
    }


def _add_costs(result: dict[str, Any], kept: Sequence["Candidate"], latency: bool) -> None:
    from pneumo.comparison import cost
    from pneumo.models import build_model

    runs = {run.run_id: run for run in kept}
    measured: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in [*result["configurations"], *result["optimistic"]]:
        run = runs[row["runs"][0]["run_id"]]
        name, channels = str(run.config.get("model.name")), int(run.config.get("model.in_channels", 3))
        size = int(run.config.get("data.image_size", 224))
        mark = (name, channels, size)
        if mark not in measured:
            try:
                model = build_model(name, in_channels=channels)
                measured[mark] = cost.measure(model, channels, size, latency)
            except UserError:  # a model of another version
                measured[mark] = {}
        logged = [runs[r["run_id"]].about["measured"] for r in row["runs"]]
        row["cost"] = {
            **measured[mark],
            "image_size": size,
            "weights_bytes": run.about["weights_bytes"],
            "device": run.about["device"],
            "images_per_s": _mean(logged, "time/images_per_s"),
            "epoch_s": _mean(logged, "time/epoch_s"),
            "peak_memory_mib": _mean(logged, "memory/peak_mib"),
        }


def _mean(entries: Sequence[dict[str, float]], key: str) -> float | None:
    values = [entry[key] for entry in entries if key in entry]
    return sum(values) / len(values) if values else None


def _pictures(mistakes: Sequence[dict[str, Any]], root: Path | None) -> dict[str, str]:
    """The mistakes' images as small JPEG data URIs, by path; none where they are not at hand."""
    if root is None:
        return {}
    from PIL import Image

    from pneumo.data import images

    found = {}
    for entry in mistakes:
        path = root / entry["path"]
        if not path.resolve().is_relative_to(root.resolve()):  # a path in a CSV that leads elsewhere
            continue
        try:
            picture = Image.fromarray(images.read(path))
        except images.BadImage:
            continue
        picture.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
        page = io.BytesIO()
        picture.save(page, format="JPEG", quality=80)
        found[entry["path"]] = "data:image/jpeg;base64," + base64.b64encode(page.getvalue()).decode()
    return found


if __name__ == "__main__":
    main()
