"""The corpus of hostile requests: TOML files of cases, each the bytes that are sent and what must come of them.

A case has `name`, `why` where the name does not say it, and either `send`, the bytes as they are, or `body` with
`headers`: then it is a POST with the body's length. A part of them is a text, whose characters are bytes, or a table:
`text` with `times` (`{n}` in it counts) or `hex`; `gzip = true` compresses what comes of it. `{path}` is where a
pipeline is asked; `{json}` in a header is the length of the body's first part.

`answers` are the statuses of all answers, in order. Behind each case a sound request is sent, whose answer is among
them unless the connection is closed before: a case that is read as less, or more, than it says would swallow it or have
it answered twice. Where readers may differ, several lists are allowed. `says` is in the first answer: the case is
refused for what its name says, and not for a slip in how it is written.
"""

from __future__ import annotations

import gzip
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("corpus")
PATH = "/v1/pipelines/log/predict"
SOUND = b'{"amount":2.0,"label":"sound"}'
SOUND_POST = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (PATH.encode(), len(SOUND), SOUND)


@dataclass(frozen=True)
class Case:
    """One hostile request. family: the file it is in. answers: each what may come of it, with that of a sound one.

    says: what the first answer has in its body, empty where any will do.
    """

    family: str
    name: str
    data: bytes
    answers: tuple[tuple[int, ...], ...]
    says: str = ""

    @property
    def is_of_framing(self) -> bool:
        """Whether it is about where a request ends, which is the same for every path."""
        return self.family in {"smuggling", "chunks", "heads"}


@cache
def cases(*families: str) -> tuple[Case, ...]:
    """Return the cases of some files, or of all."""
    found = []
    for path in sorted(FOLDER.glob("*.toml")):
        if not families or path.stem in families:
            found += [_case(path.stem, each) for each in tomllib.loads(path.read_text(encoding="utf-8"))["case"]]
    names = [case.name for case in found]
    assert len(set(names)) == len(names), "two cases share a name"
    return tuple(found)


def statuses(answers: bytes) -> tuple[list[int], list[bytes]]:
    """Return the statuses of some answers behind one another, and their bodies. Of 100 Continue nothing is told.

    Raises ValueError where these are no answers.
    """
    found: list[int] = []
    bodies: list[bytes] = []
    while answers:
        head, end, rest = answers.partition(b"\r\n\r\n")
        line = re.match(rb"HTTP/1\.1 (\d{3}) [^\r\n]+\r\n", head + b"\r\n")
        if line is None or not end:
            raise ValueError(f"no answer: {answers[:200]!r}")
        status = int(line[1])
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        size = int(length[1]) if length else 0
        if len(rest) < size:
            raise ValueError(f"an answer that is cut short: {answers[:200]!r}")
        if status != 100:
            found.append(status)
            bodies.append(rest[:size])
        answers = rest[size:]
    return found, bodies


def _case(family: str, given: dict[str, Any]) -> Case:
    """Return a case as a file has it."""
    unknown = given.keys() - {"name", "why", "send", "body", "headers", "answers", "path", "says"}
    assert not unknown, f"{given['name']}: {unknown}"
    if "send" in given:
        data = _bytes(given["send"])
    else:
        body = _bytes(given["body"])
        first = given["body"][0] if isinstance(given["body"], list) else given["body"]
        headers = [each.replace("{json}", str(len(_bytes(first)))) for each in given.get("headers", [])]
        lines = [f"POST {given.get('path', PATH)} HTTP/1.1", "Host: a", *headers]
        lines.append(f"Content-Length: {len(body)}")
        data = "\r\n".join([*lines, "", ""]).encode("latin-1") + body
    answers = given["answers"] if isinstance(given["answers"][0], list) else [given["answers"]]
    return Case(family, given["name"], data, tuple(map(tuple, answers)), given.get("says", ""))


def _bytes(parts: Any) -> bytes:
    """Return what parts of a case come to."""
    if isinstance(parts, list):
        return b"".join(map(_bytes, parts))
    if isinstance(parts, str):
        return parts.replace("{path}", PATH).encode("latin-1")
    if "hex" in parts:
        data = bytes.fromhex(parts["hex"])
    elif "{n}" in parts["text"]:
        data = b"".join(parts["text"].replace("{n}", str(n)).encode("latin-1") for n in range(parts["times"]))
        return _packed(data, parts)
    else:
        data = parts["text"].encode("latin-1")
    return _packed(data * parts.get("times", 1), parts)


def _packed(data: bytes, parts: dict[str, Any]) -> bytes:
    return gzip.compress(data, mtime=0) if parts.get("gzip") else data
