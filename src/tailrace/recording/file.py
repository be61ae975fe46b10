"""The file of recorded calls: JSON, one a line, behind a head that says what it is and before an end that seals it.

    {"format":"tailrace recording","version":1,"server":"http://…","recorded":"2026-01-02T03:04:05Z"}
    {"at":"…","head":"UE9TVCAv…","body":"eyJ…","status":422,…}
    {"calls":1,"sha256":"9f86…"}

Bytes are base64. The seal is of all bytes before its line: a file that is cut or altered is not taken for whole.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from tailrace.errors import SetupError

FORMAT: Final = "tailrace recording"
VERSION: Final = 1
FILE_BYTES_MAX: Final = 256 << 20


class RecordedCall(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One call, as its client sent it, and its answer.

    at: when its first byte came. head, body: as they came, without secrets; body None: left out, for a reason that
    `left_out` tells. is_chunked: the body came in chunks, which are joined. redacted, answer_redacted: the paths whose
    values are others now. status 0: there was no answer. first_ms, whole_ms: from the first byte that came to the first
    and to the last of the answer. release: that answered it, layers: what it took of which layer, both as the server
    tells them.
    """

    at: dt.datetime
    head: bytes
    body: bytes | None
    left_out: str = ""
    is_chunked: bool = False
    redacted: tuple[str, ...] = ()
    status: int
    answer_head: bytes = b""
    answer: bytes | None = b""
    answer_redacted: tuple[str, ...] = ()
    first_ms: float = 0.0
    whole_ms: float = 0.0
    release: str = ""
    layers: dict[str, float] = {}

    @property
    def line(self) -> str:
        """The first line of its head."""
        return self.head.partition(b"\r\n")[0].decode("latin-1")


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """What a file holds. server: that was recorded."""

    server: str
    recorded: dt.datetime
    calls: tuple[RecordedCall, ...]


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    format: str
    version: int
    server: str
    recorded: dt.datetime


class _Seal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    calls: int
    sha256: str


class _Version(msgspec.Struct, frozen=True):
    format: str
    version: int


def write_recording(path: Path, server: str, calls: Sequence[RecordedCall]) -> None:
    """Write calls to a file that its owner alone may read; one that is there is replaced when the new one is whole.

    Raises SetupError where it cannot be written.
    """
    encode = msgspec.json.Encoder().encode
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    lines = [encode(_Head(format=FORMAT, version=VERSION, server=server, recorded=now)), *map(encode, calls)]
    content = b"".join(line + b"\n" for line in lines)
    seal = encode(_Seal(calls=len(calls), sha256=hashlib.sha256(content).hexdigest()))
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content + seal + b"\n")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise SetupError(f"cannot be written: {error.strerror or error}", where=str(path),
                         next="choose another --out") from error  # fmt: skip


def read_recording(path: Path) -> Recording:
    """Return what a file holds. Raises SetupError for one that is none, is cut or altered, or of another version."""
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise SetupError(f"it is over {FILE_BYTES_MAX} bytes", where=str(path), next="record fewer calls")
        content = path.read_bytes()
    except OSError as error:
        raise SetupError(f"cannot be read: {error.strerror or error}", where=str(path),
                         next="give a file that tailrace record has written") from error  # fmt: skip
    first, _, _ = content.partition(b"\n")
    try:
        told = msgspec.json.decode(first, type=_Version)
    except (msgspec.DecodeError, UnicodeDecodeError):
        told = _Version("", 0)
    if told.format != FORMAT:
        raise SetupError("it is no recording", where=str(path), next="give a file that tailrace record has written")
    if told.version != VERSION:
        raise SetupError(f"its version is {told.version}, and {VERSION} is read here", where=str(path),
                         next="replay it with the Tailrace that recorded it, or record again")  # fmt: skip
    return _unsealed(path, content)


def _unsealed(path: Path, content: bytes) -> Recording:
    """Return what sealed bytes hold. Raises SetupError where the seal does not fit."""
    sealed, last = content[: content.rfind(b"\n", 0, -1) + 1], content[content.rfind(b"\n", 0, -1) + 1 :]
    again = "copy or record it again"
    try:
        seal = msgspec.json.decode(last, type=_Seal)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise SetupError("it is cut short: its end is missing", where=str(path), next=again) from None
    if hashlib.sha256(sealed).hexdigest() != seal.sha256:
        raise SetupError("it is altered: its checksum is another", where=str(path), next=again)
    lines = sealed.splitlines()
    if seal.calls != len(lines) - 1:
        raise SetupError("it is altered: it has another number of calls", where=str(path), next=again)
    head = msgspec.json.decode(lines[0], type=_Head)
    decode = msgspec.json.Decoder(RecordedCall).decode
    try:
        return Recording(server=head.server, recorded=head.recorded, calls=tuple(map(decode, lines[1:])))
    except msgspec.DecodeError as error:
        raise SetupError(f"it cannot be read: {error}", where=str(path), next=again) from None
