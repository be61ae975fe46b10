"""A model that takes as long as it is told to, on the inference thread; and one with another to fall back to."""

from dataclasses import replace

import tailrace as tr


class Job(tr.Request):
    work: float


class Level(tr.Response):
    score: float


heavy = tr.Pipeline(
    name="heavy",
    request=Job,
    response=Level,
    features=[Job.work],
    model=tr.Model("heavy", fallback=tr.Constant(0.25)),
    budget=tr.Budget("400ms", inference="100ms"),
)
second = tr.Model("heavy_second", fallback=tr.Constant(0.25))
heavy_with_second = replace(heavy, name="heavy_with_second", model=tr.Model("heavy", fallback=second))
