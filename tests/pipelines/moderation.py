"""Moderation: the text of a comment in, the probability of each class out."""

from typing import Annotated, Literal

import tailrace as tr


class Comment(tr.Request):
    comment_id: int
    text: Annotated[str, tr.Field(max_length=10_000)]
    community: Literal["cooking", "chess", "news"]


class Verdict(tr.Response):
    comment_id: int
    decision: Literal["fine", "insult", "spam"]
    probabilities: list[float]


moderation = tr.Pipeline(
    name="moderation",
    request=Comment,
    response=Verdict,
    features=[Comment.text, Comment.community],
    model=tr.Model("moderation", fallback=tr.Constant("fine")),
    decision=tr.labels(),
    budget=tr.Budget("50ms"),
)
