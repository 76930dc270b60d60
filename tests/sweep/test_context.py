"""What a train command knows of its sweep."""

from pneumo.sweep import context


def test_a_command_begins_with_nothing_of_the_one_before() -> None:
    first = context.begin()
    first.exit_codes.append(1)
    assert context.current() is first
    second = context.begin()
    assert context.current() is second is not first
    assert (second.sweep, second.tracking, second.sweep_of_job, second.exit_codes) == (None, None, None, [])
