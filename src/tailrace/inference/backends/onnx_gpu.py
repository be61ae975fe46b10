"""ONNX Runtime on a GPU: its CUDA and TensorRT providers, where `onnxruntime-gpu` has taken `onnxruntime`'s place.

Scores on a GPU are held to the golden rows as all are, so nothing is rounded below float32: without TF32 and float16.
What memory a model may take is its manifest's; what is asked for is what is taken, since several models share one GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar, Final

from tailrace.inference.backends.onnx import OnnxModel, Providers
from tailrace.inference.backends.table import CUDA, TENSORRT
from tailrace.inference.manifest import SessionSettings

CUDA_PROVIDER: Final = "CUDAExecutionProvider"
TENSORRT_PROVIDER: Final = "TensorrtExecutionProvider"
DISTRIBUTIONS: Final = ("onnxruntime", "onnxruntime-gpu")


class CudaModel(OnnxModel):
    """A packaged model that ONNX Runtime computes on a GPU with CUDA. What CUDA has no form for is computed here."""

    __slots__ = ()

    backend: ClassVar[str] = CUDA

    @classmethod
    def providers(cls, settings: SessionSettings) -> Providers:
        """Return CUDA, with its options, and the processor behind it."""
        return [(CUDA_PROVIDER, cuda_options(settings)), *super().providers(settings)]


class TensorrtModel(OnnxModel):
    """A packaged model that ONNX Runtime computes on a GPU with TensorRT, and CUDA behind it."""

    __slots__ = ()

    backend: ClassVar[str] = TENSORRT

    @classmethod
    def providers(cls, settings: SessionSettings) -> Providers:
        """Return TensorRT, with its options, CUDA behind it, and the processor behind that."""
        behind = [(CUDA_PROVIDER, cuda_options(settings)), *super().providers(settings)]
        return [(TENSORRT_PROVIDER, tensorrt_options(settings)), *behind]


def cuda_options(settings: SessionSettings) -> dict[str, Any]:
    """Return the options of the CUDA provider (onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html).

    A convolution's algorithm is chosen by rule: trying all of them at each new number of rows takes seconds.
    """
    options = {
        "device_id": "0",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "do_copy_in_default_stream": "1",
        "use_tf32": "0",
    }
    return options | ({"gpu_mem_limit": str(settings.gpu_bytes_max)} if settings.gpu_bytes_max else {})


def tensorrt_options(settings: SessionSettings) -> dict[str, Any]:
    """Return the options of the TensorRT provider (onnxruntime.ai/docs/execution-providers)."""
    options = {"device_id": "0", "trt_fp16_enable": "0"}
    return options | ({"trt_max_workspace_size": str(settings.gpu_bytes_max)} if settings.gpu_bytes_max else {})


def installed_runtimes(names: Sequence[str] = DISTRIBUTIONS) -> list[str]:
    """Return which distributions of ONNX Runtime are installed. Two of them write over each other's files."""
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return found
