"""What the optimiser does about backends on a GPU, whether this machine has one or not."""

from __future__ import annotations

from tailrace.inference.backends.table import BIT_VECTORS, CUDA, ONNX_RUNTIME, TENSORRT
from tailrace.offline.optimize.journal import Trial
from tailrace.offline.optimize.optimizer import _absent_gpus, _limits_of
from tailrace.offline.optimize.processes import Limits
from tailrace.offline.optimize.recipes import AS_PACKAGED


def test_backend_on_a_gpu_that_was_not_tried_is_told_once() -> None:
    """By the name that it has everywhere; what was tried says itself what came of it."""
    tried = [Trial(recipe=AS_PACKAGED, backend=name, status="skipped", why="no GPU") for name in (ONNX_RUNTIME, CUDA)]
    assert [trial.backend for trial in _absent_gpus([])] == [CUDA, TENSORRT]
    assert [trial.backend for trial in _absent_gpus(tried)] == [TENSORRT]
    assert all("onnxruntime-gpu" in trial.why for trial in _absent_gpus([]))


def test_process_on_a_gpu_may_map_memory_and_has_time_to_start() -> None:
    """The driver maps hundreds of gigabytes of addresses, and TensorRT builds its engine first."""
    limits = Limits(seconds=100, memory_mb=4_096)
    assert _limits_of(BIT_VECTORS, limits) == _limits_of(ONNX_RUNTIME, limits) == limits
    for name in (CUDA, TENSORRT):
        found = _limits_of(name, limits)
        assert found.memory_mb == 0
        assert found.seconds > limits.seconds
