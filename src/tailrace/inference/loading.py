"""A model directory opened with the kernel that was chosen for it."""

from __future__ import annotations

from pathlib import Path

from tailrace.errors import ModelPackageError
from tailrace.inference.bitvector import LIBRARY, BitvectorModel
from tailrace.inference.kernels import BIT_VECTORS, KernelChoice, choose_kernel
from tailrace.inference.manifest import read_while_replaced
from tailrace.inference.onnx import OnnxModel
from tailrace.inference.packaged import PackagedModel


def load_model(directory: str | Path, *, choice: KernelChoice | None = None, library: Path = LIBRARY) -> PackagedModel:
    """Return the model of a directory that `tailrace package` wrote.

    choice: the kernel that computes it; None chooses it now (`choose_kernel`). ONNX Runtime is imported only where it
    computes the model. library: where the compiled bit-vector library is.
    Raises ModelPackageError unless the files are whole, the kernel that was chosen can be used, and the golden rows get
    their expected scores.
    """
    directory = Path(directory)
    return read_while_replaced(directory, lambda: _load(directory, choice, library))


def _load(directory: Path, choice: KernelChoice | None, library: Path) -> PackagedModel:
    """Return the model of a directory as it is now."""
    if choice is None:
        choice = choose_kernel(directory, library=library)
    model = _load_trees(directory, library) if choice.name == BIT_VECTORS else OnnxModel.load(directory)
    model.kernel_reason = choice.reason
    return model


def _load_trees(directory: Path, library: Path) -> PackagedModel:
    try:
        return BitvectorModel.load(directory, library=library)
    except OSError as error:
        raise ModelPackageError(
            f"the kernel chosen for it, {BIT_VECTORS}, cannot compute it: {error}",
            where=str(directory),
            next="put the bit-vector library back (install Tailrace where there is a C compiler), or have the kernel "
            "chosen again: make a new release",
        ) from error
