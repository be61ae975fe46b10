"""A packaged model on disk: files, and the `manifest.json` that says what they are and how the model must behave.

A file is the model in the form that one backend computes: `model.onnx`; `trees.msgpack`, the same trees as tables; or
the form of the library that trained it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError
from tailrace.inference.signature import Signature

FORMAT_VERSION: Final = 2
MODEL_FILE: Final = "model.onnx"
LIGHTGBM_FILE: Final = "model.lightgbm.txt"
XGBOOST_FILE: Final = "model.ubj"
CATBOOST_FILE: Final = "model.cbm"
SKLEARN_FILE: Final = "model.skops"
PYTORCH_FILE: Final = "model.pt2"
MANIFEST_FILE: Final = "manifest.json"
CALIBRATION_FILE: Final = "calibration.json"
FOREST_FILE: Final = "forest.msgpack"
TREES_FILE: Final = "trees.msgpack"
EXPLAIN_LIGHTGBM: Final = "explain.lightgbm.txt"
EXPLAIN_XGBOOST: Final = "explain.ubj"
EXPLAIN_CATBOOST: Final = "explain.cbm"
EXPLAIN_FILES: Final = frozenset({EXPLAIN_LIGHTGBM, EXPLAIN_XGBOOST, EXPLAIN_CATBOOST})
VERSION_CHARACTERS: Final = 12
THREADS_MAX: Final = 256
REPACKAGE: Final = "write the model directory again with `tailrace package`"

Cell = float | int | str | bool | None
Category = float | int | str | bool


class ModelSource(msgspec.Struct, frozen=True):
    """What the model was converted from, or is kept as.

    framework: "lightgbm", "xgboost", "catboost", "scikit-learn", "pytorch" or "none" (given as ONNX).
    """

    framework: str
    version: str
    model_type: str
    difference_max: float | None = None
    """The largest difference between the original's scores and the ONNX scores at packaging; None without original."""
    rows_compared: int = 0
    rewrite: str = ""
    """The form that the graph was rewritten to for speed; empty where it was left as converted."""
    missing: bool = True
    """Whether a row with NaN gets the original's score. Where it does not, it gets none: its score is NaN."""
    unfilled: tuple[str, ...] = ()
    """The inputs in which a NaN does not get the original's score; a row with NaN in another one gets it."""


class NumberProfile(msgspec.Struct, frozen=True, tag="number"):
    """The distribution of one numeric column.

    edges: quantile edges, ascending, without repeats; counts: values in each (edges[i], edges[i+1]], the first closed
    on both sides, so that len(counts) == len(edges) - 1 and sum(counts) == count.
    count: values that are not null; nulls: null or NaN values.
    """

    count: int
    nulls: int
    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    sums: tuple[float, ...] = ()
    """Of the values of each bin; empty in older manifests, where they are taken to lie as the mean of all has it."""


class TextProfile(msgspec.Struct, frozen=True, tag="text"):
    """The distribution of one text column. top: the most frequent values with their counts; others: the rest's sum."""

    count: int
    nulls: int
    distinct: int
    top: tuple[tuple[str, int], ...]
    others: int


class Profile(msgspec.Struct, frozen=True):
    """The reference that drift is measured against: every input feature, and the scores (one entry a class).

    confidence: the probability of the likelier class; None where scores are none, and in older manifests.
    """

    rows: int
    features: dict[str, NumberProfile | TextProfile]
    scores: tuple[NumberProfile, ...]
    confidence: NumberProfile | None = None


class Golden(msgspec.Struct, frozen=True):
    """Rows whose scores are known. inputs: for each input tensor its rows; a null stands for NaN.

    scores: one list a row: one score, or one a class, before the calibration where there is one. rounding: how far a
    score may be from it beyond what is allowed to all, where numbers are shorter than float32: another processor may
    round one of them otherwise.
    """

    inputs: dict[str, list[list[Cell]]]
    scores: list[list[float]]
    rounding: float = 0.0

    def feeds(self, signature: Signature) -> dict[str, NDArray[Any]]:
        """Return the golden rows as the arrays that the model takes."""
        return {spec.name: to_array(self.inputs[spec.name], spec.dtype, spec.numpy_dtype) for spec in signature.inputs}


class Vocabulary(msgspec.Struct, frozen=True):
    """The categories that an encoder inside the model knows in one feature.

    others: how many more it knows than are named. null: whether a null is one of them. refuses: whether a row of any
    other category gets no score; else it is encoded as one that was not seen.
    """

    categories: tuple[Category, ...]
    others: int = 0
    null: bool = False
    refuses: bool = False


class BackendTimes(msgspec.Struct, frozen=True):
    """What a call takes, the median, by each backend and at each number of rows.

    Raises ValueError unless there is a time above zero by each for each, and one number at least.
    """

    rows: tuple[int, ...]
    ns: dict[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        if not self.rows or any(len(times) != len(self.rows) for times in self.ns.values()):
            raise ValueError("backend times: one time by each backend is needed for each number of rows")
        if any(value <= 0 for times in (self.rows, *self.ns.values()) for value in times):
            raise ValueError("backend times: they must be above zero")


class SessionSettings(msgspec.Struct, frozen=True):
    """How ONNX Runtime computes the graph.

    threads: for one call; one is best for the small batches of a worker that owns a core. arena: whether memory is kept
    for the next call; most graphs are no faster with it, and it never gives back a large batch. level: how far the
    graph is optimised when it is loaded. gpu_bytes_max: of a GPU's memory that it may take there, 0 for no limit.
    """

    threads: int = 1
    arena: bool = False
    level: Literal["none", "basic", "extended", "all"] = "all"
    gpu_bytes_max: int = 0

    def __post_init__(self) -> None:
        if self.gpu_bytes_max < 0:
            raise ValueError(f"session settings: {self.gpu_bytes_max} bytes of a GPU's memory")
        if not 1 <= self.threads <= THREADS_MAX:
            raise ValueError(f"session settings: {self.threads} threads, not 1 to {THREADS_MAX}")


class Optimisation(msgspec.Struct, frozen=True, kw_only=True):
    """How a model was made from another one by `tailrace optimize`.

    parent, parent_version: the model it was made from. recipe: what was done to it. backend: that it was measured with.
    data_sha256: of the file that judged it. rows: that judged. metric: its name; before and after: the parent's and its
    own; loss_low, loss_high: between which it is truly worse by, 95% each; absent in older ones.
    difference_max: between a score of both. speedup: of a call of `batch` rows, against ONNX Runtime on the
    parent, with the bounds of its median at 95%.
    """

    parent: str
    parent_version: str
    recipe: str
    backend: str
    data_sha256: str
    rows: int
    metric: str
    before: float
    after: float
    difference_max: float
    batch: int
    speedup: float
    speedup_low: float
    speedup_high: float
    loss_low: float | None = None
    loss_high: float | None = None


class Manifest(msgspec.Struct, frozen=True):
    """All that is known of a packaged model. created: RFC 3339, UTC.

    files: the sha256, in hex, of each file beside the manifest. reasons: why a backend, by its name, has no file here.
    times: measured where it was packaged; None where they were not. vocabularies: of the features that are categories.
    optimised: how it was made, where another model was optimised.
    """

    format: int
    name: str
    created: str
    signature: Signature
    files: dict[str, str]
    source: ModelSource
    metrics: dict[str, float | int | str]
    profile: Profile
    golden: Golden
    reasons: dict[str, str] = {}
    times: BackendTimes | None = None
    session: SessionSettings = SessionSettings()
    optimised: Optimisation | None = None
    vocabularies: dict[str, Vocabulary] = {}
    trusted: tuple[str, ...] = ()
    """The types in `model.skops` that skops does not know. It is loaded with no other, nor with all that stand here."""

    @property
    def version(self) -> str:
        """The first characters of the digest of all files: equal where the files are."""
        content = "".join(f"{sha256} {name}\n" for name, sha256 in sorted(self.files.items()))
        return hashlib.sha256(content.encode()).hexdigest()[:VERSION_CHARACTERS]


class _Header(msgspec.Struct):
    format: int


def to_array(rows: list[list[Cell]], dtype: str, numpy_dtype: np.dtype[np.generic]) -> NDArray[Any]:
    """Return cells as one array; None becomes NaN in a float array and "" in a text array."""
    if dtype in {"float32", "float64"}:
        rows = [[float("nan") if cell is None else cell for cell in row] for row in rows]
    elif dtype == "string":
        rows = [["" if cell is None else cell for cell in row] for row in rows]
    return np.ascontiguousarray(np.array(rows, numpy_dtype))


def decode_manifest(path: Path) -> Manifest:
    """Return the manifest in a file. Raises ModelPackageError when it is not one of this format version."""
    text = path.read_bytes()
    try:
        header = msgspec.json.decode(text, type=_Header)
        if header.format != FORMAT_VERSION:
            raise ModelPackageError(
                f"the manifest has format {header.format}; this Tailrace reads format {FORMAT_VERSION}",
                where=str(path),
                next=f"{REPACKAGE} of this Tailrace, or serve it with the Tailrace that wrote it",
            )
        manifest = msgspec.json.decode(text, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelPackageError(f"the manifest cannot be read: {error}", where=str(path), next=REPACKAGE) from error
    _check_names(manifest, path)
    _check_golden(manifest, path)
    return manifest


def encode_manifest(manifest: Manifest) -> bytes:
    """Return a manifest as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def _check_names(manifest: Manifest, path: Path) -> None:
    """Raise ModelPackageError unless there are files, and each is one of the directory's own."""
    strange = [name for name in manifest.files if name in {"", ".", "..", MANIFEST_FILE} or set(name) & {"/", "\0"}]
    if strange or not manifest.files:
        what = f"the manifest names {strange[0]!r} as a file of the model" if strange else "the manifest names no file"
        raise ModelPackageError(what, where=str(path), next=REPACKAGE)


def _check_golden(manifest: Manifest, path: Path) -> None:
    """Raise ModelPackageError unless the golden rows fit the signature."""
    golden, signature = manifest.golden, manifest.signature
    rows = len(golden.scores)
    fits = rows > 0 and all(
        len(golden.inputs.get(spec.name, ())) == rows
        and all(len(row) == spec.width for row in golden.inputs[spec.name])
        for spec in signature.inputs
    )
    if not fits:
        raise ModelPackageError("the golden rows do not fit the signature", where=str(path), next=REPACKAGE)
