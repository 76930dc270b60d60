"""The description of a sweep in MLflow: question, jobs with links, the best, and how to go on."""

from pneumo.sweep.jobs import COLUMNS, SweepJobRow
from pneumo.sweep.note import MOST_JOBS, of_sweep


def row(number: int, state: str = "FINISHED", score: float = 0.9) -> SweepJobRow:
    figures = dict.fromkeys(COLUMNS) | ({"test AUROC": score, "epoch": 2} if state == "FINISHED" else {})
    return SweepJobRow(
        key=f"k{number}", number=number, overrides=[f"seed={number}", "model=resnet18"], issue="i",
        fingerprint=f"{number:016x}", state=state, happened="", reason=None, duration_s=1.0,
        score=score if state == "FINISHED" else None,
        rank=score if state == "FINISHED" else float("-inf"), figures=figures,
    )  # fmt: skip


def test_a_sweep_that_begins_shows_its_question_and_command() -> None:
    assert of_sweep("one", "why?", "pneumo train sweep=x", []) == "why?\n\n    pneumo train sweep=x"
    assert of_sweep("one", None, "", []) == "Sweep one."


def test_jobs_have_links_and_the_best_is_named() -> None:
    text = of_sweep("one", None, "", [row(0, score=0.8), row(1, score=0.95)])
    assert "Best by validation: **seed=1**." in text
    assert "| [seed=0](run:0000000000000000) | FINISHED |  | 0.8000 |  |" in text
    assert "not done" not in text and "pneumo compare sweep_id=one" in text


def test_what_failed_and_how_to_go_on() -> None:
    text = of_sweep("one", None, "", [row(0), row(1, "FAILED"), row(2, "stale")])
    assert "2 of 3 jobs are not done. The same command continues them" in text


def test_a_long_sweep_fits_into_a_tag_of_mlflow() -> None:
    text = of_sweep("one", None, "", [row(number) for number in range(500)])
    assert len(text) < 8000 and f"{500 - MOST_JOBS} more jobs are in" in text
