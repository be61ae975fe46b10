"""GPUs: their figures where NVIDIA's library says some, and nothing where it is not, or says nothing."""

from __future__ import annotations

import threading
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest

from tailrace.server import gpus
from tailrace.server.gpus import QUIET_S_MAX, Gpus, open_gpus


class Nvml:
    """A library that knows two GPUs, as far as it is asked."""

    class NVMLError(Exception):
        """What it raises."""

    is_there = True

    def nvmlInit(self) -> None:  # noqa: N802
        """Raise where there is no driver."""
        if not self.is_there:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        """Return how many there are."""
        return 2

    def nvmlDeviceGetHandleByIndex(self, place: int) -> int:  # noqa: N802
        """Return what stands for one."""
        return place

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        """Return the bytes of one."""
        return SimpleNamespace(used=(1 + handle) << 30, total=80 << 30)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        """Return percents."""
        return SimpleNamespace(gpu=25 * (1 + handle))


def test_figures_are_told_until_nobody_says_them() -> None:
    """Of each GPU what it does and what of its memory is taken; after a while of silence nothing."""
    now_s = [100.0]
    watch = Gpus(Nvml(), lambda: now_s[0])
    assert watch.values() == {}
    watch.look()
    values = watch.values()
    assert values["tailrace_gpu_busy_ratio", ("1",)] == 0.5
    assert values["tailrace_gpu_memory_used_bytes", ("0",)] == 1 << 30
    assert values["tailrace_gpu_memory_bytes", ("0",)] == 80 << 30
    now_s[0] += QUIET_S_MAX
    assert watch.values() == {}


def test_machine_without_a_driver_has_none() -> None:
    """The thread ends, and nothing is told."""
    nvml = Nvml()
    nvml.is_there = False
    watch = Gpus(nvml)
    watch.start()
    for thread in threading.enumerate():
        if thread.name == "gpus":
            thread.join(10)
    assert watch.values() == {}


def test_server_without_the_library_looks_at_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on every machine that has not installed it."""
    monkeypatch.setattr(gpus, "find_spec", lambda name: None)
    assert open_gpus() is None


@pytest.mark.skipif(find_spec("pynvml") is None, reason="nvidia-ml-py is not installed")
def test_real_library_is_asked() -> None:
    """Here there may be a driver or none: neither ends anything."""
    watch = open_gpus()
    assert watch is not None
    assert all(value >= 0 for value in watch.values().values())
