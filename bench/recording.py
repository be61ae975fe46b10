"""What a client writes, as it was recorded: two requests of one connection, and what differs between them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from machine import BenchError

CLIENTS: Final = Path(__file__).parent / "clients"
LENGTH_MARK, BODY_MARK, HEX_MARK, CUT_MARK = "\x01", "\x02", "\x03", "\x1e"
"""What the template of bench/replay.c holds in the place of what varies."""
PLAIN_HEAD: Final = (
    "POST {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json\r\nContent-Length: "
    f"{LENGTH_MARK}\r\n\r\n"
)
VARYING: Final = {"content-length", "traceparent"}
"""The headers whose next value is known; a client that varies another one needs a thought of its own."""


@dataclass(frozen=True, slots=True)
class Recording:
    """Two requests that a client sent one after the other on one connection.

    authority: the address they went to. varies: the headers, in lower case, whose values differ between the two.
    requests: each as the segments in which it was written, in Latin-1.
    """

    client: str
    version: str
    authority: str
    varies: list[str]
    requests: list[list[str]]

    @property
    def writes(self) -> int:
        """In how many writes the client sends a request."""
        return len(self.requests[0])


def make_recording(client: str, version: str, authority: str, connections: Sequence[list[list[bytes]]]) -> Recording:
    """Return the last two neighbours of a connection that are in as many segments as any.

    A reader that was late sees two writes as one, never one as two. Raises BenchError where there are no such two.
    """
    most = max((len(request) for requests in connections for request in requests), default=0)
    pairs = [
        [first, second]
        for requests in connections
        for first, second in pairwise(requests)
        if len(first) == len(second) == most and b"".join(first) != b"".join(second)
    ]
    if not pairs:
        raise BenchError(f"{client}: no two requests after each other on one connection, of {most} segments each")
    requests = [[segment.decode("latin-1") for segment in request] for request in pairs[-1]]
    return Recording(client, version, authority, find_varying(*map("".join, requests)), requests)


def find_varying(first: str, second: str) -> list[str]:
    """Return the names of the headers whose values differ between two requests. Raises BenchError for other ones."""
    fields, others = (split_fields(request) for request in (first, second))
    if list(fields) != list(others):
        raise BenchError(f"two requests of one client have other headers: {list(fields)}, {list(others)}")
    return [name for name, value in fields.items() if value != others[name]]


def split_fields(request: str) -> dict[str, str]:
    """Return the headers of a request, by their names in lower case, in order."""
    lines = request.partition("\r\n\r\n")[0].split("\r\n")[1:]
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def read_recordings(folder: Path = CLIENTS) -> dict[str, Recording]:
    """Return the recordings of a folder by the clients' names."""
    return {path.stem: Recording(**json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))}


def write_recording(recording: Recording, folder: Path = CLIENTS) -> None:
    """Write a recording to the file of its client."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{recording.client}.json").write_text(json.dumps(asdict(recording), indent=1, ensure_ascii=True) + "\n")


def template_of(recording: Recording, authority: str, path: str) -> str:
    """Return the template of a client's requests to another server, cut where the client cuts.

    Raises BenchError for a header that varies and whose next value nobody knows.
    """
    if unknown := set(recording.varies) - VARYING:
        raise BenchError(f"{recording.client} varies {', '.join(sorted(unknown))}: say in recording.py how")
    whole, cut = "", []
    for segment in recording.requests[-1]:
        cut.append(len(whole))
        whole += segment
    head, body_at = whole.partition("\r\n\r\n")[0], whole.index("\r\n\r\n") + 4
    if any(at not in (0, body_at) for at in cut):
        raise BenchError(f"{recording.client} cuts its requests at {cut}, and not before the body at {body_at}")
    request_line, *lines = head.split("\r\n")
    method, _, version = request_line.split(" ")
    told = [f"{method} {path} {version}", *(template_line(line, recording.authority, authority) for line in lines)]
    return "\r\n".join(told) + "\r\n\r\n" + (CUT_MARK if len(cut) > 1 else "") + BODY_MARK


def template_line(line: str, old_authority: str, authority: str) -> str:
    """Return a line of a head with marks for what varies, and the address of another server."""
    name, colon, value = line.partition(":")
    if name.lower() == "content-length":
        value = f" {LENGTH_MARK}"
    elif name.lower() == "traceparent":
        value = re.sub(r"[0-9a-f]{16,}", lambda run: HEX_MARK * len(run[0]), value)
    return name + colon + value.replace(old_authority, authority)


def plain_template(authority: str, path: str, writes: int = 1) -> str:
    """Return the template of a client that sends no more than it must, in one write or two."""
    return PLAIN_HEAD.format(path=path, authority=authority) + (CUT_MARK if writes > 1 else "") + BODY_MARK
