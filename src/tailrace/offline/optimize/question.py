"""What an optimisation is asked: the model, the rows, the metric that must be kept, and the budget."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final, NamedTuple

from tailrace.errors import ModelPackageError
from tailrace.inference.model_directory import file_sha256, read_manifest
from tailrace.offline.optimize.processes import Limits
from tailrace.release.original import load_original
from tailrace.release.shelf import digest_of
from tailrace.release.table import feature_columns, read_table
from tailrace.version import VERSION

BATCHES: Final = (1, 16, 64)


class Asked(NamedTuple):
    """What `optimize` is asked.

    tolerance: how much worse the metric may be. budget_ns: of the p99 of a call of the first of `batches`.
    target: the column of outcomes; None takes the only column that is no feature. threads: that a call may take in
    serving. score_change: how far a score may move; None for any distance. seconds: of measuring, a candidate.
    limits: of each process. allow_pickle: the model's file may be one, which runs whatever code it holds.
    only: what is tried beside the model as packaged, by name but for the bits: no settings, no trees; empty for all.
    """

    model: Path
    data: Path
    metric: str
    tolerance: float
    budget_ns: int
    target: str | None = None
    batches: tuple[int, ...] = BATCHES
    threads: int = 1
    score_change: float | None = None
    seconds: float = 3.0
    limits: Limits = Limits()
    allow_pickle: bool = False
    only: tuple[str, ...] = ()


def check_numbers(asked: Asked) -> None:
    """Raise ModelPackageError for numbers that ask for nothing."""
    problems = [
        (not asked.batches or min(asked.batches) < 1, "--batches", "a batch has one row at least"),
        (not asked.tolerance >= 0, "--tolerance", "the tolerance is how much worse the metric may be: 0 or more"),
        (asked.threads < 1, "--threads", "a call takes one thread at least"),
        (not asked.seconds > 0, "--seconds", "a candidate is measured for some seconds"),
    ]
    for wrong, where, what in problems:
        if wrong:
            raise ModelPackageError(what, where=where, next="give another number")


def read_data(asked: Asked) -> tuple[Any, str]:
    """Return the data with features and target, and the target. Raises ModelPackageError where it is not clear."""
    table = read_table(asked.data)
    features = _features(asked)
    others = [name for name in table.column_names if features and name not in features and not _is_index(name)]
    target = asked.target or (others[0] if len(others) == 1 else None)
    if target is None:
        what = f"{len(others)} columns are no features" if features else "an ONNX file does not name its features"
        shown = ", ".join(others[:8] or table.column_names[:8])
        raise ModelPackageError(
            f"which column holds the outcomes? {what}", where="--target", next=f"give one of {shown}"
        )  # fmt: skip
    if target not in table.column_names:
        raise ModelPackageError(
            f"the data has no column {target!r}", where="--target", next="name a column of the data"
        )
    return feature_columns(table, target), target


def _is_index(name: str) -> bool:
    """Return whether a column is the index of a pandas DataFrame, which goes into its Parquet file unasked."""
    return name.startswith("__index_level_")


def _features(asked: Asked) -> tuple[str, ...]:
    """Return the names of a model's features; none for an ONNX file."""
    if asked.model.is_dir():
        return read_manifest(asked.model).signature.feature_names
    return load_original(asked.model, allow_pickle=asked.allow_pickle).features or ()


def key_of(asked: Asked, target: str) -> str:
    """Return what changes with everything that a trial depends on."""
    import onnxruntime

    if asked.model.is_dir():
        content: Any = read_manifest(asked.model).files
    else:
        content = file_sha256(asked.model)
    return digest_of([
        content, file_sha256(asked.data), target, asked.metric, asked.tolerance, asked.batches, asked.seconds, VERSION,
        asked.only,
        onnxruntime.__version__, os.cpu_count(), os.uname().nodename,
    ])  # fmt: skip
