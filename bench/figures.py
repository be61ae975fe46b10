"""The file of figures, build/bench.json: each part replaces its own keys and keeps those of all others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from machine import BenchError

Figures = dict[str, Any]
"""What is measured, as it stands in the file."""


def read_figures(path: Path) -> Figures:
    """Return what the file holds; nothing where there is none. Raises BenchError for one that is not of figures."""
    try:
        figures = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise BenchError(f"{path} is not JSON ({error}): remove it") from None
    if not isinstance(figures, dict):
        raise BenchError(f"{path} holds no object: remove it")
    return figures


def merge_figures(known: Figures, measured: Figures) -> Figures:
    """Return the known figures with the measured ones in their place.

    Two parts may share a group, such as hot_path: its figures are replaced one by one, and each of those whole, so
    that nothing is left of a client that is no longer measured.
    """
    merged = dict(known)
    for name, value in measured.items():
        old = known.get(name)
        merged[name] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def write_figures(figures: Figures, path: Path) -> None:
    """Write the file at once, so that a reader never finds half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(figures, indent=1) + "\n")
    draft.replace(path)
