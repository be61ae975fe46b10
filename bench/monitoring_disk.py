"""The prediction log on the disk: what a prediction takes of it, where no two requests are alike.

Predicted before it ran: 107 bytes, as an earlier log took that was written again with random ids; 20 are the id's.
"""

from __future__ import annotations

import http.client
from contextlib import ExitStack
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Final
from urllib.parse import urlsplit
from uuid import uuid4

import pyarrow.parquet as pq

from figures import Figures
from machine import LOAD_CORE, SERVER_CORE, BenchError
from part import Line, Part, Session
from peers import start_tailrace


def measure(session: Session) -> Figures:
    """Send each payment once, with an id of its own, and look at what the log takes when the server has ended."""
    folder = Path(mkdtemp(prefix="tailrace-disk-"))
    bodies = session.bodies.read_bytes().splitlines()[: session.pick(20_000, 2_000)]
    session.tell("prediction log on the disk")
    try:
        with ExitStack() as stack:
            cores = {SERVER_CORE, LOAD_CORE}
            server = start_tailrace(stack, cores=cores, name="tailrace-disk", options=("--log", str(folder)))
            send(server.url, bodies)
        paths = list(folder.rglob("*.parquet"))
        rows = sum(pq.read_metadata(path).num_rows for path in paths)
        if rows != len(bodies):
            raise BenchError(f"prediction log on the disk: {rows} of {len(bodies)} predictions are there")
        return {"monitoring": {"log_bytes_per_prediction": round(sum(path.stat().st_size for path in paths) / rows)}}
    finally:
        rmtree(folder)


def send(url: str, bodies: list[bytes]) -> None:
    """Send requests one behind the other, each with a random id."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc)
    for body in bodies:
        headers = {"Content-Type": "application/json", "X-Request-Id": str(uuid4())}
        connection.request("POST", address.path, body, headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise BenchError(f"prediction log on the disk: a payment was answered {answer.status}")
    connection.close()


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table."""
    return [Line("bytes of the log a prediction", figures["monitoring"]["log_bytes_per_prediction"], 200, 100)]


PART: Final = Part(
    name="monitoring_disk",
    about="the prediction log: what a prediction takes of the disk",
    caveats=("monitoring_disk: the fraud example's payments, each sent once with a random UUID as its id.",),
    steps=lambda session: 1,
    measure=measure,
    lines=lines,
)
