from __future__ import annotations

import pytest

from tailrace.errors import (
    ClientError,
    CompileError,
    OutOfTimeError,
    Problem,
    ServerError,
    ServingError,
    SetupError,
    ShedError,
    TailraceError,
)


def test_error_says_what_where_and_next() -> None:
    """One line for the fault and its place, one for what to do."""
    error = TailraceError("it is cut short", where="models/fraud", next="copy it again")
    assert str(error) == "models/fraud: it is cut short\n    next: copy it again"
    assert str(TailraceError("it is gone")) == "it is gone"


def test_compile_error_tells_every_problem() -> None:
    """The number of mistakes, then each with its place and its remedy."""
    problems = [Problem("is wrong", "features[0]", "mend it"), Problem("is missing", "model", "add it")]
    error = CompileError("fraud", problems)
    assert error.problems == tuple(problems)
    assert str(error) == (
        "pipeline 'fraud' has 2 mistakes:\n"
        "  features[0]: is wrong\n    next: mend it\n"
        "  model: is missing\n    next: add it"
    )
    assert str(CompileError("fraud", problems[:1])).startswith("pipeline 'fraud' has 1 mistake:")


def test_deadline_error_is_not_eaten_by_except_exception() -> None:
    """A user's broad except leaves it alone."""

    def careless() -> None:
        try:
            raise ShedError("late")
        except Exception:  # what the test is about
            pytest.fail("an OutOfTimeError was caught as an Exception")

    with pytest.raises(OutOfTimeError):
        careless()


@pytest.mark.parametrize(
    "pair", [(ClientError, ServerError), (ServingError, SetupError), (ServingError, OutOfTimeError)]
)
def test_branches_of_the_tree_are_apart(pair: tuple[type, type]) -> None:
    """What a caller handles differently shares no branch."""
    one, other = pair
    assert not issubclass(one, other)
    assert not issubclass(other, one)
