"""How a batch view is called in Feast, where its rows are read from Feast's online store. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

KEY_TYPES: Final = ("", "int32", "int64", "string")


@dataclass(frozen=True, slots=True)
class FeastView:
    """A feature view of Feast.

    name: Feast's name of the view. join_key: of its one entity. key_type: of the entity's ids in Feast: "int32",
    "int64" or "string"; "" takes int64 for an int and string for a text. features: Feast's name of a view's column,
    where they differ.
    """

    name: str
    join_key: str
    key_type: str = field(default="", kw_only=True)
    features: Mapping[str, str] = field(default_factory=dict, kw_only=True, hash=False)

    def feature(self, column: str) -> str:
        """Return Feast's name of a view's column."""
        return self.features.get(column, column)
