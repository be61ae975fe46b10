"""A model whose score is the logarithm: NaN below zero. Once without a fallback, once with a constant."""

from dataclasses import replace

import tailrace as tr


class Amount(tr.Request):
    amount: float
    label: str = ""


class Score(tr.Response):
    score: float
    decision: str
    label: str


log = tr.Pipeline(
    name="log",
    request=Amount,
    response=Score,
    features=[Amount.amount],
    model=tr.Model("log"),
    decision=tr.bands("score", low=0.0, high=1.0),
    budget=tr.Budget("50ms"),
)
log_with_fallback = replace(log, name="log_with_fallback", model=tr.Model("log", fallback=tr.Constant(0.5)))
