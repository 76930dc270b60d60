"""Tables, numbers and errors as text."""

import math

from pneumo.text import finite, first_line, last_line, table


def test_a_table_is_aligned() -> None:
    rows = [{"run": "a", "score": 0.5, "epoch": 3}, {"run": "long", "score": None, "epoch": 12}]
    assert table(rows).splitlines() == [
        "run    score  epoch",
        "----  ------  -----",
        "a     0.5000      3",
        "long       -     12",
    ]
    assert table([]) == "(no rows)"


def test_json_gets_no_number_that_it_lacks() -> None:
    assert finite({"a": [1.0, math.nan], "b": math.inf, "c": "x"}) == {"a": [1.0, None], "b": None, "c": "x"}


def test_an_error_in_one_line() -> None:
    assert first_line(ValueError("one\ntwo")) == "one" and first_line(ValueError()) == "ValueError"
    assert last_line(ValueError("one")) == "ValueError: one"
    assert last_line(SystemExit(3)) == "sys.exit(3) was called in the run"
