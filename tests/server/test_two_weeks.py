"""Two weeks of real payments through a real server: what it serves of each is what independent SQL says.

A month of history is counted first, by `tailrace ingest`. Then the payments come one by one; or out of order and twice,
through ingesters that are killed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import redis
from http_server import RawClient, post
from numpy.typing import NDArray
from serving import COMMAND, Server, serving, wait_for
from two_weeks import TwoWeeks, assert_true

from features.redis_server import RedisServer
from pipelines.model_graphs import linear
from tailrace.compile.loading import load_pipelines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DECLARED = Path(__file__).parents[1] / "pipelines" / "replay.py"
INGEST = (COMMAND[0], "ingest")
LATENESS_S = 600
SPAN_S = SHUFFLE_S = LATENESS_S // 2 - 10
"""Of the payments that are under way together, and by how much one may come late: both are within the lateness."""
LABELS_S = 1_800
KILLS = 6
KILLED_MAX_S = 60.0


@pytest.fixture(scope="module")
def weeks(shared_data: Path) -> TwoWeeks:
    """Return the payments, or skip where they are absent."""
    return TwoWeeks(shared_data)


@pytest.fixture(scope="module")
def truth(weeks: TwoWeeks) -> dict[str, NDArray[Any]]:
    """Return what SQL says."""
    truth = weeks.truth()
    assert truth["count_5m"].any()
    assert truth["frauds_1d"].any()
    return truth


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the declaration, beside its model."""
    folder = tmp_path_factory.mktemp("replay")
    (folder / "models").mkdir()
    views = load_pipelines(DECLARED)[0].views
    names = [f"{view.__name__}.{column.name}" for view in views for column in view.spec.columns]
    linear(folder / "models", "replay", dict.fromkeys(names, 0.001))
    return Path(shutil.copy(DECLARED, folder))


@pytest.fixture(scope="module")
def history(weeks: TwoWeeks, file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store in which what came before is counted."""
    folder = tmp_path_factory.mktemp("history")
    for stream, path in weeks.write_history(folder).items():
        command = [*INGEST, str(file), "--store", f"lmdb:{folder / 'store'}", "--from", str(path), "--stream", stream]
        done = subprocess.run([*command, "--json"], check=True, capture_output=True, timeout=300)
        report = json.loads(done.stdout)
        assert report["counted"] > 200_000
        assert report["counted"] == sum(report[name] for name in ("counted", "duplicate", "late", "future", "poison"))
    return folder / "store"


@pytest.fixture
def server(file: Path, history: Path, tmp_path: Path) -> Iterator[Server]:
    """Serve on a copy of that store."""
    shutil.copytree(history, tmp_path / "store")
    with serving(tmp_path / "log", file, "--store", f"lmdb:{tmp_path / 'store'}") as server:
        yield server


class Client:
    """One connection to the server."""

    def __init__(self, server: Server) -> None:
        host, _, port = server.url.removeprefix("http://").partition(":")
        self._raw = RawClient((host, int(port)))
        self.again = 0
        """How often events were sent again."""

    def score(self, pipeline: str, payments: Sequence[bytes]) -> list[dict[str, Any]]:
        """Send requests one behind the other, without waiting; return their answers in order."""
        path = f"/v1/pipelines/{pipeline}/predict"
        self._raw.send(b"".join(post(payment, path=path) for payment in payments))
        answers = [self._raw.read() for _ in payments]
        assert {answer.status for answer in answers} <= {200}, answers
        return [msgspec.json.decode(answer.body) for answer in answers]

    def send(self, stream: str, events: Sequence[bytes]) -> None:
        """Send events until they are counted."""
        end_s = time.monotonic() + KILLED_MAX_S
        for begin in range(0, len(events), 1_000):
            message = post(b"[%b]" % b",".join(events[begin : begin + 1_000]), path=f"/v1/streams/{stream}/events")
            while (answer := self._raw.ask(message)).status != 200:
                assert answer.status in (500, 503, 504), answer
                assert time.monotonic() < end_s
                self.again += 1
                time.sleep(0.02)
            assert not answer.json["refused"], answer

    def close(self) -> None:
        """Close it."""
        self._raw.sock.close()


class Labels:
    """The labels of the payments: each is sent before it counts, by half an hour at most."""

    def __init__(self, weeks: TwoWeeks, client: Client) -> None:
        self._weeks = weeks
        self._client = client
        self._sent = 0

    def send_until(self, at_s: int) -> None:
        """Send those that are known by then, unless they are sent."""
        if self._sent < bisect_right(self._weeks.known, at_s):
            end = bisect_right(self._weeks.known, at_s + LABELS_S)
            self._client.send("labels", self._weeks.labels[self._sent : end])
            self._sent = end


def test_payments_that_are_events_are_served_the_truth(
    weeks: TwoWeeks, truth: dict[str, NDArray[Any]], server: Server
) -> None:
    """Each payment is scored and counted as it comes, one behind the other on one connection."""
    client = Client(server)
    labels, answers, begin = Labels(weeks, client), [], 0
    while begin < len(weeks.times):
        end = bisect_right(weeks.times, weeks.times[begin] + SPAN_S)
        labels.send_until(weeks.times[end - 1])
        answers += client.score("recorded", weeks.payments[begin:end])
        begin = end
    client.close()
    assert_true(answers, truth)
    assert server.metric("tailrace_events_total", 'stream="payments"', 'fate="counted"') == len(weeks.times)


def test_events_out_of_order_and_twice_are_served_the_truth_through_kills(
    weeks: TwoWeeks, truth: dict[str, NDArray[Any]], server: Server
) -> None:
    """Two connections send all payments, each twice, while the server's ingester is killed again and again."""
    senders = [Client(server) for _ in range(2)]
    with ThreadPoolExecutor(len(senders)) as threads:

        def count(events: list[bytes], is_fatal: bool) -> None:
            halves = [threads.submit(each.send, "payments", events[part::2]) for part, each in enumerate(senders)]
            if is_fatal:
                os.kill(ingester_pid(server), signal.SIGKILL)
            for half in halves:
                half.result()

        answers = replay(weeks, server, count)
    assert_true(answers, truth)
    assert sum(each.again for each in senders) >= KILLS
    assert server.companions()[0]["restarts"] == KILLS
    for each in senders:
        each.close()


def test_events_of_a_redis_stream_are_served_the_truth_through_kills(
    weeks: TwoWeeks,
    truth: dict[str, NDArray[Any]],
    file: Path,
    server: Server,
    redis_server: RedisServer,
    tmp_path: Path,
) -> None:
    """Two consumers of one group share all payments, each twice, and are killed again and again."""
    origin = f"{redis_server.url}?stream=payments"
    command = [*INGEST, str(file), "--store", f"lmdb:{tmp_path / 'store'}", "--stream", "payments", "--from", origin]
    with redis.Redis.from_url(redis_server.url) as client, ExitStack() as stack:
        consumers = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
        stack.callback(lambda: list(map(end, consumers)))
        wait_for(lambda: client.exists("payments") and len(client.xinfo_consumers("payments", "tailrace")) == 2, 60)
        turn = cycle(((0, 1), (0,), (1,)))

        def count(events: list[bytes], is_fatal: bool) -> None:
            with client.pipeline(transaction=True) as adding:
                for event in events:
                    adding.xadd("payments", {"event": event}, maxlen=10_000)
                adding.execute()
            if is_fatal:
                for place in next(turn):
                    end(consumers[place])
                    consumers[place] = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            wait_idle(client)

        answers = replay(weeks, server, count)
        assert len(client.xinfo_consumers("payments", "tailrace")) > 2 + KILLS
    assert_true(answers, truth)


def replay(weeks: TwoWeeks, server: Server, count: Callable[[list[bytes], bool], None]) -> list[dict[str, Any]]:
    """Have all payments counted out of order, each twice, and ask for each when all before it have come.

    count: has events counted, and whether what counts them is to be killed meanwhile. Returns the answers in order.
    """
    random, client = np.random.default_rng(5), Client(server)
    delays = random.integers(SHUFFLE_S, size=(2, len(weeks.times))).tolist()
    arrivals = sorted(
        (at_s + late, place)
        for each in delays
        for place, (at_s, late) in enumerate(zip(weeks.times, each, strict=True))
    )
    comes = [at_s for at_s, _ in arrivals]
    fatal = {len(arrivals) * number // (KILLS + 1) for number in range(1, KILLS + 1)}
    labels, answers, begin = Labels(weeks, client), [], 0
    while begin < len(arrivals):
        end = bisect_right(comes, comes[begin] + SPAN_S)
        count([weeks.payments[place] for _, place in arrivals[begin:end]], not fatal.isdisjoint(range(begin, end)))
        begin = end
        until_s = comes[end] - SHUFFLE_S if end < len(comes) else weeks.times[-1] + 1
        labels.send_until(until_s)
        ready = bisect_left(weeks.times, until_s)
        answers += client.score("asked", weeks.payments[len(answers) : ready])
    client.close()
    return answers


def ingester_pid(server: Server) -> int:
    """Return the pid of the server's ingester."""
    (ingester,) = server.companions()
    return int(ingester["pid"])


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process."""
    process.kill()
    process.wait()


def wait_idle(client: Any) -> None:
    """Wait until all entries are read and acknowledged."""
    end_s = time.monotonic() + KILLED_MAX_S
    while True:
        (group,) = client.xinfo_groups("payments")
        if group["lag"] == group["pending"] == 0:
            return
        assert time.monotonic() < end_s
        time.sleep(0.001)
