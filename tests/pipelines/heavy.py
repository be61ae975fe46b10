"""A model that takes as long as it is told to, on the inference thread."""

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
