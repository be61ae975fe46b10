"""What a server logs is asked while it is logged: each request once, whatever becomes of the observer."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from serving import serving, wait_for
from test_observer import FILE, LIMIT_S, ask, ids, observer_of

from tailrace.monitor.log.reader import LogReader

TWO = """
from dataclasses import replace

other = replace(ask, name="other")
"""
TAILRACE = [sys.executable, "-m", "tailrace.cli.main"]


def tailrace(*arguments: str) -> str:
    """Return what a command prints."""
    done = subprocess.run([*TAILRACE, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Followed:
    """`tailrace logs --follow` beside a server. ids: of the lines that it has shown."""

    def __init__(self, log: Path) -> None:
        command = [*TAILRACE, "logs", str(log), "ask", "--follow", "--json", "--columns", "request_id,score"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.ids: list[str] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.ids.append(json.loads(line)["request_id"])

    def has(self, count: int) -> bool:
        """Say whether it has shown lines of so many requests."""
        return len(set(self.ids)) == count

    def stop(self) -> int:
        """End it as Ctrl-C does; return its exit code."""
        self._process.send_signal(signal.SIGINT)
        code = self._process.wait(10)
        self._thread.join(10)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code


@pytest.mark.slow
def test_lines_are_shown_once_while_observers_die(tmp_path: Path) -> None:
    """A killed one has written lines that its successor writes again: whoever reads sees each once.

    So that it surely has, the log of another pipeline cannot be written meanwhile, and nothing counts as kept.
    """
    file, log, count = tmp_path / "ask.py", tmp_path / "log", 5
    file.write_text(FILE + TWO)
    with serving(tmp_path / "out", file, "--log", str(log)) as server:
        ask(server, 0, count)
        wait_for(lambda: len(ids(log)) == count, LIMIT_S)
        assert len(tailrace("logs", str(log), "ask", "--json").splitlines()) == count
        followed = Followed(log)
        try:
            wait_for(partial(followed.has, count), LIMIT_S)
            for _ in range(3):
                observer = observer_of(server)
                os.kill(observer, signal.SIGSTOP)
                (log / "other").write_text("in the way")
                ask(server, count, 30)
                count += 30
                assert server.ask("other", {"amount": 1}, {"X-Request-Id": "other"}).status == 200
                os.kill(observer, signal.SIGCONT)
                wait_for(partial(followed.has, count), LIMIT_S)
                os.kill(observer, signal.SIGKILL)
                (log / "other").unlink()
                wait_for((log / "other").is_dir, LIMIT_S)
                shutil.rmtree(log / "other")
        finally:
            code = followed.stop()
        assert code == 0
        assert Counter(followed.ids) == Counter(f"r{number}" for number in range(count))
    reader = LogReader(log, "ask")
    assert sum(map(len, reader.twice.values())) >= 30
    read = [text for batch in reader.batches(["request_id"]) for text in batch.column(0).to_pylist()]
    assert Counter(read) == Counter(f"r{number}" for number in range(count))
    assert_learnt_from(file, log, count, tmp_path)


def assert_learnt_from(file: Path, log: Path, count: int, folder: Path) -> None:
    """Label every second request, and make a training set of what was served."""
    labels = folder / "labels.csv"
    labels.write_text("request_id,label\n" + "".join(f"r{number},{number % 4 // 2}\n" for number in range(0, count, 2)))
    tailrace("labels", str(log), str(labels), "--pipeline", "ask")
    out = folder / "training.parquet"
    options = ("--from-log", str(log), "--out", str(out), "--json")
    told: dict[str, Any] = json.loads(tailrace("dataset", str(file), "--pipeline", "ask", *options))
    assert told["labelled"] == told["rows"] == (count + 1) // 2
    rows = sorted(zip(*(pq.read_table(out)[name].to_pylist() for name in ("amount", "label")), strict=True))
    assert rows == [(float(number), number % 4 // 2) for number in range(0, count, 2)]
