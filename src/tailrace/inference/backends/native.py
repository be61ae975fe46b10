"""A model that its own library computes: loaded from the library's file, and held to the golden rows as any other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, NoReturn, Self

import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError
from tailrace.inference.backends.trusted_types import UntrustedTypesError, allowed_types
from tailrace.inference.manifest import REPACKAGE, Manifest
from tailrace.inference.model_directory import read_in_parts, read_manifest
from tailrace.inference.packaged import PackagedModel
from tailrace.inference.predictor import Feeds
from tailrace.inference.signature import Signature

Predict = Callable[[Feeds], NDArray[Any]]
"""Takes an array for each input of the signature; returns scores, (rows,) or (rows, classes)."""

_REAL: Final = frozenset({"float32", "float64"})


class NativeModel(PackagedModel):
    """A packaged model that the library computes which trained it.

    file: of the model directory, in the library's own form.
    """

    __slots__ = ("_predict",)

    file: ClassVar[str]

    def __init__(self, predict: Predict, manifest: Manifest) -> None:
        super().__init__(manifest)
        self._predict = predict

    @staticmethod
    @abstractmethod
    def open(content: bytes, signature: Signature, trusted: Sequence[str] = ()) -> Predict:
        """Return what computes the model in a file's content.

        trusted: the types that the file may hold, where its form names types.
        Raises OSError, saying why, where the library is missing or cannot be used; ValueError for a content that is not
        what it should be, before the library reads it.
        """

    @classmethod
    def load(cls, directory: str | Path, trusted: Sequence[str] = ()) -> Self:
        """Return the model of a directory that `tailrace package` wrote.

        trusted: types that the user trusts, beyond those reviewed, where the manifest lists them.
        Raises OSError where the library is missing; ModelPackageError unless the files are whole, and are what they
        should be, and the golden rows get their expected scores.
        """
        directory = Path(directory)
        manifest = read_manifest(directory)
        if cls.file not in manifest.files:
            raise OSError(f"the model directory has no {cls.file}")
        path = directory / cls.file
        try:
            predict = cls.open(read_in_parts(path), manifest.signature, allowed_types(manifest.trusted, trusted))
        except ValueError as error:
            raise ModelPackageError(
                f"the file is not what it should be: {error}",
                where=str(path),
                next=error.next if isinstance(error, UntrustedTypesError) else REPACKAGE,
            ) from error
        model = cls(predict, manifest)
        model.check_golden(path)
        return model

    def predict(self, feeds: Feeds) -> NDArray[Any]:
        """Return the scores: float, shape (rows,), or (rows, classes) where the signature names no column.

        feeds: for each input of the signature an array of its dtype, (rows, features), in C order.
        Raises what the library raises when a row cannot be scored; `Scorer` is the call that does not.
        """
        if self._unfinished:
            return self._finish(self._predict(_known(feeds, self._floats)), feeds)
        return self._predict(feeds)


def matrix_input(signature: Signature) -> tuple[str, np.dtype[Any], int]:
    """Return the name, dtype and width of a model's one matrix of numbers. Raises ValueError where it has another."""
    if len(signature.inputs) != 1 or signature.inputs[0].dtype not in _REAL:
        raise ValueError("it takes one matrix of float32 or float64, the signature is of something else")
    spec = signature.inputs[0]
    return spec.name, spec.numpy_dtype, len(spec.features)


def missing_library(name: str, extra: str) -> NoReturn:
    """Raise OSError: the library of a backend is not installed."""
    raise OSError(f"{name} is not installed: pip install 'tailrace[{extra}]'")


def _known(feeds: Feeds, names: Sequence[str]) -> Feeds:
    """Return feeds with 0 for NaN: a library may refuse a whole batch for one, and these rows get no score anyway."""
    holed = {name: feeds[name] for name in names if np.isnan(feeds[name].sum())}
    return {**feeds, **{name: np.nan_to_num(array, nan=0.0) for name, array in holed.items()}} if holed else feeds
