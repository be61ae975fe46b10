"""The processes of the trials: each under a limit of time and of memory, and what its end means in words."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from typing import Final, NamedTuple

import msgspec

from tailrace.offline.optimize.trial import Done, Make, Measure, Propose, Task

REASON_CHARACTERS_MAX: Final = 200


class Limits(NamedTuple):
    """What one process may take. memory_mb: of addresses, in MiB."""

    seconds: float = 300.0
    memory_mb: int = 8_192


def run_apart(work: Propose | Make | Measure, limits: Limits) -> Done:
    """Return what came of a piece of work that a process of its own does; a failure is a value."""
    command = (sys.executable, "-P", "-m", "tailrace.offline.optimize.trial")
    task = msgspec.json.encode(Task(work, limits.memory_mb << 20))
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, start_new_session=True
        )
        try:
            answer, _ = process.communicate(task, timeout=limits.seconds)
        except subprocess.TimeoutExpired:
            return Done(failed=f"it took more than {limits.seconds:g} s")
        finally:
            _end(process)
        if process.returncode:
            said.seek(0)
            return Done(failed=_why(process.returncode, said.read().decode(errors="replace"))[:REASON_CHARACTERS_MAX])
    try:
        done = msgspec.json.decode(answer.strip().rpartition(b"\n")[2], type=Done)
    except msgspec.DecodeError as error:
        return Done(failed=f"its answer cannot be read: {error}")
    return msgspec.structs.replace(
        done, failed=done.failed[:REASON_CHARACTERS_MAX], skipped=done.skipped[:REASON_CHARACTERS_MAX]
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process, and what it has started, where they still run."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _why(code: int, said: str) -> str:
    """Return why a process ended with a code. said: what it wrote to its standard error."""
    lines = said.strip().splitlines()
    if code < 0:
        names = {each.value: each.name for each in signal.Signals}
        ended = f"it was ended by {names.get(-code, -code)}"
        return f"{ended}: {lines[-1]}" if lines else ended
    return lines[-1] if lines else f"it ended with {code}"
