"""The response type: what a caller gets. Only the fields it names are computed and sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import msgspec

_CODES: Final = {"float32": "<f4", "float16": "<f2"}


class Response(msgspec.Struct, frozen=True, gc=False):
    """Base of response types. A field is filled by its name.

    `score`, `decision`, `reasons` (the codes of the rules that held), `probabilities` (of a classifier) come from the
    pipeline; any other name is a field of the request, an on-demand feature or a view's column. In a pipeline whose
    request expands to many rows, a field of a row's value is a list. `Annotated[bytes, tr.Embedding()]` is the vector
    of a model that gives one, whatever the field's name.
    """


@dataclass(frozen=True, slots=True)
class Embedding:
    """Marks the response field that carries the model's vector, for a model packaged with `--embedding`.

    `Annotated[list[float], tr.Embedding()]`: a list of numbers. `Annotated[bytes, tr.Embedding()]`: its numbers one
    after the other, little-endian, which stand in JSON as base64. dtype: "float32" or "float16", of half the size and
    three digits; a number beyond float16 is its largest. Raises ValueError for another dtype.
    """

    dtype: Literal["float32", "float16"] = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in _CODES:
            raise ValueError(f"Embedding({self.dtype!r}): the dtype of a vector is 'float32' or 'float16'")

    @property
    def code(self) -> str:
        """NumPy's name of the dtype."""
        return _CODES[self.dtype]
