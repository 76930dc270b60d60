"""What MLflow's page of a sweep says: its question, its jobs with links, the best of them, and how to go on.

Markdown. A link `run:FINGERPRINT` becomes MLflow's address of that run when it is sent.
"""

from collections.abc import Sequence

from pneumo.names import COMPARISON
from pneumo.sweep import jobs
from pneumo.sweep.jobs import SweepJobRow
from pneumo.tracking.journal import DONE

MOST_JOBS = 30  # MLflow takes 8,000 characters, and each link takes some 120 of them
SHOWN = {"val AUROC": "validation AUROC", "test AUROC": "test AUROC", "test accuracy": "test accuracy"}


def of_sweep(sweep_id: str, question: str | None, command: str, rows: Sequence[SweepJobRow]) -> str:
    """The description of the sweep, with the state of its jobs."""
    parts = [question] if question else []
    if command:
        parts.append(f"    {command}")
    if rows:
        parts += _state(sweep_id, list(rows))
    return "\n\n".join(parts) or f"Sweep {sweep_id}."


def _state(sweep_id: str, rows: list[SweepJobRow]) -> list[str]:
    names = dict(zip([row["key"] for row in rows], jobs.names(rows), strict=True))
    parts = []
    if best := jobs.best(rows):
        parts.append(
            f"Best by validation: **{names[best['key']]}**. `pneumo compare sweep_id={sweep_id}` tests the "
            f"differences. Its page is then [here](run:/{COMPARISON}/index.html)."
        )
    undone = [row for row in rows if row["state"] not in DONE]
    if undone:
        parts.append(
            f"{len(undone)} of {len(rows)} jobs are not done. The same command continues them: "
            "done jobs are skipped, and killed ones go on where they were."
        )
    lines = [f"| job | state | {' | '.join(SHOWN.values())} |", "|---" * (2 + len(SHOWN)) + "|"]
    for row in rows[:MOST_JOBS]:
        name = names[row["key"]].replace("|", "/")
        job = f"[{name}](run:{row['fingerprint']})" if row["fingerprint"] else name
        figures = (row["figures"][column] for column in SHOWN)
        cells = ("" if figure is None else f"{figure:.4f}" for figure in figures)
        lines.append(f"| {job} | {row['state']} | {' | '.join(cells)} |")
    parts.append("\n".join(lines))
    if len(rows) > MOST_JOBS:
        parts.append(f"{len(rows) - MOST_JOBS} more jobs are in [sweep.csv](run:/sweep.csv).")
    return parts
