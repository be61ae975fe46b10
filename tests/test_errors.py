from __future__ import annotations

import pickle
from collections.abc import Callable
from copy import copy

import pytest

from tailrace.errors import (
    ClientError,
    CompileError,
    DeadlineExceededError,
    InvalidRequestError,
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


@pytest.mark.parametrize("kind", [OutOfTimeError, ShedError, DeadlineExceededError])
def test_deadline_error_is_an_answer_of_one_call(kind: type[ServingError]) -> None:
    """What is out of time is told as any other serving error is, with a code that lets a caller try again."""
    assert issubclass(kind, ServingError)
    assert issubclass(kind, OutOfTimeError)
    assert kind.status in (503, 504)


@pytest.mark.parametrize(
    "pair",
    [
        (ClientError, ServerError),
        (ServingError, SetupError),
        (ClientError, OutOfTimeError),
        (ServerError, OutOfTimeError),
    ],
)
def test_branches_of_the_tree_are_apart(pair: tuple[type, type]) -> None:
    """What a caller handles differently shares no branch."""
    one, other = pair
    assert not issubclass(one, other)
    assert not issubclass(other, one)


@pytest.mark.parametrize(
    "error",
    [
        ShedError("the queue is long"),
        InvalidRequestError("is no number", where="$.amount", next="send one"),
        CompileError("fraud", [Problem("is wrong", "features[0]", "mend it")]),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("again", [copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copied", "pickled"])
def test_error_can_be_copied(error: TailraceError, again: Callable[[TailraceError], TailraceError]) -> None:
    """A refusal that many calls share is raised as a copy, which is of its kind and says the same."""
    other = again(error)
    assert other is not error
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert vars(other) == vars(error)
