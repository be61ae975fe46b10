from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import tailrace as tr
from tailrace.batch import Batch, Degraded
from tailrace.compile.compiler import compile_plan
from tailrace.compile.samples import Samples
from tailrace.engine import answer, drive
from tailrace.errors import CompileError, Problem
from tailrace.features.stores.memory import MemoryStore
from tailrace.inference.declaration import Constant, Model
from tailrace.pipeline import Pipeline
from tailrace.plan import Plan

PipelineOf = Callable[[str], Pipeline]


class Story(tr.Response):
    decision: str
    score: float
    probabilities: list[float]


class Scores(tr.Response):
    score: list[float]


def told_without_models(plan: Plan, rows: int = 4) -> tuple[list[Any], Batch]:
    """Return what callers are told when every model of a plan is out, and their batch."""
    stage: Any = plan.inference.stage
    scorer: Any = stage._scorer
    while hasattr(scorer, "fallback"):
        scorer._predict = lambda feeds: np.full((len(next(iter(feeds.values()))), 3), np.nan, np.float32)
        scorer = scorer.fallback
    samples = Samples(plan)
    batch = samples.batch([samples.request(seed) for seed in range(rows)], 0, 10**18)
    drive(answer(plan, batch, lambda: 0))
    assert not batch.errors
    return [json.loads(body) for body in batch.bodies], batch


FALLBACKS: dict[str, Callable[[Constant], Model]] = {
    "constant": lambda constant: tr.Model("topics", fallback=constant),
    "second model": lambda constant: tr.Model("topics", fallback=tr.Model("topics", fallback=constant)),
}

ANSWERS: list[tuple[tuple[str, ...], Any, str, list[float]]] = [
    # the names given to tr.labels, the constant, then: the decision, the probabilities
    ((), "1", "1", [0, 1, 0]),
    ((), "0", "0", [1, 0, 0]),
    (("news", "sport", "other"), "other", "other", [0, 0, 1]),
    (("news", "sport", "other"), "news", "news", [1, 0, 0]),
    ((), [0.2, 0.5, 0.3], "1", [0.2, 0.5, 0.3]),
    (("news", "sport", "other"), [0.1, 0.1, 0.8], "other", [0.1, 0.1, 0.8]),
]


@pytest.mark.parametrize("behind", FALLBACKS)
@pytest.mark.parametrize(("names", "value", "decision", "row"), ANSWERS)
def test_constant_of_many_classes_decides_as_declared(
    names: tuple[str, ...], value: Any, decision: str, row: list[float], behind: str, pipeline_of: PipelineOf
) -> None:
    """With the models out every caller is told that class, its probability and the row of them."""
    model = FALLBACKS[behind](tr.Constant(value))
    pipeline = replace(pipeline_of("topics"), model=model, decision=tr.labels(*names), response=Story)
    told, batch = told_without_models(compile_plan(pipeline, MemoryStore()))
    assert told == [{"decision": decision, "score": max(row), "probabilities": row}] * 4
    assert batch.degraded is not None
    assert batch.degraded.tolist() == [int(Degraded.MODEL_ERROR)] * 4


def test_constant_of_scores_without_a_decision_is_by_the_models_classes(pipeline_of: PipelineOf) -> None:
    """A pipeline that decides nothing tells the row; its labels are the model's own."""
    model = tr.Model("topics", fallback=tr.Constant("1"))
    pipeline = replace(pipeline_of("topics"), model=model, decision=None, response=Scores)
    told, _ = told_without_models(compile_plan(pipeline, MemoryStore()))
    assert told == [{"score": [0, 1, 0]}] * 4


MISTAKES: dict[str, tuple[str, tuple[str, ...] | None, Any, str, str]] = {
    # pipeline, the names given to tr.labels (None: its own decision), the constant, then parts of: what, next
    "number": ("topics", None, 0.5, "one score, 0.5, for a model of 3 classes", 'tr.Constant("news")'),
    "unknown label": ("topics", None, "sports", "'sports' is no class", "did you mean 'sport'?"),
    "label of no likeness": ("topics", None, "finance", "'finance' is no class", "known are news, sport, other"),
    "replaced name": ("topics", ("a", "b", "c"), "1", "'1' is the model's name of a class", "'b'"),
    "the model's own names": ("topics", (), "news", "'news' is no class", "known are 0, 1, 2"),
    "short list": ("topics", None, [0.5, 0.5], "2 numbers for a model of 3 classes", "news, sport, other"),
    "long list": ("topics", None, [0.1] * 4, "4 numbers for a model of 3 classes", "news, sport, other"),
    "label for a score": ("log", None, "high", "'high' for a model of one score", "tr.Constant(0.5)"),
    "list for a score": ("log", None, [0.5, 0.5], "[0.5, 0.5] for a model of one score", "tr.Constant(0.5)"),
    "list of one for a score": ("log", None, [0.5], "[0.5] for a model of one score", "tr.Constant(0.5)"),
}


def the_problem(pipeline: Pipeline) -> Problem:
    """Return the one mistake that the compiler finds in a pipeline."""
    with pytest.raises(CompileError) as caught:
        compile_plan(pipeline, MemoryStore())
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize("case", MISTAKES)
def test_constant_that_is_not_the_models_is_told(case: str, pipeline_of: PipelineOf) -> None:
    """What is wrong, at which model, and what to write: when compiled, not when the model is out."""
    name, names, value, what, next_step = MISTAKES[case]
    pipeline = pipeline_of(name)
    if names is not None:
        pipeline = replace(pipeline, decision=tr.labels(*names), response=Story)
    for model in (tr.Model(name, fallback=tr.Constant(value)),
                  tr.Model(name, fallback=tr.Model(name, fallback=tr.Constant(value)))):  # fmt: skip
        problem = the_problem(replace(pipeline, model=model))
        assert what in problem.what
        assert problem.where == f"model {name!r}, its fallback"
        assert next_step in problem.next
