"""Which subjects of the guidelines the software answers."""

from support.comparison_runs import candidate, candidates, finished

from pneumo.comparison import sections
from pneumo.comparison.content import Comparison
from pneumo.comparison.reporting_items import items


def filled(comparison: Comparison) -> dict[str, str | None]:
    titles = [section.title for section in sections.page(comparison, {}).sections]
    return {item.subject: item.filled for item in items(comparison, titles)}


def test_each_subject_is_named_once_with_its_guidelines() -> None:
    listed = items(finished([candidate()]), [])
    assert len({item.subject for item in listed}) == len(listed) > 30
    assert all(set(item.guidelines.split(", ")) <= {"CLAIM", "TRIPOD+AI", "STARD-AI"} for item in listed)


def test_an_answer_needs_the_data_for_it() -> None:
    one = finished([candidate()])
    full = filled(one)
    assert full["Robustness: several trainings"] is None and full["Ensembles"] == "No ensemble was made"
    assert full["Computing resources"] is None and full["Flow of patients and images"] == "Data"
    several = filled(finished(candidates()))
    assert several["Robustness: several trainings"] == "Up to 2 seeds"
    assert several["Ensembles"] == "Ensembles"
    assert several["Tests for differences, corrected for their number"] == "Pairs"
    assert full["Tests for differences, corrected for their number"] is None  # one configuration: no pairs
    one["mistakes"] = []
    assert filled(one)["Failure analysis"] is None and several["Failure analysis"] == "Mistakes"
    one["splits"], one["test"]["patients"] = None, None
    bare = filled(one)
    assert bare["How data were partitioned, with numbers"] is None
    assert bare["Level at which partitions are disjoint"] is None


def test_what_only_people_know_stays_open() -> None:
    full = filled(finished(candidates()))
    assert full["De-identification; ethics approval; consent"] is None
    assert full["External test data"] is None
