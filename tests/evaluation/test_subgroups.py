"""The groups that a column makes, as a user would sort the images by hand."""

import pytest

from pneumo import UserError
from pneumo.evaluation.subgroups import NOT_KNOWN, Column, columns_of, crossed, groups_of, ordered, parse_by


def test_ages_are_put_into_decades_and_children_are_separate() -> None:
    ages = [
        "0",
        "017Y",
        "17.9",
        "18",
        "029Y",
        "30",
        "036Y",
        "36.0",
        "089Y",
        "90",
        "101",
        "006M",
        "90+",
        ">89",
    ]
    assert groups_of("Patient Age", ages) == [
        *("under 18", "under 18", "under 18", "18-29", "18-29", "30-39", "30-39", "30-39", "80-89"),
        *("90 and over", "90 and over", "under 18", "90 and over", "90 and over"),
    ]


def test_an_empty_value_and_an_impossible_age_are_not_known() -> None:
    assert groups_of("age", ["", " ", "nan", "412", "-1", "40"]) == [NOT_KNOWN] * 5 + ["40-49"]
    assert groups_of("sex", ["F", "", "Unknown", " M "]) == ["F", NOT_KNOWN, NOT_KNOWN, "M"]


def test_given_cuts_replace_decades() -> None:
    ages = ["17", "18", "39", "40", "64", "65", "90"]
    assert groups_of("age", ages, (18, 40, 65)) == [
        *("under 18", "18-39", "18-39", "40-64", "40-64", "65 and over", "65 and over"),
    ]
    assert groups_of("dose", ["0.1", "0.5", "1.9", "2"], (0.5, 2)) == [
        *("under 0.5", "0.5 to under 2", "0.5 to under 2", "2 and over"),
    ]


def test_other_numbers_are_put_into_quartiles_and_few_values_stay() -> None:
    values = [str(number) for number in range(1, 13)]
    groups = groups_of("weight", values)
    assert [groups.count(group) for group in ordered(groups)] == [3, 3, 3, 3]
    assert ordered(groups) == ["up to 3", "over 3 to 6", "over 6 to 9", "over 9"]
    assert groups_of("site", ["1", "2", "10", "2"]) == ["1", "2", "10", "2"]
    many_equal = groups_of("weight", [*values, *["12"] * 100])
    assert ordered(many_equal) == ["up to 11", "over 11"]


def test_an_age_column_of_words_stays_as_it_is() -> None:
    assert groups_of("age", ["adult", "child", ""]) == ["adult", "child", NOT_KNOWN]


@pytest.mark.parametrize(
    ("name", "values", "cuts", "expected"),
    [
        ("city", [f"c{number}" for number in range(21)], None, "column city has 21 groups, and 20 are the"),
        ("age", ["40", "forty"], None, "column age has 'forty', which is not an age in years"),
        ("sex", ["F", "M"], (18,), "column sex has 'F', which is not a number"),
    ],
)
def test_a_column_that_makes_no_groups_is_refused_by_name(
    name: str, values: list[str], cuts: tuple[float, ...] | None, expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        groups_of(name, values, cuts)


def test_groups_are_in_order_and_not_known_is_last() -> None:
    groups = ["90 and over", NOT_KNOWN, "under 18", "18-29", "30-39"]
    assert ordered(groups) == ["under 18", "18-29", "30-39", "90 and over", NOT_KNOWN]
    assert ordered(["M, 18-29", "F, 30-39", "F, under 18", "F, 18-29"]) == [
        *("F, under 18", "F, 18-29", "F, 30-39", "M, 18-29"),
    ]
    assert ordered(["over 20 to 31", "over 31", "up to 12.5", "over 12.5 to 20"]) == [
        *("up to 12.5", "over 12.5 to 20", "over 20 to 31", "over 31"),
    ]


def test_an_item_of_by_names_a_column_cuts_or_two_columns() -> None:
    assert parse_by("sex") == (Column("sex"),)
    assert parse_by("age:18:40:65") == (Column("age", (18.0, 40.0, 65.0)),)
    assert parse_by("sex*age:18") == (Column("sex"), Column("age", (18.0,)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "by= names no column"),
        ("sex*", "by=sex\\* names no column"),
        ("age:18:old", "the cut old is not a number"),
        ("age:", "the cut \\(empty\\) is not a number"),
        ("age:40:18", "the cuts do not rise"),
        ("age:18:18", "the cuts do not rise"),
        ("a*b*c", "crosses 3 columns"),
    ],
)
def test_a_mistake_in_by_is_named(text: str, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        parse_by(text)


def test_an_intersection_has_the_groups_of_both_columns() -> None:
    assert crossed("sex*age", ["F", "M", NOT_KNOWN], ["30-39", NOT_KNOWN, "18-29"]) == [
        *("F, 30-39", NOT_KNOWN, NOT_KNOWN),
    ]
    first = [f"a{number}" for number in range(5)] * 5
    second = [f"b{number // 5}" for number in range(25)]
    with pytest.raises(UserError, match=r"column a\*b has 25 groups"):
        crossed("a*b", first, second)


def test_columns_are_found_as_people_name_them() -> None:
    table = {"Patient Gender": ["F", "M"], "Patient Age": ["020Y", "050Y"], "a:b": ["x", "y"]}
    found = columns_of(["sex", "age:40", "sex*patient_age", "a:b"], table)
    assert found == {
        "Patient Gender": ["F", "M"],
        "Patient Age": ["under 40", "40 and over"],
        "Patient Gender*Patient Age": ["F, 18-29", "M, 50-59"],
        "a:b": ["x", "y"],
    }
    assert columns_of("sex", table) == {"Patient Gender": ["F", "M"]}


@pytest.mark.parametrize(
    ("by", "table", "expected"),
    [
        (["race"], {"sex": ["F"], "age": ["3"]}, "the column race is not known; the columns are sex, age"),
        (["sex"], {}, "the images have no columns of subgroups; data.columns.subgroups"),
        (["sex", "Sex"], {"sex": ["F"]}, "by=Sex: sex is there twice"),
        (["sex"], {"Sex ": ["F"], "SEX": ["F"]}, "by=sex fits several columns: Sex , SEX"),
    ],
)
def test_an_unknown_column_is_refused_with_those_that_there_are(
    by: list[str], table: dict[str, list[str]], expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        columns_of(by, table)
