"""A server that starts leaves the core to others until it is ready, and serves with what all have."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from serving import serving, wait_for

from tailrace.core_share import SCHED_SETATTR, hold_back


@pytest.mark.skipif(platform.machine() not in SCHED_SETATTR, reason="no number of sched_setattr for it")
@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="the kernel knows no sessions")
def test_server_that_is_ready_has_its_share(pipelines_dir: Path, tmp_path: Path) -> None:
    """Neither the supervisor nor a worker keeps what held it back, although the one began the other."""

    def has_its_share(pid: int) -> bool:
        session = Path(f"/proc/{pid}/autogroup").read_text().split()[-1]
        return os.sched_getscheduler(pid) == os.SCHED_OTHER and session == "0"

    with serving(tmp_path / "serve.log", pipelines_dir / "log.py") as server:
        processes = [server.process.pid, *(worker["pid"] for worker in server.workers())]
        wait_for(lambda: all(map(has_its_share, processes)), 20.0)
        hold_back(server.process.pid)
        assert not has_its_share(server.process.pid)


@pytest.mark.skipif(platform.machine() not in SCHED_SETATTR, reason="no number of sched_setattr for it")
def test_server_that_starts_gives_way_before_it_imports_all() -> None:
    """What a start imports takes longest of what it does before it loads; other commands give way to nobody."""
    program = """
import os, sys, types
import tailrace.cli.entry as entry
print("tailrace.api" in sys.modules, "typer" in sys.modules)
sys.modules["tailrace.cli.main"] = types.SimpleNamespace(main=lambda: print(os.sched_getscheduler(0)))
for command in ("check", "serve"):
    sys.argv = ["tailrace", command]
    entry.main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", str(os.SCHED_OTHER), str(os.SCHED_BATCH)]
