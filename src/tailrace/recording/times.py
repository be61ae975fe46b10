"""What a server tells of its times: the value of Server-Timing (https://www.w3.org/TR/server-timing/)."""

from __future__ import annotations

from contextlib import suppress


def layers_of(value: bytes) -> dict[str, float]:
    """Return the milliseconds of each layer, by its name; what has none is left out."""
    found: dict[str, float] = {}
    for part in value.decode("latin-1").split(","):
        name, _, told = part.strip().partition(";dur=")
        if told:
            with suppress(ValueError):
                found[name] = float(told)
    return found
