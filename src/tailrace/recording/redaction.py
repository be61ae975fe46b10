"""What is taken out of a recorded call: secrets in heads, and the fields that the pipeline's types call redacted.

Which fields these are the server's own document says (`x-redact` in /openapi.json), so that whoever records needs no
file of the pipeline's. What becomes of a value is told in request/masking.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from tailrace.codecs.inflating import CODINGS
from tailrace.errors import ServingError
from tailrace.recording.stream import fields_of
from tailrace.request.masking import Masking

SECRETS: Final = frozenset(
    (b"authorization", b"proxy-authorization", b"x-api-key", b"cookie", b"set-cookie", b"x-amz-security-token")
)
"""Headers whose values are never kept."""
SECRET: Final = b"[redacted]"
_SECRET_LINE: Final = re.compile(
    rb"^([ \t]*(?:" + b"|".join(sorted(SECRETS)) + rb")[ \t]*):[^\r\n]*(?:\r?\n[ \t][^\r\n]*)*", re.I | re.M
)
"""With the lines that go on with it. A line may end without a carriage return: there are servers that read it so."""
INFLATED_BYTES_MAX: Final = 16 << 20
_QUOTED: Final = re.compile(r"'[^']*'")
_FORMS: Final = {b"": "json", b"application/json": "json", b"application/problem+json": "json"} | dict.fromkeys(
    (b"application/msgpack", b"application/vnd.msgpack", b"application/x-msgpack"), "msgpack"
)


def without_secrets(head: bytes) -> bytes:
    """Return a head, or what should have been one, with the values of secret headers replaced."""
    return _SECRET_LINE.sub(rb"\1: " + SECRET, head)


@dataclass(slots=True)
class Redacted:
    """A body as it may be kept. content None: not at all, for the reason that `left_out` tells. paths: what is masked.

    is_plain: whether a body that came compressed is not any more.
    """

    content: bytes | None
    left_out: str = ""
    paths: list[str] = field(default_factory=list)
    is_plain: bool = False


class Redaction:
    """Takes out of the bodies of one server's calls what its document says. document: as /openapi.json has it.

    keep_raw: bodies that cannot be read are kept whole, instead of left out.
    """

    def __init__(self, document: Mapping[str, Any], *, keep_raw: bool = False) -> None:
        self._masking = Masking(document)
        self._keep_raw = keep_raw
        self._asked: dict[str, Any] = {}
        self._answered: dict[str, Any] = {}
        for path, methods in document.get("paths", {}).items():
            operation = methods.get("post", {})
            self._asked[path] = self._schema_of(operation.get("requestBody", {}))
            self._answered[path] = self._schema_of(operation.get("responses", {}).get("200", {}))
        schemas = [*self._asked.values(), *self._answered.values()]
        self._redacts = any(map(self._masking.is_secret, schemas)) and not keep_raw

    def of_request(self, path: str, head: bytes, body: bytes) -> Redacted:
        """Return the body of a request as it may be kept. path: of its route; "" for what is no HTTP."""
        if path not in self._asked and self._redacts:
            return Redacted(None, "a pipeline redacts fields, and this is not sent to one that the document names")
        return self._redact(self._asked.get(path), head, body)

    def of_answer(self, path: str, head: bytes, body: bytes) -> Redacted:
        """Return the body of an answer as it may be kept; of a problem, without the values that it quotes."""
        asked = self._asked.get(path)
        is_unknown = path not in self._asked and self._redacts
        if fields_of(head).get(b"content-type", b"").startswith(b"application/problem+json"):
            return self._without_quotes(body) if is_unknown or self._masking.is_secret(asked) else Redacted(body)
        if is_unknown and body:
            return Redacted(None, "a pipeline redacts fields, and this comes from nothing that the document names")
        return self._redact(self._answered.get(path), head, body)

    def _redact(self, schema: Any, head: bytes, body: bytes) -> Redacted:
        if not self._masking.is_secret(schema) or not body:
            return Redacted(body)
        fields = fields_of(head)
        form = _FORMS.get(fields.get(b"content-type", b"").partition(b";")[0].strip().lower(), "")
        coding = fields.get(b"content-encoding", b"").lower()
        paths: list[str] = []
        try:
            masked = self._masking.mask(_decode(body, form, coding), schema, "$", paths)
        except (ValueError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if self._keep_raw:
                return Redacted(body)
            return Redacted(None, f"the pipeline redacts fields, and the body cannot be read: {error}")
        if not paths:
            return Redacted(body)
        encoder = msgspec.json if form == "json" else msgspec.msgpack
        return Redacted(encoder.encode(masked), paths=paths, is_plain=bool(coding))

    def _without_quotes(self, body: bytes) -> Redacted:
        try:
            problem = msgspec.json.decode(body, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Redacted(None, "the problem cannot be read")
        detail = _QUOTED.sub("'…'", str(problem.get("detail", "")))
        if detail == problem.get("detail", ""):
            return Redacted(body)
        return Redacted(msgspec.json.encode(problem | {"detail": detail}), paths=["$.detail"])

    def _schema_of(self, part: Mapping[str, Any]) -> Any:
        return self._masking.resolved(part).get("content", {}).get("application/json", {}).get("schema")


def _decode(body: bytes, form: str, coding: bytes) -> Any:
    """Return the value of a body. Raises ValueError and msgspec's errors."""
    if coding not in (b"", b"identity"):
        if coding not in CODINGS:
            raise ValueError(f"its coding is {coding.decode('latin-1')}")
        inflated = CODINGS[coding](body, INFLATED_BYTES_MAX)
        if isinstance(inflated, ServingError):
            raise ValueError(inflated.what)
        body = inflated
    if not form:
        raise ValueError("it is neither JSON nor MessagePack")
    return msgspec.json.decode(body) if form == "json" else msgspec.msgpack.decode(body)
