"""What the GPUs of the machine do, where NVIDIA's library says: asked by a thread, since a driver may hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

from tailrace.monitor.merged import Key

LOOK_S: Final = 5.0
QUIET_S_MAX: Final = 30.0
"""What a thread that hangs has said last is shown for so long."""
GPUS_MAX: Final = 64


class Gpus:
    """Looks every few seconds, until the process ends. nvml: `pynvml`, or what does as it."""

    def __init__(self, nvml: Any, now_s: Callable[[], float] = time.monotonic) -> None:
        self._nvml = nvml
        self._now_s = now_s
        self._values: dict[Key, float] = {}
        self._at_s = -QUIET_S_MAX

    def start(self) -> None:
        """Begin to look."""
        threading.Thread(target=self._look_often, name="gpus", daemon=True).start()

    def values(self) -> dict[Key, float]:
        """Return the values of its metrics; nothing where nothing is known."""
        return self._values if self._now_s() - self._at_s < QUIET_S_MAX else {}

    def look(self) -> None:
        """Look once. Raises what the library raises."""
        values: dict[Key, float] = {}
        for place in range(min(self._nvml.nvmlDeviceGetCount(), GPUS_MAX)):
            handle, labels = self._nvml.nvmlDeviceGetHandleByIndex(place), (str(place),)
            memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            values["tailrace_gpu_busy_ratio", labels] = self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
            values["tailrace_gpu_memory_used_bytes", labels] = memory.used
            values["tailrace_gpu_memory_bytes", labels] = memory.total
        self._values, self._at_s = values, self._now_s()

    def _look_often(self) -> None:
        """Look again and again; where there is no driver, no more."""
        try:
            self._nvml.nvmlInit()
            while True:
                self.look()
                time.sleep(LOOK_S)
        except self._nvml.NVMLError:
            return


def open_gpus() -> Gpus | None:
    """Return what looks at the GPUs, begun; None without the library (`pip install nvidia-ml-py`)."""
    if find_spec("pynvml") is None:
        return None
    gpus = Gpus(import_module("pynvml"))
    gpus.start()
    return gpus
