"""pneumo from Python, for notebooks and scripts: train, list runs, predict, compare.

Defaults are those of the commands. What a user got wrong raises UserError, whose text says what to do.
"""

import gc
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pneumo import UserError, config
from pneumo.comparison import content, page, prediction_tables
from pneumo.comparison.result import MARGIN, RANK_BY
from pneumo.comparison.words import answer, score_words
from pneumo.config_effects import without_effect
from pneumo.evaluation.predictions import PREFIX
from pneumo.evaluation.statistics import DRAWS
from pneumo.names import FINGERPRINT_TAG, SWEEP_TAG
from pneumo.predict import PredictConfig, load
from pneumo.sweep import context
from pneumo.tracking.courier import read_note
from pneumo.tracking.journal import Journal
from pneumo.tracking.reading import Reader

if TYPE_CHECKING:
    from pneumo.inference.predictor import Predictor

__all__ = ["Comparison", "Model", "Outcome", "UserError", "compare", "fit", "load_model", "runs"]

KEPT = ("best/", "test/")  # metrics of a finished run: those of its chosen epoch
FIXED = ("run_id", "name", "status", "started", "fingerprint", "sweep_id")  # columns of `runs`
NUMBERS = ("probability", "threshold", PREFIX)  # beginnings of numeric columns


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a training ended."""

    state: str  # FINISHED, or PRUNED by a search
    score: float  # validation score of the chosen epoch (trainer.monitor)
    metrics: dict[str, float]  # best/... and test/..., as in MLflow
    folder: Path  # outputs/<fingerprint>; load_model takes it
    run_id: str | None  # MLflow's; None where nothing was sent


def fit(overrides: Sequence[str] = ()) -> Outcome:
    """Train one run as `pneumo train` does, in this process, and wait for its end.

    `overrides` are the words of the command line: `["model=densenet121", "optim.lr=3e-4"]`. A run that is
    done is not trained again; one that was stopped continues. Raises UserError if the run cannot begin or
    fails. A signal raises KeyboardInterrupt when the run's state is saved: the same call continues it.
    """
    from pneumo.run import run  # torch takes seconds
    from pneumo.training.runtime import isolated

    settings = config.compose_typed(overrides)
    for line in without_effect(settings, overrides):
        print(f"note: {line}")
    context.current().data_shown.clear()  # each call prints the notes on its data
    try:
        with isolated():
            ended = run(settings, overrides=list(overrides))
    finally:
        gc.unfreeze()  # `isolated` freezes what the caller holds, too
    if ended.stop_code:
        raise KeyboardInterrupt(ended.reason or "stopped")
    if ended.code or ended.folder is None:
        raise UserError(ended.reason or f"the run ended as {ended.state}.")
    rows = Journal(ended.folder).metric_rows()
    return Outcome(
        state=ended.state,
        score=ended.score,
        metrics={key: value for key, value, _, _ in rows if key.startswith(KEPT)},
        folder=ended.folder,
        run_id=read_note(ended.folder, settings.tracking.uri or "").run_id,
    )


def runs(
    experiment: str = "pneumo", *, sweep_id: str | None = None, tracking_uri: str | None = None
) -> pd.DataFrame:
    """A row for each training run of an experiment in MLflow, the oldest first.

    Columns: run_id, name, status, started, fingerprint, sweep_id, the params by their keys (text), and the
    metrics `best/...` and `test/...`. `sweep_id` selects the jobs of a sweep. Raises UserError where the
    tracker, the experiment or the sweep is missing.
    """
    found = Reader(tracking_uri or config.compose([]).tracking.uri or "").listed(experiment, sweep_id)
    rows = [
        {
            "run_id": run.run_id,
            "name": run.name,
            "status": run.status,
            "started": pd.Timestamp(run.started_ms, unit="ms", tz="UTC"),
            "fingerprint": run.tags[FINGERPRINT_TAG],
            "sweep_id": run.tags.get(SWEEP_TAG),
            **run.params,
            **{key: value for key, value in run.metrics.items() if key.startswith(KEPT)},
        }
        for run in sorted(found.runs + found.unfinished, key=lambda run: run.started_ms)
    ]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=list(FIXED))


class Model:
    """A trained model with its calibration, thresholds and reference of its training images."""

    def __init__(self, predictor: "Predictor", notes: Sequence[str], batch_size: int) -> None:
        self._predictor, self._batch_size = predictor, batch_size
        self.notes = list(notes)  # what to know about its answers

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes or findings."""
        return tuple(self._predictor.bundle.class_names)

    def predict(self, paths: str | Path | Sequence[str | Path]) -> pd.DataFrame:
        """A row for each image of files and folders, with the columns of `pneumo predict`.

        A file that cannot be read has a row with `error`. Raises UserError for a path that does not exist and
        a folder without images.
        """
        from pneumo.inference import inputs, output  # torch takes seconds

        given = [str(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
        for path in given:
            if not Path(path).expanduser().exists():
                raise UserError(f"{path} does not exist: give a file or a folder that does.")
        found = inputs.find_all(given)
        keys = output.columns(self.classes)
        refused = [
            self._predictor.refused(path, "a link that leads out of the folder") for path in found.outside
        ]
        batches = self._predictor.predict(found.files, batch_size=self._batch_size)
        predictions = refused + [prediction for batch in batches for prediction, _ in batch]
        rows: list[dict[str, Any]] = [
            {key: output.cell(value) for key, value in output.row_of(prediction, keys).items()}
            for prediction in predictions
            if not prediction.skipped or prediction.path in found.named
        ]
        table = pd.DataFrame(rows, columns=list(keys))
        numbers = [key for key in keys if key.startswith(NUMBERS)]
        table[numbers] = table[numbers].apply(pd.to_numeric)
        return table

    def __repr__(self) -> str:
        network = self._predictor.bundle.model["name"]
        return f"Model({network}, classes: {', '.join(self.classes)})"


def load_model(
    model: str | Path,
    *,
    device: str = "auto",
    threshold: float | None = None,
    abstain: bool = True,
    prevalence: float | Sequence[float] | None = None,
    coverage: float | None = 0.9,
    tracking_uri: str | None = None,
) -> Model:
    """The model of a run, a model folder or a registered version: what `pneumo predict model=` takes.

    The keywords are keys of `pneumo predict` and mean the same. Raises UserError if there is no such model.
    """
    settings = config.compose([])
    asked = PredictConfig(
        model=str(model),
        ui=True,  # the images are given later
        device=device,
        threshold=threshold,
        abstain=abstain,
        prevalence=list(prevalence) if isinstance(prevalence, Sequence) else prevalence,
        coverage=coverage,
        output_dir=settings.output_dir,
        cache_dir=settings.data.cache_dir,
        tracking=replace(settings.tracking, uri=tracking_uri or settings.tracking.uri),
    )
    return Model(*load(asked), asked.batch_size)


@dataclass(frozen=True, kw_only=True, repr=False)
class Comparison:
    """What a set of predictions allows one to claim."""

    content: content.Comparison  # everything, as in comparison.json

    @property
    def answer(self) -> str:
        """The answer in a sentence or two."""
        return answer(self.content)

    @property
    def scores(self) -> pd.DataFrame:
        """A row for each configuration and score: value, 95 % interval over patients, SD of the seeds."""
        words = score_words(self.content)
        rows = [
            {
                "configuration": row["name"],
                "rank": row["rank"],
                "seeds": len(row["seeds"]),
                "score": words[score],
                **{key: entry[key] for key in ("value", "low", "high", "sd")},
            }
            for row in content.all_rows(self.content)
            for score, entry in row["scores"].items()
        ]
        return pd.DataFrame(rows)

    @property
    def pairs(self) -> pd.DataFrame:
        """A row for each pair and score: the difference with its interval, p after Holm, and the verdict.

        `low`, `high` and `p` are over seeds and patients, or over patients alone where a side has one seed.
        """
        names = {row["id"]: row["name"] for row in content.all_rows(self.content)}
        rows = []
        for pair in self.content["pairs"]:
            for score, entry in pair["scores"].items():
                test = entry["with_seeds"] or entry
                rows.append(
                    {
                        "first": names[pair["first"]],
                        "second": names[pair["second"]],
                        "score": score_words(self.content)[score],
                        "difference": entry["difference"],
                        "low": test["low"],
                        "high": test["high"],
                        "p": test["p_holm"],
                        "over": "seeds and patients" if entry["with_seeds"] else "patients",
                        "verdict": pair["verdicts"].get(score, ""),
                    }
                )
        return pd.DataFrame(rows)

    def write(self, folder: str | Path) -> Path:
        """Write the page, comparison.json, tables and figures into `folder`; returns the page's path."""
        target = Path(folder).expanduser()
        page.write(target, self.content, {})
        return target / "index.html"

    def __repr__(self) -> str:
        return f"Comparison({self.answer!r})"

    def _repr_html_(self) -> str:
        scores = self.scores
        first = scores["score"] == score_words(self.content)[self.content["rank_by"]]
        table = scores[first].drop(columns="score")
        return f"<p>{html.escape(self.answer)}</p>{table.to_html(index=False)}"


def compare(
    predictions: Mapping[str, pd.DataFrame],
    *,
    rank_by: str = RANK_BY,
    margin: float = MARGIN,
    draws: int = DRAWS,
    seed: int = 0,
) -> Comparison:
    """Compare models by their predictions, a table for each model by name.

    A row is an image: `path` or `id`, `label`, and `probability` of class 1 or `p_<class>` for each class;
    optional are `patient`, `model`, `seed` and `split` (test or val). `margin` is the difference in `rank_by`
    that does not matter. Raises UserError for tables that cannot be read or compared.
    """
    runs = prediction_tables.candidates(predictions)
    built = prediction_tables.compare(
        runs, command="pneumo.api.compare(...)", rank_by=rank_by, margin=margin, draws=draws, seed=seed
    )
    return Comparison(content=built)
