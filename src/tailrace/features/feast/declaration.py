"""How a batch view is called in Feast, where its rows are read from Feast's online store. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tailrace.features.keys import KeyFields, fields_of

KEY_TYPES: Final = ("", "int32", "int64", "string")


@dataclass(frozen=True, slots=True)
class FeastView:
    """A feature view of Feast.

    name: Feast's name of the view. join_key: of its entity; of several entities a tuple, in the order of the fields of
    the key of Tailrace's entity. key_type: of the ids in Feast, "int32", "int64" or "string", or a tuple of these; ""
    takes int64 for an int and string for a text. features: Feast's name of a view's column, where they differ.
    """

    name: str
    join_key: KeyFields
    key_type: KeyFields = field(default="", kw_only=True)
    features: Mapping[str, str] = field(default_factory=dict, kw_only=True, hash=False)

    @property
    def join_keys(self) -> tuple[tuple[str, str], ...]:
        """Name and type of each join key. Raises ValueError where there are more of the ones than of the others."""
        names = fields_of(self.join_key)
        types = (self.key_type,) * len(names) if isinstance(self.key_type, str) else self.key_type
        return tuple(zip(names, types, strict=True))

    def feature(self, column: str) -> str:
        """Return Feast's name of a view's column."""
        return self.features.get(column, column)
