"""What becomes of payments, told to a running server as events: a week after each, in the time of the payments."""

from __future__ import annotations

import json
from http.client import HTTPConnection
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import numpy as np
from profiles import TOLD_AFTER_DAYS

from tailrace.errors import TailraceError

CALL_MAX: Final = 100
TIMEOUT_S: Final = 10.0
PATH: Final = "/v1/streams/labels/events"


class LabelSender:
    """Sends the labels of a Parquet file in the order of time. sent: how many the server has counted.

    url: of the server.
    """

    def __init__(self, url: str, file: Path) -> None:
        import pyarrow.parquet as pq

        table = pq.read_table(file)
        self.sent = 0
        self._times = table["time"].to_numpy().astype("datetime64[us]")
        moments = np.datetime_as_string(self._times, unit="s").tolist()
        self._events = [
            event | {"time": f"{moment}Z"}
            for event, moment in zip(table.drop(["time"]).to_pylist(), moments, strict=True)
        ]
        self._connection = HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)

    def send_until(self, now: np.datetime64) -> None:
        """Send the labels that are known by `now`. Raises TailraceError where the server refuses one."""
        until = int(np.searchsorted(self._times, now - np.timedelta64(TOLD_AFTER_DAYS, "D"), "right"))
        while self.sent < until:
            events = self._events[self.sent : min(until, self.sent + CALL_MAX)]
            self._connection.request("POST", PATH, json.dumps(events), {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            told = answer.read()
            if answer.status != 200 or json.loads(told)["refused"]:
                raise TailraceError(f"a label was refused: {told.decode()}", where=PATH, next="see the server's log")
            self.sent += len(events)
