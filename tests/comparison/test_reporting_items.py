"""Which items of the guidelines the software answers, and with what."""

from support.comparison_runs import candidate, candidates, finished

from pneumo.comparison import sections
from pneumo.comparison.content import Comparison
from pneumo.comparison.reporting_items import ARTIFACTS, CLAIM, STARD, TRIPOD, Evidence, Item, items

# How many parts an item has, where there are several: TRIPOD+AI 3a to 3c, ...
TRIPOD_PARTS = {3: 3, 5: 2, 6: 3, 8: 3, 9: 3, 12: 7, 18: 6, 20: 3, 23: 2, 27: 3}
STARD_PARTS = {15: 4, 16: 3, 17: 2, 26: 2, 40: 2}


def listed(comparison: Comparison, **evidence: object) -> dict[str, Item]:
    titles = [section.title for section in sections.page(comparison, {}).sections]
    found = items(comparison, Evidence(sections=titles, **evidence))  # type: ignore[arg-type]
    assert len({item.subject for item in found}) == len(found)
    return {f"{name} {one.strip()}": item for item in found for name, numbers in item.numbers.items()
            for one in numbers.split(",")}  # fmt: skip


def where(item: Item) -> list[str]:
    return [f"{pointer.kind} {pointer.name}" for pointer in item.pointers]


def numbers(count: int, parts: dict[int, int]) -> list[str]:
    return [
        f"{number}{letter}"
        for number in range(1, count + 1)
        for letter in ("abcdefg"[: parts[number]] if number in parts else [""])
    ]


def test_every_item_of_the_guidelines_is_listed_once() -> None:
    found = items(finished([candidate()]), Evidence(sections=[]))
    for guideline, expected in (
        (CLAIM, numbers(44, {})),
        (TRIPOD, numbers(27, TRIPOD_PARTS)),
        (STARD, numbers(40, STARD_PARTS)),
    ):
        given = [one.strip() for item in found for one in item.numbers.get(guideline, "").split(",") if one]
        assert sorted(given) == sorted(expected), guideline
    assert (len(numbers(27, TRIPOD_PARTS)), len(numbers(40, STARD_PARTS))) == (52, 48)


def test_an_answer_needs_the_data_for_it() -> None:
    one = finished([candidate()])
    full = listed(one)
    assert full["CLAIM 30"].note == "" and full["CLAIM 27"].note == "no ensemble was made"
    assert where(full["CLAIM 35"]) == ["section Data"]
    several = listed(finished(candidates()))
    assert several["CLAIM 30"].note == "up to 2 seeds"
    assert where(several["CLAIM 27"]) == ["section Ensembles"]
    assert "section Pairs" in where(several["CLAIM 29"])
    assert "section Pairs" not in where(full["CLAIM 29"])  # one configuration: no pairs
    one["mistakes"] = []
    assert listed(one)["CLAIM 39"].state == "open" and where(several["CLAIM 39"]) == ["section Mistakes"]
    one["splits"], one["test"]["patients"] = None, None
    bare = listed(one)
    assert "section Data" not in where(bare["CLAIM 19"]) and bare["CLAIM 20"].state == "open"


def test_only_what_exists_is_pointed_at() -> None:
    comparison = finished(candidates())
    bare = listed(comparison)
    kinds = {pointer.kind for item in bare.values() for pointer in item.pointers}
    assert kinds == {"section", "key", "commit"}
    full = listed(comparison, artifacts=dict.fromkeys(ARTIFACTS, 4), files=["sbom.json"], figures=["roc"])
    assert "artifact starts.json" in where(full["CLAIM 23"]) and "file sbom.json" in where(full["CLAIM 23"])
    assert "figure roc" in where(full["CLAIM 37"]) and "figure forest" not in where(full["CLAIM 37"])
    assert full["CLAIM 23"].state == "answered" and bare["CLAIM 23"].state == "in part"
    assert full["STARD-AI 40b"].state == "answered" and bare["STARD-AI 40b"].state == "open"


def test_scores_on_another_set_answer_the_external_items() -> None:
    comparison = finished(candidates(), external=["clinic"])
    name = "external/clinic/scores.json"
    assert listed(comparison)["CLAIM 33"].state == "open"
    full = listed(comparison, artifacts={name: 4})
    assert where(full["CLAIM 33"]) == [f"artifact {name}"] and full["TRIPOD+AI 16"].state == "in part"


def test_predictions_from_elsewhere_claim_nothing_of_their_training() -> None:
    comparison = finished([candidate(protocol="outside"), candidate("resnet50", protocol="outside")])
    found = listed(comparison)
    assert found["CLAIM 20"].state == "open" == found["TRIPOD+AI 24"].state


def test_what_only_people_know_stays_open() -> None:
    full = listed(finished(candidates()), artifacts=dict.fromkeys(ARTIFACTS, 4), files=["data_statement.md"])
    for item in ("CLAIM 11", "CLAIM 15", "CLAIM 44", "TRIPOD+AI 17", "TRIPOD+AI 19", "STARD-AI 6"):
        assert full[item].state == "open", item
    assert full["CLAIM 36"].state == "open"  # the predictions have no columns of age or sex
    assert full["CLAIM 40"].state == "in part" and full["CLAIM 40"].author == "clinical limitations"
