"""The client against the server that serves."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from server.http_server import PIPELINES, RunningServer, ample
from tailrace.client import AsyncClient, Client, Options
from tailrace.errors import InvalidRequestError, NotFoundError, ServerError
from tailrace.pipeline import Pipeline
from tailrace.response.schema import Response


class Score(Response):
    """What the pipeline `log` answers."""

    score: float
    decision: str
    label: str


@pytest.fixture(scope="module")
def server(pipeline_of: Callable[[str], Pipeline]) -> Iterator[RunningServer]:
    """Serve the small pipelines."""
    with RunningServer([ample(pipeline_of(name)) for name in PIPELINES]) as server:
        yield server


@pytest.fixture
def url(server: RunningServer) -> str:
    """Return the server's address."""
    return f"http://127.0.0.1:{server.address[1]}"


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_answer_is_a_dict_or_of_a_type(connect: Callable[..., Any], url: str, codec: str) -> None:
    """A dict goes and comes, a type where it is wanted, lists for lists, in either codec."""
    client = connect(url, codec=codec)
    assert client.predict("log", {"amount": 1.0, "label": "é"}) == {"score": 0.0, "decision": "low", "label": "é"}
    assert client.predict("log", {"amount": 1.0}, into=Score) == Score(score=0.0, decision="low", label="")
    answers = client.predict("log", [{"amount": 1.0, "label": str(at)} for at in range(3)], into=list[Score])
    assert [each.label for each in answers] == ["0", "1", "2"]


def test_large_batch_goes_in_parts(connect: Callable[..., Any], url: str, server: RunningServer) -> None:
    """2,500 requests, over the server's limit of one array, are answered in order, read as they are wanted."""
    requests = ({"amount": 1.0, "label": str(at)} for at in range(2_500))
    answers = connect(url).predict_each("log", requests, into=Score, budget="10s")
    assert [each.label for each in answers] == [str(at) for at in range(2_500)]


def test_error_is_the_one_that_the_server_tells(connect: Callable[..., Any], url: str) -> None:
    """Class, status, what, where and next are those of the problem."""
    client = connect(url)
    with pytest.raises(InvalidRequestError) as caught:
        client.predict("log", {"amount": "much"})
    assert (caught.value.status, caught.value.where) == (422, "$.amount")
    assert "float" in caught.value.what
    with pytest.raises(NotFoundError) as missing:
        client.predict("no such/pipe", {"amount": 1.0})
    assert missing.value.next
    with pytest.raises(ServerError, match="not as expected"):
        client.predict("log", {"amount": 1.0}, into=list[Score])
    with pytest.raises(InvalidRequestError):
        client.predict("log", {"amount": object()})


def test_threads_share_a_client(url: str) -> None:
    """Of 8 threads each gets its own answers, over no more connections than it may have."""
    wrong: list[str] = []
    with Client(url, Options(connections_max=3, budget="20s")) as client:

        def call(name: int) -> None:
            for at in range(50):
                label = f"{name}-{at}"
                if client.predict("log", {"amount": 1.0, "label": label}, into=Score).label != label:
                    wrong.append(label)

        threads = [threading.Thread(target=call, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


FORKING = """
import os, sys
from tailrace.client import Client, Options
client = Client(sys.argv[1], Options(budget="20s"))
client.predict("log", {"amount": 1.0})
pid = os.fork()
name = "child" if pid == 0 else "parent"
labels = [f"{name}-{at}" for at in range(200)]
good = all(client.predict("log", {"amount": 1.0, "label": each})["label"] == each for each in labels)
client.close()
if pid == 0:
    os._exit(0 if good else 1)
sys.exit(not good or os.waitpid(pid, 0)[1])
"""


def test_fork_shares_no_connection(url: str) -> None:
    """A process and its fork that call with one client each get their own answers."""
    subprocess.run([sys.executable, "-c", FORKING, url], check=True, timeout=60)


def test_tasks_share_a_client(url: str) -> None:
    """Of 200 calls at once each gets its own answer, over no more connections than there may be."""

    async def call_all() -> list[Any]:
        async with AsyncClient(url, Options(connections_max=5, budget="20s")) as client:
            calls = [client.predict("log", {"amount": 1.0, "label": str(at)}, into=Score) for at in range(200)]
            return list(await asyncio.gather(*calls))

    assert [each.label for each in asyncio.run(call_all())] == [str(at) for at in range(200)]
