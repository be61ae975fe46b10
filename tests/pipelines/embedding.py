"""An embedding: a vector in, a vector out, as a list and as bytes."""

from typing import Annotated

import tailrace as tr


class Question(tr.Request):
    words: Annotated[list[float], tr.Field(min_length=4, max_length=4)]
    weight: float = 1.0


class Answer(tr.Response):
    numbers: Annotated[list[float], tr.Embedding()]
    whole: Annotated[bytes, tr.Embedding()]
    half: Annotated[bytes, tr.Embedding("float16")]


embedding = tr.Pipeline(
    name="embedding",
    request=Question,
    response=Answer,
    features=[Question.words, Question.weight],
    model=tr.Model("embedding"),
    budget=tr.Budget("50ms"),
)
