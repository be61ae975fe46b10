"""PyTorch behind the model protocol: a program of `torch.export`, where ONNX has no form for it.

A call takes 85 µs for a small network that ONNX Runtime computes in 7, and PyTorch takes 200 MB and more of a worker:
so a program is converted where it can be.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tailrace.inference.backends.native import NativeModel, Predict, missing_library
from tailrace.inference.backends.table import PYTORCH
from tailrace.inference.backends.torch_archive import clean_archive
from tailrace.inference.manifest import PYTORCH_FILE
from tailrace.inference.predictor import Feeds
from tailrace.inference.signature import Signature


class PytorchModel(NativeModel):
    """A packaged program that PyTorch computes, on one thread. May be called from several threads."""

    __slots__ = ()

    backend: ClassVar[str] = PYTORCH
    file: ClassVar[str] = PYTORCH_FILE

    @staticmethod
    def open(content: bytes, signature: Signature, trusted: Sequence[str] = ()) -> Predict:
        """Return what computes an archive of `torch.export.save`, of which nothing but the program is read."""
        module = load_program(content).module()
        names = [spec.name for spec in signature.inputs]
        column = signature.column
        import torch

        def predict(feeds: Feeds) -> NDArray[Any]:
            with torch.inference_mode():
                tensors = [torch.from_numpy(np.require(feeds[name], requirements="W")) for name in names]
                scores: NDArray[Any] = module(*tensors).numpy()
            return scores[:, column] if column is not None and scores.ndim == 2 else scores

        return predict


def load_program(content: bytes) -> Any:
    """Return the program in an archive: a `torch.export.ExportedProgram`, on the CPU.

    Raises OSError where PyTorch is not installed; ValueError for an archive that it is not given.
    """
    cleaned = clean_archive(content)
    if find_spec("torch") is None:
        missing_library("torch", "torch")
    import torch

    torch.set_num_threads(1)
    try:
        return torch.export.load(io.BytesIO(cleaned))
    except Exception as error:  # what PyTorch raises shares no base
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"PyTorch {torch.__version__} does not read it: {lines[0][:300]}") from error


def to_scores(output: Any) -> NDArray[Any]:
    """Return what a program gave as an array: (rows,) or (rows, columns). Raises ValueError for more than a tensor."""
    if not hasattr(output, "detach"):
        raise ValueError("it gives more than one tensor, or none: give the scores alone")
    return np.asarray(output.detach().numpy())
