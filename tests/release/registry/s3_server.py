"""S3 as moto's server plays it, in a process of its own on a free port of the loopback."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

from features.redis_server import wait_until
from tailrace.loadtest.processes import free_port

KEYS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "tests", "AWS_EC2_METADATA_DISABLED": "true"}
"""What boto3 wants to sign with; moto takes any."""
BUCKET = "models"
READY_S_MAX = 60.0
SERVE = """
import sys
from moto.server import DomainDispatcherApplication, create_backend_app, run_simple
run_simple("127.0.0.1", int(sys.argv[1]), DomainDispatcherApplication(create_backend_app), threaded=False)
"""
"""One call at a time: moto looks whether an object is there, and then puts it, in two steps."""


class S3Server:
    """Starts and ends one server with one bucket, by its own pid."""

    def __init__(self) -> None:
        self.endpoint = f"http://127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and make the bucket. Skips the test where moto is missing; in CI that fails."""
        if importlib.util.find_spec("moto") is None or importlib.util.find_spec("boto3") is None:
            missing = "moto or boto3 is missing: pip install 'tailrace[registry,dev]'"
            pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVE, self.endpoint.rpartition(":")[2]],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_until(self._has_bucket, "moto's server does not answer", READY_S_MAX)

    def kill(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _has_bucket(self) -> bool:
        import urllib.request

        request = urllib.request.Request(f"{self.endpoint}/{BUCKET}", method="PUT")
        try:
            with urllib.request.urlopen(request, timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
