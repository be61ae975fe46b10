"""Who gets the core: a process that loads gives way, and has its share again once it is ready."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tailrace.core_share import LOADING_NICE, SCHED_SETATTR, be_prompt, give_way, hold_back, stand_back

KNOWN = pytest.mark.skipif(platform.machine() not in SCHED_SETATTR, reason="no number of sched_setattr for it")

PROGRAM = """
import json, os
from tailrace.core_share import giving_way

def tell():
    session = open("/proc/self/autogroup").read().split()[-1]
    print(json.dumps([os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0), session]))

tell()
with giving_way():
    tell()
tell()
"""


@KNOWN
@pytest.mark.parametrize(("ask", "policy"), [(give_way, os.SCHED_BATCH), (stand_back, os.SCHED_OTHER)])
def test_thread_gives_way_alone(ask: Callable[[int], None], policy: int) -> None:
    """Its niceness and policy are its own; the thread that began it has the share that it had."""
    found: list[tuple[int, int]] = []

    def run() -> None:
        be_prompt()
        ask(7)
        found.append((os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())))

    before = os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [(policy, 7)]
    assert (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)) == before


@KNOWN
@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="the kernel knows no sessions")
def test_process_gives_way_for_good_with_its_session() -> None:
    """Where nobody waits for it: else its session would have as much in its turn as that of a worker."""
    program = PROGRAM.partition("tell()\nwith")[0] + "from tailrace.core_share import give_way_whole\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{program}give_way_whole(19)\ntell()"],
        capture_output=True, text=True, check=True, start_new_session=True,
    )  # fmt: skip
    assert json.loads(done.stdout) == [os.SCHED_BATCH, 19, "19"]


@KNOWN
@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="the kernel knows no sessions")
def test_process_gives_way_until_the_end_of_the_block() -> None:
    """While it loads its session is nice, and its main thread takes long slices; afterwards all is as it was."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, start_new_session=True
    )
    before, within, after = map(json.loads, done.stdout.splitlines())
    assert within == [os.SCHED_BATCH, before[1], str(LOADING_NICE)]
    assert after == before == [os.SCHED_OTHER, before[1], "0"]


@KNOWN
@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="the kernel knows no sessions")
def test_process_gives_way_for_so_long_and_no_longer() -> None:
    """One that still loads then has its share all the same, whatever goes on beside it."""
    program = PROGRAM.replace("giving_way()", "giving_way(0.1)").replace(
        "    tell()\ntell", "    settle()\n    tell()\ntell"
    )
    program = f"""
import time
def settle():
    end_s = time.monotonic() + 20
    while open("/proc/self/autogroup").read().split()[-1] != "0" and time.monotonic() < end_s:
        time.sleep(0.02)
{program}"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, start_new_session=True
    )
    before, within, after = map(json.loads, done.stdout.splitlines())
    assert within == before == after == [os.SCHED_OTHER, before[1], "0"]


@KNOWN
@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="the kernel knows no sessions")
def test_process_is_held_back_from_its_beginning() -> None:
    """Whoever begins it says so; at the end of its loading it has what all have."""
    program = f"input()\n{PROGRAM}"
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        hold_back(process.pid)
        told, _ = process.communicate("\n", timeout=30)
    before, within, after = map(json.loads, told.splitlines())
    assert before == within == [os.SCHED_BATCH, before[1], str(LOADING_NICE)]
    assert after == [os.SCHED_OTHER, before[1], "0"]


@KNOWN
@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="the kernel knows no sessions")
def test_processes_that_are_ready_at_once_all_have_their_share_again() -> None:
    """Without privileges the kernel takes one request every 100 ms: who is refused asks again."""
    setpriv = shutil.which("setpriv")
    bare = [setpriv, "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"] if setpriv and not os.geteuid() else []
    pipe = subprocess.PIPE
    found = [
        subprocess.Popen([*bare, sys.executable, "-c", PROGRAM], stdout=pipe, text=True, start_new_session=True)
        for _ in range(4)
    ]
    for process in found:
        told, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert json.loads(told.splitlines()[-1])[2] == "0"
