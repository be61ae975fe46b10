"""A model directory opened with the fastest kernel that gives its golden scores on this machine."""

from __future__ import annotations

from pathlib import Path

from tailrace.errors import ModelPackageError
from tailrace.inference.bitvector import LIBRARY, BitvectorKernel, BitvectorModel, open_library
from tailrace.inference.manifest import REPACKAGE, TREES_FILE, Manifest, read_manifest, read_while_replaced
from tailrace.inference.onnx import OnnxModel
from tailrace.inference.packaged import PackagedModel
from tailrace.inference.tree_tables import decode_tables, expand_tables


def load_model(directory: str | Path, *, library: Path = LIBRARY) -> PackagedModel:
    """Return the model of a directory that `tailrace package` wrote.

    The bit-vector kernel computes it where the directory has tables for it, the library was compiled, and the golden
    rows get their scores; ONNX Runtime otherwise (it is not even imported before), and `kernel_reason` says why.
    library: where the compiled library is.
    Raises ModelPackageError unless the files are whole and the golden rows get their expected scores.
    """
    directory = Path(directory)
    return read_while_replaced(directory, lambda: _load(directory, library))


def _load(directory: Path, library: Path) -> PackagedModel:
    """Return the model of a directory as it is now."""
    manifest = read_manifest(directory)
    reason = manifest.trees_reason or "it was packaged without bit-vector tables"
    if manifest.trees_sha256:
        try:
            return _load_trees(directory / TREES_FILE, manifest, library)
        except OSError as error:
            reason = f"the bit-vector library cannot be used: {error}"
    model = OnnxModel.load(directory)
    model.kernel_reason = reason
    return model


def _load_trees(path: Path, manifest: Manifest, library: Path) -> PackagedModel:
    """Return the model of a file of tables.

    Raises OSError where this machine cannot use it, ModelPackageError for a file that holds no tables, or other ones
    than the signature's.
    """
    score = open_library(library)
    try:
        arrays = expand_tables(decode_tables(path.read_bytes()))
    except ValueError as error:
        raise ModelPackageError(
            f"the file is not what it should be: {error}", where=str(path), next=REPACKAGE
        ) from error
    specs = manifest.signature.inputs
    if len(specs) != 1 or specs[0].dtype != "float32" or len(specs[0].features) != arrays.features:
        raise ModelPackageError(
            f"the tables are of {arrays.features} float32 features, the signature is not",
            where=str(path),
            next=REPACKAGE,
        )
    model = BitvectorModel(BitvectorKernel(arrays, score), manifest)
    try:
        model.check_golden(path)
    except ModelPackageError as error:
        raise OSError(error.what) from error
    return model
