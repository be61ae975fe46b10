"""A server of a pipeline's file, for as long as calls are sent to it: `tailrace serve`, on ports of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tailrace.errors import SetupError

READY_S_MAX: Final = 120.0
END_S_MAX: Final = 30.0
LOOK_S: Final = 0.05


@contextmanager
def local_server(file: Path, store: str | None = None) -> Iterator[str]:
    """Serve a file while the block runs; give the URL. store: read in place of the declared one.

    Raises SetupError where it cannot be served, with what the server says.
    """
    command = [sys.executable, "-m", "tailrace.cli.main", "serve", str(file), "--port", "0", "--admin-port", "0"]
    with tempfile.TemporaryDirectory(prefix="tailrace-replay-") as folder:
        log = Path(folder) / "log"
        options = ["--releases", str(Path(folder) / "releases"), *(["--store", store] if store else [])]
        with log.open("wb") as out, subprocess.Popen([*command, *options], stdout=out, stderr=out) as process:
            try:
                yield _address(process, log, file)
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(END_S_MAX)
                except subprocess.TimeoutExpired:
                    process.kill()


def _address(process: subprocess.Popen[bytes], log: Path, file: Path) -> str:
    """Return where a server is, once it is ready."""
    end_s = time.monotonic() + READY_S_MAX
    while time.monotonic() < end_s:
        text = log.read_text(errors="replace")
        for line in text.splitlines():
            if line.startswith("{") and '"ready"' in line:
                told = json.loads(line)
                if told.get("event") == "ready":
                    return str(told["address"])
        if process.poll() is not None:
            raise SetupError(f"it cannot be served: {text.strip()[-500:]}", where=str(file), next="tailrace check it")
        time.sleep(LOOK_S)
    raise SetupError(f"it is not ready after {READY_S_MAX:.0f} s", where=str(file), next="tailrace check it")
