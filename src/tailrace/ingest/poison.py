"""A broker's event that cannot be counted: what a log may say of it, and what only the command prints.

The text of an error quotes what it stumbled over: msgspec the value of an enum and the name of an unknown field, Python
the number that is none. So a log has no such text, only what is known without the event: where it is, of which class
the error is, and which field of the schema it names.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

EVENT_CHARACTERS_MAX: Final = 200
_FIELD: Final = re.compile(r"\$\.([^.\[`]+)")
"""In the path at the end of an error of msgspec: "… - at `$.lines[0].price`"."""


@dataclass(frozen=True, slots=True)
class PoisonEvent:
    """An event that cannot be counted. fault: where it is, and what is wrong with it, for a log: nothing that it holds.

    why: the same, with the text of the error; event: the beginning of it. Both may be somebody's data: not for a log.
    """

    fault: str
    why: str
    event: str = ""

    @classmethod
    def of(cls, error: Exception, where: str, event: str, fields: Collection[str]) -> PoisonEvent:
        """Return what is to be said of an event that raised. fields: of its schema, as they are called in JSON."""
        kind = type(error).__name__
        field = _field_of(error, fields)
        fault = f"{where}: {kind}" if field is None else f"{where}: {kind} at `{field}`"
        return cls(fault, f"{where}: {kind}: {error}", event[:EVENT_CHARACTERS_MAX])

    def __str__(self) -> str:
        return f"{self.why}: {self.event}" if self.event else self.why


def _field_of(error: Exception, fields: Collection[str]) -> str | None:
    """Return the field that an error names, None for none of these: an event may hold what looks like a path."""
    found = _FIELD.search(str(error).rpartition(" - at ")[2])
    return found[1] if found is not None and found[1] in fields else None
