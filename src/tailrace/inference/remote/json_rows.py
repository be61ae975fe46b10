"""Rows as JSON has them: what the protocols that know nothing but JSON share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.inference.remote.protocol import misshapen, unreadable


def as_instances(tables: Mapping[str, list[Any]]) -> list[Any]:
    """Return columns as rows: a value each where there is one input, else an object of all inputs."""
    if len(tables) == 1:
        return next(iter(tables.values()))
    return [dict(zip(tables, row, strict=True)) for row in zip(*tables.values(), strict=True)]


def pick_output(found: Any, name: str) -> Any:
    """Return one output of several, by row or by column; a model with one gives it without its name."""
    if isinstance(found, dict):
        if name not in found:
            raise misshapen(f"there is no output {name!r}")
        return found[name]
    if isinstance(found, list) and found and isinstance(found[0], dict):
        try:
            return [row[name] for row in found]
        except (KeyError, TypeError):
            raise misshapen(f"a row has no output {name!r}") from None
    return found


def read_json(body: bytes) -> Any:
    """Return what JSON holds. NaN and Infinity are taken as TensorFlow Serving and PyTorch's servers write them."""
    try:
        try:
            return msgspec.json.decode(body)
        except msgspec.DecodeError:
            return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise unreadable(error) from None


def finite_rows(feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_] | None:
    """Return which rows JSON can hold; None where it can hold all of them."""
    fine: NDArray[np.bool_] | None = None
    for tensor in feeds.values():
        if tensor.dtype.kind == "f" and not (finite := np.isfinite(tensor)).all():
            rows = finite.all(axis=1)
            fine = rows if fine is None else fine & rows
    return fine
