"""The servers that are compared, each started as its own documentation says, on the core it is given."""

from __future__ import annotations

import json
import os
import shutil
import sys
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Final

from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from machine import LOAD_CORE, SERVER_CORE, BenchError
from tailrace.compile.loading import load_pipelines
from tailrace.features.keys import KeyFormat, row_name
from tailrace.features.row_layout import row_layout
from tailrace.loadtest.processes import Process, free_port, start, wait_ready

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent
PIPELINE: Final = ROOT / "examples" / "fraud" / "nightly.py"
"""The fraud example on last night's profiles: each request is the same work, however often it is repeated."""
PREPARED: Final = ROOT / "build" / "fraud"
WORKPLACE: Final = ROOT / "build" / "bench"
TAILRACE: Final = str(Path(sys.executable).with_name("tailrace"))
PROGRAMS: Final = ("gcc", "haproxy", "nginx", "redis-server", "taskset")


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is ready. url: where predictions are posted. ready_s: from its start. admin: of Tailrace's port."""

    process: Process
    url: str
    ready_s: float
    admin: str = ""

    def status(self) -> Any:
        """Return what Tailrace's admin port says."""
        with urllib.request.urlopen(f"{self.admin}/status", timeout=5) as answer:
            return json.loads(answer.read())

    def worker_pids(self) -> list[int]:
        """Return the pids of Tailrace's workers."""
        return [worker["pid"] for worker in self.status()["workers"] if worker["pid"]]


def check_programs() -> None:
    """Raise BenchError unless every program that is needed is installed."""
    missing = [name for name in PROGRAMS if find_program(name) is None]
    if missing:
        raise BenchError(
            f"not installed: {', '.join(missing)}; apt-get install gcc libc6-dev haproxy nginx redis-server util-linux"
        )


def find_program(name: str) -> str | None:
    """Return the path of a program; Debian keeps nginx where only root's PATH looks."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def start_nginx(stack: ExitStack, answer: bytes) -> Server:
    """Start nginx answering every request with these bytes."""
    port, directory = free_port(), WORKPLACE / "nginx"
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "nginx.conf"
    text = Template((HERE / "nginx.conf").read_text())
    config.write_text(text.substitute(directory=directory, port=port, body=answer.decode()))
    command = [
        find_program("nginx") or "nginx",
        "-p",
        str(directory),
        "-e",
        str(directory / "start.log"),
        "-c",
        str(config),
    ]
    process = start(stack, "nginx", command, directory / "out.log", cores={SERVER_CORE})
    url = f"http://127.0.0.1:{port}/predict"
    return Server(process, url, wait_ready(process, url))


def start_redis(stack: ExitStack) -> str:
    """Start Redis on the load's core, without files; return its URL."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = start(stack, "redis", command, WORKPLACE / "redis.log", cores={LOAD_CORE})
    url = f"redis://127.0.0.1:{port}/0"
    client = Redis.from_url(url, retry=Retry(ConstantBackoff(0.05), 200))
    try:
        client.ping()
    except RedisError as error:
        raise BenchError(f"Redis did not start: {error}\n{process.tail()}") from None
    finally:
        client.close()
    return url


def fraud_keys() -> str:
    """Return the formats of the keys of the fraud example's rows, as its views are declared now."""
    (pipeline,) = load_pipelines(PIPELINE)
    formats = [KeyFormat(view.spec.entity.name, row_name(view.__name__, row_layout(view.spec).schema_id))
               for view in pipeline.views]  # fmt: skip
    return " ".join(f"{each.begin.decode()}%d{each.end.decode()}" for each in formats)


def start_fastapi(stack: ExitStack, store: str) -> Server:
    """Start the FastAPI application under one uvicorn worker. store: a folder, or the URL of Redis."""
    port = free_port()
    name = "fastapi-redis" if store.startswith("redis:") else "fastapi"
    command = [sys.executable, "-m", "uvicorn", "fastapi_app:app", "--app-dir", str(HERE), "--port", str(port),
               "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]  # fmt: skip
    env = {"FRAUD_STORE": store, "FRAUD_MODEL": str(PREPARED / "nightly" / "model.onnx"), "FRAUD_KEYS": fraud_keys()}
    process = start(stack, name, command, WORKPLACE / f"{name}.log", cores={SERVER_CORE}, env=env)
    ready_s = wait_ready(process, f"http://127.0.0.1:{port}/readyz")
    return Server(process, f"http://127.0.0.1:{port}/predict", ready_s)


def start_tailrace(
    stack: ExitStack,
    *,
    cores: set[int],
    workers: int = 1,
    store: str | None = None,
    name: str = "tailrace",
    file: Path = PIPELINE,
    pipeline: str = "fraud",
    source: Path | None = None,
    options: Sequence[str] = (),
) -> Server:
    """Start `tailrace serve` on a file, the fraud example with everything on where no other is named.

    pipeline: the one of the file that `url` asks. source: another tree's src, whose Tailrace it is then. options: of
    the command, beside these.
    """
    port, admin_port = free_port(), free_port()
    command = [TAILRACE, "serve", str(file), "--port", str(port),
               "--admin-port", str(admin_port), "--workers", str(workers), *options]  # fmt: skip
    command += ["--store", store] if store else []
    env = {"PYTHONPATH": str(source)} if source else {}
    process = start(stack, name, command, WORKPLACE / f"{name}.log", cores=cores, env=env)
    is_secret = "--tls-cert" in options  # then who asks for the probe would have to take its certificate
    ready_s = wait_ready(process, f"http://127.0.0.1:{admin_port if is_secret else port}/readyz")
    url = f"http://127.0.0.1:{port}/v1/pipelines/{pipeline}/predict"
    return Server(process, url, ready_s, f"http://127.0.0.1:{admin_port}")
