"""Whether a writer is gone: known only where the system tells."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tailrace.release.registry import holder
from tailrace.release.registry.holder import is_gone, own_name


def test_process_that_the_system_hides_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc with hidepid shows no process of another user: its draft is not taken for a dead one's."""
    name = own_name()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    machine, _, started = name.rsplit("-", 2)
    ended.wait()
    monkeypatch.setattr(holder, "_started", lambda pid: None)
    assert not is_gone(name)
    assert is_gone(f"{machine}-{ended.pid}-{started}")
    assert is_gone(f"{machine}-{10**30}-{started}")
    assert not is_gone(f"{machine}-²-{started}")
