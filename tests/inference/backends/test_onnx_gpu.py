"""ONNX Runtime on a GPU: when it is a backend at all, with what options; and its scores, where there is a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
from onnx import TensorProto, helper

from tailrace.compile import checking
from tailrace.inference.backends import onnx_gpu, table
from tailrace.inference.backends.choice import choose_backend
from tailrace.inference.backends.onnx import OnnxModel
from tailrace.inference.backends.onnx_gpu import (
    CUDA_PROVIDER,
    CudaModel,
    TensorrtModel,
    cuda_options,
    installed_runtimes,
)
from tailrace.inference.backends.table import backend_named, backends_of
from tailrace.inference.manifest import SessionSettings
from tailrace.inference.model_directory import read_manifest
from tailrace.release.package import package

HAS_GPU = CUDA_PROVIDER in onnxruntime.get_available_providers()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Package a graph that doubles its input."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["score"])],
        "doubled",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
    )
    folder = tmp_path_factory.mktemp("doubled")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "doubled.onnx").write_bytes(model.SerializeToString())
    data = pa.table({"x": np.linspace(0, 1, 50)})
    return package(folder / "doubled.onnx", data, name="doubled", out=folder / "m").directory


def test_options_bound_memory_and_round_nothing() -> None:
    """A limit is passed on, and no more memory than asked for is taken; without a limit none is named."""
    options = cuda_options(SessionSettings(gpu_bytes_max=1 << 30))
    assert (options["gpu_mem_limit"], options["arena_extend_strategy"]) == (str(1 << 30), "kSameAsRequested")
    assert options["use_tf32"] == "0"
    assert "gpu_mem_limit" not in cuda_options(SessionSettings())
    providers = [name for name, _ in TensorrtModel.providers(SessionSettings())]
    assert providers == ["TensorrtExecutionProvider", CUDA_PROVIDER, "CPUExecutionProvider"]


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
def test_without_the_providers_nothing_changes(directory: Path) -> None:
    """The processor is the only backend: nothing is timed, and nothing is said of a GPU that is not there."""
    manifest = read_manifest(directory)
    assert [backend.name for backend in backends_of(manifest)] == ["ONNX Runtime"]
    choice = choose_backend(directory)
    assert choice.name == "ONNX Runtime"
    assert "GPU" not in choice.reason
    assert "CUDA" not in choice.reason


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")
def test_provider_that_cannot_start_is_told(directory: Path) -> None:
    """ONNX Runtime goes on with the processor, and only warns; a release that chose CUDA does not."""
    with pytest.raises(OSError, match="cannot start its CUDAExecutionProvider"):
        CudaModel.load(directory)


def test_provider_is_found_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether `onnxruntime-gpu` is there is seen without importing it."""
    backend = backend_named("ONNX Runtime on CUDA")
    assert backend is not None

    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(table, "find_spec", lambda name: Spec)
    assert not backend.is_installed
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").touch()
    assert backend.is_installed


def test_two_runtimes_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both distributions write the same files; the check says which, and how to have one."""
    assert len(installed_runtimes()) == 1
    assert checking._runtime_warnings() == []
    monkeypatch.setattr(onnx_gpu, "version", lambda name: "1.26.0")
    (warning,) = checking._runtime_warnings()
    assert "onnxruntime 1.26.0 and onnxruntime-gpu 1.26.0 write over each other's files" in warning
    assert "pip install onnxruntime-gpu" in warning


@pytest.mark.skipif(not HAS_GPU, reason="no GPU here")
@pytest.mark.parametrize("rows", [1, 64])
def test_gpu_gives_the_scores_of_the_processor(rows: int, directory: Path) -> None:
    """The golden rows hold, and any number of rows is scored."""
    model: Any = CudaModel.load(directory)
    feeds = model.sample_feeds(rows)
    np.testing.assert_allclose(model.predict(feeds), OnnxModel.load(directory).predict(feeds), atol=1e-6)
