"""pneumo from Python, for notebooks and scripts."""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pneumo.comparison import content, page, prediction_tables
from pneumo.comparison.result import MARGIN, RANK_BY
from pneumo.comparison.words import answer, score_words
from pneumo.evaluation.statistics import DRAWS

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True, kw_only=True)
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
