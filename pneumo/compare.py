"""`pneumo compare [tracking.experiment=NAME] [sweep_id=ID]`: what finished runs allow one to say.

`pneumo compare predictions=[A.csv,B.csv]` compares the predictions of any program.
"""

import gc
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pneumo import UserError, config, one_of, places, sbom
from pneumo.names import BAD_IMAGES, CLASS_RANKED_BY, COMPARISON, DOSSIER, EXTERNAL, FIGURES
from pneumo.run_overrides import overrides_of
from pneumo.tracking import pages
from pneumo.tracking.reading import Found, Reader
from pneumo.tracking.settings import TrackingSettings

if TYPE_CHECKING:
    from pandas import DataFrame

    from pneumo.comparison.candidates import Candidate
    from pneumo.comparison.content import Comparison, Result
    from pneumo.comparison.dossier import Records
    from pneumo.comparison.page import Page


@dataclass(kw_only=True)
class Images:
    """Where the images are; null: where the runs found them."""

    root: str | None = None


@dataclass(kw_only=True)
class CompareConfig:
    """One comparison, whole and checked."""

    sweep_id: str | None = None
    predictions: Any = None  # a table, or a list of them
    artifact: str | None = None
    output: str | None = None
    rank_by: str = "auroc"
    margin: float = 0.02
    draws: int = 2000
    seed: int = 0
    latency: bool = True
    dossier: bool = False
    upload: bool = True
    data: Images = field(default_factory=Images)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)

    def __post_init__(self) -> None:
        one_of("rank_by", self.rank_by, CLASS_RANKED_BY)
        if not 0 < self.margin < 1:
            raise UserError(
                f"margin={self.margin} must be between 0 and 1: the difference in {self.rank_by} that does "
                "not matter, for example 0.02."
            )
        if not 50 <= self.draws <= 100_000:
            raise UserError(f"draws={self.draws}: give 50 to 100,000; 2000 is usual.")
        if self.seed < 0:
            raise UserError(f"seed={self.seed} must not be negative.")
        if self.tables and self.sweep_id:
            raise UserError(
                f"predictions={self.tables[0]} and sweep_id={self.sweep_id} both say what to compare; give "
                "one of them."
            )
        from_mlflow = any(name.startswith(MLFLOW) for name in self.tables)
        if from_mlflow and not self.artifact:
            raise UserError(
                f"predictions={self.tables[0]}: which artifact of the runs is the table of predictions? "
                "Give artifact=PATH, for example artifact=predictions.csv."
            )
        if self.artifact and not from_mlflow:
            raise UserError(
                f"artifact={self.artifact} is read with predictions={MLFLOW}EXPERIMENT only; leave it out."
            )

    @property
    def tables(self) -> list[str]:
        """The tables of predictions: files, and experiments of MLflow."""
        given = self.predictions if isinstance(self.predictions, list) else [self.predictions]
        return [str(name) for name in given if name is not None and str(name)]


def main() -> None:
    """Compare what the command line names. The exit code is 0 (done), 1 (failed) or 2 (wrong usage)."""
    # Nearly all that is allocated here lives to the end: looking for cycles took a seventh of the time.
    gc.set_threshold(100_000, 50, 100)

    def show(settings: CompareConfig) -> int:
        print(compare(settings).terminal)
        return 0

    sys.exit(config.run_typed(show, "compare", CompareConfig))


MLFLOW = "mlflow:"  # before the name of an experiment whose runs hold tables of predictions


def compare(settings: CompareConfig) -> "Page":
    """Read the runs, compare them and write the page, also onto the sweep's parent run if there is one."""
    from pneumo.comparison import second_process

    if settings.dossier:
        sbom.check()
    if settings.tables:
        return _compare_tables(settings)
    reader = Reader(settings.tracking.uri or "")
    found = reader.find(settings.tracking.experiment, settings.sweep_id)
    with second_process.start(len(found.runs)) or nullcontext() as process:
        return _compare(settings, reader, found, process)


def _compare(
    settings: CompareConfig, reader: Reader, found: Found, process: ProcessPoolExecutor | None
) -> "Page":
    from threadpoolctl import threadpool_limits

    from pneumo.comparison import candidates, cost, out_of_fold, page, result, second_process

    experiment = settings.tracking.experiment
    readable, unreadable = candidates.read(found, reader)
    pooled, incomplete = out_of_fold.pool(readable, partial(_train_folds, settings))
    runs, others = candidates.sort_out(pooled)
    left_out = unreadable + incomplete + others
    if not runs:
        reasons = "".join(f"\n  {left['run']}: {left['reason']}" for left in left_out)
        raise UserError(
            f"experiment {experiment} has no finished run to compare. Train some first: "
            f"pneumo train --multirun model=resnet18,resnet50 tracking.experiment={experiment}"
            f"{reasons}"
        )
    root = candidates.image_root(runs, settings.data.root)
    about = result.about(runs, experiment=experiment, sweep=settings.sweep_id, command=_command(settings))
    about["runs_at"] = _address(reader.uri, found.experiment_id)
    about["show_runs"] = _show_runs(reader.uri, found.experiment_id, experiment)
    # Where other processes use the other cores, a product of small matrices waits for its second thread:
    # 2,000 draws of the losses took 630 ms with two threads and 5 ms with one.
    with threadpool_limits(limits=1, user_api="blas"):
        built = result.build(
            runs, rank_by=settings.rank_by, margin=settings.margin, draws=settings.draws, seed=settings.seed
        )
    _add_more_seeds(built, runs)
    network_cost = second_process.network_cost(process, settings.latency)
    cost.add([*built["configurations"], *built["optimistic"]], runs, network_cost)
    splits = candidates.split_sizes(runs, root)
    comparison: Comparison = {
        **built,
        "about": about,
        "left_out": left_out,
        "unscored": candidates.unscored(runs),
        "splits": splits,
    }
    folder = Path(settings.output or config.project_dir() / "reports" / _file_name(settings)).expanduser()
    pictures = page.pictures(comparison["mistakes"], root, candidates.phantom(runs))
    written = page.write(folder, comparison, pictures, process)
    written.terminal += f"\nPage: {folder / 'index.html'}"
    if settings.dossier:
        _add_dossier(written, comparison, _records(reader, found, runs))
    if settings.upload and found.parent is not None:
        reader.upload(found.parent, folder, written.files, COMPARISON)
        written.terminal += f" (also on MLflow's run {found.parent.name}, {COMPARISON}/)"
    written.terminal += f"\nRuns: {about['show_runs']}"
    return written


def _compare_tables(settings: CompareConfig) -> "Page":
    """Compare the predictions in tables, which need no run, and write the page."""
    from threadpoolctl import threadpool_limits

    from pneumo.comparison import dossier, page, prediction_tables

    runs = prediction_tables.candidates(_read_tables(settings))
    with threadpool_limits(limits=1, user_api="blas"):  # as for runs
        built = prediction_tables.compare(
            runs,
            command=_command(settings),
            rank_by=settings.rank_by,
            margin=settings.margin,
            draws=settings.draws,
            seed=settings.seed,
        )
    given = settings.data.root
    pictures = page.pictures(built["mistakes"], Path(given).expanduser() if given else None)
    folder = Path(settings.output or config.project_dir() / "reports" / "predictions").expanduser()
    written = page.write(folder, built, pictures)
    written.terminal += f"\nPage: {folder / 'index.html'}"
    if settings.dossier:
        _add_dossier(written, built, dossier.Records(subgroups=dossier.subgroups_of(runs)))
    return written


def _add_dossier(written: "Page", comparison: "Comparison", records: "Records") -> None:
    """Write the files for a paper beside the page, and add them to its files."""
    from pneumo.comparison import dossier

    figures = [name for name in written.files if name.startswith(f"{FIGURES}/")]
    written.files += dossier.write(written.folder, comparison, figures, records, sbom.text())
    written.terminal += f"\nDossier: {written.folder / DOSSIER}"


def _records(reader: Reader, found: Found, runs: "Sequence[Candidate]") -> "Records":
    """What the compared runs keep: of a cross-validation, its folds' runs."""
    from pneumo.comparison import dossier
    from pneumo.comparison.reporting_items import ARTIFACTS

    ids = {part.run_id for run in runs for part in run.parts or [run]}
    compared = [run for run in found.runs if run.run_id in ids]
    names = list(ARTIFACTS)
    outside = {name for run in runs for name in run.external_sets}
    names += [f"{EXTERNAL}/{name}/scores.json" for name in sorted(outside)]
    held = [reader.held(run, names) for run in compared]
    skipped = [run for run, has in zip(compared, held, strict=True) if BAD_IMAGES in has]
    return dossier.Records(
        runs=len(compared),
        artifacts=dict(Counter(name for has in held for name in has)),
        bad_images=sorted({reader.text_of(run, BAD_IMAGES) for run in skipped}),
        subgroups=dossier.subgroups_of(runs),
    )


def _read_tables(settings: CompareConfig) -> "dict[str, DataFrame]":
    """The tables by name: a file's path, or the name of a run of MLflow."""
    from pneumo.data import tables

    found: dict[str, DataFrame] = {}
    for name in settings.tables:
        if not name.startswith(MLFLOW):
            file = Path(name).expanduser()
            if not file.is_file():
                raise UserError(f"predictions={name} is not a file: give tables that exist.")
            found[name] = tables.read(file)
            continue
        experiment, artifact = name.removeprefix(MLFLOW), str(settings.artifact)
        runs = Reader(settings.tracking.uri or "").with_artifact(experiment, artifact)
        if not runs:
            raise UserError(
                f"predictions={name}: no finished run of {experiment} has the artifact {artifact}."
            )
        for run in runs:
            with TemporaryDirectory(prefix="pneumo-") as folder:
                file = Path(folder) / Path(artifact).name
                file.write_text(run.files[artifact], "utf-8", "surrogateescape")
                table = tables.read(file)
            if "model" not in table:
                table["model"] = run.name
            found[f"{run.name}: {artifact}"] = table
    return found


SEEDS = 3  # with three, a comparison can count the chance in training


def _add_more_seeds(built: "Result", runs: "Sequence[Candidate]") -> None:
    """Put the command that adds seeds into the first rows and validation's choice, if they lack some."""
    by_id = {run.run_id: run for run in runs}
    rows, choice = built["configurations"], built["choice"]
    if len(rows) < 2:
        return
    wanted = {"c1", "c2", choice["id"] if choice else "c1"}
    for row in rows:
        if row["id"] not in wanted or len(row["seeds"]) > 1 or by_id[row["runs"][0]["run_id"]].parts:
            continue
        free = [seed for seed in range(SEEDS + 1) if seed not in row["seeds"]][: SEEDS - 1]
        try:
            overrides = overrides_of(by_id[row["runs"][0]["run_id"]].saved)
        except UserError:  # a configuration that this version does not know
            continue
        kept = [shlex.quote(override) for override in overrides if not override.startswith("seed=")]
        seeds = f"seed={','.join(map(str, free))}"
        row["more_seeds"] = " ".join(["pneumo train --multirun", *kept, seeds])


def _train_folds(settings: CompareConfig, saved: dict[str, Any], folds: Sequence[int]) -> str:
    """The command that trains these folds of a saved configuration, where its other folds are."""
    try:
        found = overrides_of(saved)
    except UserError:  # a configuration that this version does not know
        found = []
    kept = [shlex.quote(override) for override in found if not override.startswith("data.fold=")]
    where = [f"tracking.experiment={settings.tracking.experiment}", "keep_best=null"]
    if settings.sweep_id:
        where.append(f"sweep_id={settings.sweep_id}")
    fold = f"data.fold={','.join(map(str, folds))}"
    return " ".join(["pneumo train --multirun", *kept, fold, *where])


UI = "http://127.0.0.1:5000"  # where `pneumo ui` serves a store that is not a server


def _address(uri: str, experiment_id: str) -> str:
    """The address of the experiment's runs in MLflow's pages, up to the run's id."""
    return f"{pages.base(uri) or UI}/#/experiments/{experiment_id}/runs/"


def _show_runs(uri: str, experiment_id: str, experiment: str) -> str:
    """What shows the runs: the server's address, or the command that serves the store."""
    if server := pages.base(uri):
        return server + pages.experiment(experiment_id, saved=True)
    return places.command("ui", uri=uri, **{"tracking.experiment": experiment})


def _command(settings: CompareConfig) -> str:
    if settings.tables:
        listed = shlex.quote(f"predictions=[{','.join(settings.tables)}]")
        artifact = f" artifact={settings.artifact}" if settings.artifact else ""
        return (
            f"pneumo compare {listed}{artifact} rank_by={settings.rank_by} margin={settings.margin:g} "
            f"draws={settings.draws} seed={settings.seed}"
        )
    sweep = f" sweep_id={settings.sweep_id}" if settings.sweep_id else ""
    return (
        f"pneumo compare tracking.experiment={settings.tracking.experiment}{sweep} "
        f"rank_by={settings.rank_by} margin={settings.margin:g} draws={settings.draws} seed={settings.seed}"
    )


def _file_name(settings: CompareConfig) -> str:
    name = settings.tracking.experiment + (f"-{settings.sweep_id}" if settings.sweep_id else "")
    return "".join(sign if sign.isalnum() or sign in "._-" else "_" for sign in name).strip(".") or "_"


if __name__ == "__main__":
    main()
