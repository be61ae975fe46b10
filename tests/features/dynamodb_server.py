"""DynamoDB as moto's server plays it, in a process of its own on a free port of the loopback."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import urllib.request
import uuid

import pytest
from redis_server import wait_until

from tailrace.loadtest.processes import free_port

KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_EC2_METADATA_DISABLED": "true"}
"""What boto3 wants to sign with; moto takes any."""
READY_S_MAX = 60.0
SERVE = """
import sys
from moto.server import DomainDispatcherApplication, create_backend_app, run_simple
run_simple("127.0.0.1", int(sys.argv[1]), DomainDispatcherApplication(create_backend_app), threaded=False)
"""
"""One call at a time: a transaction that moto refuses puts the table back as it was, and others' writes with it."""


class DynamoServer:
    """Starts and ends one server, by its own pid."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def url(self, table: str | None = None, endpoint: str | None = None) -> str:
        """Return the URL of a table, of one that nobody has used yet where no name is given."""
        name = table or f"store-{uuid.uuid4().hex}"
        return f"dynamodb://{name}?region=eu-west-1&endpoint={endpoint or self.endpoint}"

    def start(self) -> None:
        """Start it and wait until it answers. Skips the test where moto is missing; in CI that fails."""
        if importlib.util.find_spec("moto") is None or importlib.util.find_spec("boto3") is None:
            missing = "moto or boto3 is missing: pip install 'tailrace[dynamodb,dev]'"
            pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(self.port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(self._answers, "moto's server does not answer", READY_S_MAX)

    def kill(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.endpoint}/moto-api/", timeout=2) as answer:
                return answer.status == 200  # type: ignore[no-any-return]
        except OSError:
            return False
