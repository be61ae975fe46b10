"""Real model servers, each in a venv of its own under build/: MLServer, Triton (through PyTriton), TorchServe.

Triton's public client has one too: its protobuf package is not the newest.

A venv is made once, and used again; where it cannot be, the test that wants it is skipped.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import urllib.request
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest

from tailrace.loadtest.processes import free_ports

VENVS = Path(__file__).parents[2] / "build" / "venvs"
INSTALL_S_MAX = 600.0
READY_S_MAX = 90.0
END_S_MAX = 15.0

REQUIREMENTS = {
    "mlserver": ("mlserver>=1.7,<2", "mlserver-sklearn>=1.7,<2"),
    "triton": ("nvidia-pytriton>=0.7,<1",),
    "tritonclient": ("tritonclient[http,grpc]>=2.60,<3",),
    "torchserve": ("torch==2.13.0", "torchserve==0.12.0", "torch-model-archiver==0.12.0", "pyyaml", "psutil"),
}  # fmt: skip

MLSERVER_MODEL = """
import sys, joblib, numpy as np
from sklearn.linear_model import LinearRegression
x = np.random.default_rng(0).normal(size=(200, 4))
joblib.dump(LinearRegression().fit(x, x[:, 0]), sys.argv[1])
"""
TRITON_MODEL = """
import sys
import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

@batch
def infer(x):
    if (x[:, 0] == 666).any():
        raise ValueError("a row that cannot be scored")
    return {"score": x[:, :1]}

config = TritonConfig(http_address="127.0.0.1", http_port=int(sys.argv[1]), allow_grpc=False, allow_metrics=False)
with Triton(config=config) as triton:
    triton.bind("fraud", infer, inputs=[Tensor(name="x", dtype=np.float32, shape=(4,))],
                outputs=[Tensor(name="score", dtype=np.float32, shape=(1,))], config=ModelConfig(max_batch_size=64))
    triton.serve()
"""
TORCHSERVE_MODEL = """
import torch
from ts.torch_handler.base_handler import BaseHandler

class Fraud(BaseHandler):
    def initialize(self, context):
        self.initialized = True

    def handle(self, data, context):
        found = []
        for each in data:
            rows = torch.tensor(each["body"]["instances"], dtype=torch.float32)
            if (rows[:, 0] == 666).any():
                raise ValueError("a row that cannot be scored")
            found.append({"predictions": rows[:, 0].tolist()})
        return found
"""


def server_venv(name: str) -> Path:
    """Return the folder of a server's programs; skip the test where it cannot be installed."""
    folder = VENVS / name
    done = folder / ".installed"
    if not done.exists():
        venv.create(folder, with_pip=True, clear=True, symlinks=True)
        command = [
            str(folder / "bin" / "pip"),
            "install",
            "--quiet",
            "--disable-pip-version-check",
            *REQUIREMENTS[name],
        ]
        found = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S_MAX, check=False)
        if found.returncode != 0:
            pytest.skip(f"{name} cannot be installed: {found.stderr[-300:]}")
        done.touch()
    return folder / "bin"


class RealServer:
    """A server of the model `fraud`, which gives each row its first number. url: of the model."""

    def __init__(self, name: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        programs = server_venv(name)
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        self._environment["PATH"] = f"{programs}:{os.environ['PATH']}"
        self._folder = folder
        self._log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        command, self.url, ready = getattr(self, f"_prepare_{name}")(programs)
        self._start(command, ready)

    def __enter__(self) -> RealServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Of its process, and of the group of what it has started."""
        assert self._process is not None
        return self._process.pid

    def close(self) -> None:
        """End it, and what it has started."""
        if self._process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, number)
                self._process.wait(END_S_MAX)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self._process.wait()
        self._process = None

    def _prepare_mlserver(self, programs: Path) -> tuple[list[str], str, str]:
        http, grpc, metrics = free_ports(3)
        (self._folder / "settings.json").write_text(
            f'{{"host": "127.0.0.1", "http_port": {http}, "grpc_port": {grpc}, "metrics_port": {metrics}, '
            '"parallel_workers": 0, "debug": false}'
        )
        model = self._folder / "fraud"
        model.mkdir()
        (model / "model-settings.json").write_text(
            '{"name": "fraud", "implementation": "mlserver_sklearn.SKLearnModel", '
            '"parameters": {"uri": "./model.joblib", "version": "3"}, '
            '"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}], '
            '"outputs": [{"name": "predict", "datatype": "FP32", "shape": [-1, 1]}]}'
        )
        self._run([str(programs / "python"), "-c", MLSERVER_MODEL, str(model / "model.joblib")])
        root = f"http://127.0.0.1:{http}"
        command = [str(programs / "mlserver"), "start", str(self._folder)]
        return command, f"{root}/v2/models/fraud/versions/3", f"{root}/v2/models/fraud/versions/3/ready"

    def _prepare_triton(self, programs: Path) -> tuple[list[str], str, str]:
        (http,) = free_ports(1)
        (self._folder / "serve.py").write_text(TRITON_MODEL)
        root = f"http://127.0.0.1:{http}/v2/models/fraud/versions/1"
        return [str(programs / "python"), str(self._folder / "serve.py"), str(http)], root, f"{root}/ready"

    def _prepare_torchserve(self, programs: Path) -> tuple[list[str], str, str]:
        if shutil.which("java") is None:
            pytest.skip("TorchServe needs Java: apt-get install openjdk-17-jre-headless")
        ports = free_ports(5)
        names = ("inference_address", "management_address", "metrics_address", "grpc_inference_port",
                 "grpc_management_port")  # fmt: skip
        lines = [f"{name}={'http://127.0.0.1:' if 'address' in name else ''}{port}"
                 for name, port in zip(names, ports, strict=True)]  # fmt: skip
        (self._folder / "config.properties").write_text("\n".join([*lines, "default_workers_per_model=1", ""]))
        (self._folder / "handler.py").write_text(TORCHSERVE_MODEL)
        store = self._folder / "store"
        store.mkdir()
        self._run([str(programs / "torch-model-archiver"), "--model-name", "fraud", "--version", "3", "--handler",
                   str(self._folder / "handler.py"), "--export-path", str(store)])  # fmt: skip
        self._environment |= {"LOG_LOCATION": str(self._folder), "METRICS_LOCATION": str(self._folder)}
        command = [str(programs / "torchserve"), "--foreground", "--ncs", "--model-store", str(store), "--models",
                   "fraud=fraud.mar", "--ts-config", str(self._folder / "config.properties"),
                   "--disable-token-auth"]  # fmt: skip
        root = f"http://127.0.0.1:{ports[0]}"
        return command, f"{root}/predictions/fraud/3", f"http://127.0.0.1:{ports[1]}/models/fraud"

    def _run(self, command: Sequence[str]) -> None:
        found = subprocess.run(command, capture_output=True, text=True, cwd=self._folder, env=self._environment,
                               timeout=READY_S_MAX, check=False)  # fmt: skip
        assert found.returncode == 0, found.stdout + found.stderr

    def _start(self, command: Sequence[str], ready: str) -> None:
        """Start it, and wait until it says that its model is ready."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder, env=self._environment,
                                             start_new_session=True)  # fmt: skip
        end_s = time.monotonic() + READY_S_MAX
        while not is_ready(ready):
            told = self._log.read_text(errors="replace")[-2_000:]
            if self._process.poll() is not None or time.monotonic() > end_s:
                self.close()
                raise AssertionError(f"the server did not start: {told}")
            time.sleep(0.2)


def is_ready(url: str) -> bool:
    """Return whether a server says that it is ready; TorchServe lists its workers."""
    try:
        with urllib.request.urlopen(url, timeout=2) as reply:
            return "/v2/" in url or b'"READY"' in reply.read()
    except OSError:
        return False
