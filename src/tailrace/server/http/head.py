"""The head of an HTTP request, read once: the route it names and what the caller asks for beside the body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from tailrace.errors import (
    ClientError,
    ExpectationFailedError,
    MethodNotAllowedError,
    NotFoundError,
    ServingError,
)
from tailrace.server.endpoint import CallEndpoint, Page, Routes
from tailrace.server.keys import Caller, Callers
from tailrace.server.oip.errors import is_oip
from tailrace.server.trace_context import TRACEPARENT, TRACESTATE
from tailrace.server.wishes import read_budget, read_priority

JSON_BYTES: Final = b"inference-header-content-length"
JSON_DIGITS_MAX: Final = 12
VERSIONS: Final = b"/versions/"
PATHS_TOLD_MAX: Final = 64

REQUEST_ID: Final = b"x-request-id"
BUDGET: Final = b"x-budget-ms"
TOLD: Final = frozenset({REQUEST_ID, BUDGET, TRACEPARENT, TRACESTATE})
"""Headers that say something of each call beside how it is to be served."""


class Head(msgspec.Struct, gc=False):
    """What one request head says. Shared by every request of its form, so it never changes.

    endpoint: what serves the request. body_bytes: the declared length, -1 for a chunked body. is_plain: the answer
    needs no header but the usual ones. budget_ns: the caller's own, or the pipeline's. gzip: whether the answer may be
    compressed. told: headers of `TOLD`, as they came with the head that was read; None where there were none.
    authorization: as it was sent. fault: why nothing serves the request, answered once its body has been
    passed over. expects_continue: the client waits with its body for a word. caller: who has shown a key, where one
    is asked for. is_oip: errors are told as the Open Inference Protocol has it; json_bytes: of the body's beginning,
    where tensors follow it, else -1. route: the method and the path of an endpoint that there is. query: of
    the target, where a page serves it.
    """

    endpoint: CallEndpoint | Page | None
    body_bytes: int
    is_plain: bool
    keep_alive: bool
    with_body: bool = True
    version: str = "1.1"
    budget_ns: int = 0
    trace: bool = False
    gzip: bool = False
    told: dict[bytes, bytes] | None = None
    authorization: bytes = b""
    expects_continue: bool = False
    fault: ServingError | None = None
    allow: bytes = b""
    is_oip: bool = False
    json_bytes: int = -1
    caller: Caller | None = None
    route: str = ""
    query: bytes = b""


def read_head(
    routes: Routes, method: bytes, url: bytes, headers: Sequence[tuple[bytes, bytes]], version: str, keep_alive: bool,
    keys: Callers | None = None, told: frozenset[bytes] = TOLD, *, with_priority: bool = False,
) -> Head:  # fmt: skip
    """Return what a parsed head says, with a fault in it; `check_framing` finds those that leave its bounds unclear.

    keys: one of which its caller must show for all but open pages: to others no path tells whether it is there.
    with_priority: whether the caller may say one.
    """
    fields = {name.lower(): value for name, value in headers}
    head = Head(
        endpoint=None,
        body_bytes=-1 if b"transfer-encoding" in fields else int(fields.get(b"content-length", b"0")),
        is_plain=False,
        keep_alive=keep_alive,
        with_body=method != b"HEAD",
        version=version,
        trace=fields.get(b"x-trace") == b"1",
        gzip=_accepts_gzip(fields.get(b"accept-encoding", b"")),
        told=_told(headers, told) if not told.isdisjoint(fields) else None,
        authorization=fields.get(b"authorization", b""),
    )
    expect = fields.get(b"expect") if version == "1.1" else None  # RFC 9110 §10.1.1: 1.0 knows no Expect
    head.expects_continue = expect is not None
    try:
        path = _path_of(url)
        head.is_oip = is_oip(path)
        if keys is not None and not _is_open(routes.get(path)):
            head.caller = keys.caller(headers)
        head.endpoint, head.allow = _find(routes, method, path)
        if head.endpoint is None:
            allow = head.allow.decode()
            raise MethodNotAllowedError(f"{method.decode('latin-1')} is not allowed here", next=f"use {allow}")
        if b"?" in url:
            _read_query(head, url)
        budget_ns = read_budget(fields.get(BUDGET))
        if isinstance(head.endpoint, CallEndpoint):
            head.route = f"{method.decode('latin-1')} {path.decode('latin-1')}"
            head.budget_ns = min(budget_ns or head.endpoint.budget_ns, head.endpoint.budget_ns)
            types = fields.get(b"content-type", b""), fields.get(b"accept", b"")
            head.endpoint = head.endpoint.speaking(*types, fields.get(b"content-encoding", b""))
            if head.is_oip:
                head.json_bytes = _read_json_bytes(fields.get(JSON_BYTES))
            asked = read_priority(fields.get(b"x-priority")) if with_priority else None
            if head.caller is not None:
                head.endpoint = head.caller.admitted(head.endpoint, asked)
            elif asked is not None:
                head.endpoint = head.endpoint.at_priority(asked)
        else:
            head.endpoint = head.endpoint.speaking(fields.get(b"accept", b""))
        if expect is not None and expect.lower() != b"100-continue":
            raise ExpectationFailedError(f"cannot meet Expect: {expect.decode('latin-1')!r}", where="Expect")
    except ServingError as fault:
        head.fault, head.endpoint = fault.bare(), None  # which would hold this frame, and that the head
    head.is_plain = (
        keep_alive
        and version == "1.1"
        and not (head.trace or head.fault or head.is_oip or (head.told is not None and REQUEST_ID in head.told))
    )
    return head


def _told(headers: Sequence[tuple[bytes, bytes]], names: frozenset[bytes]) -> dict[bytes, bytes] | None:
    """Return the headers of some names; None where there is none. Of several of one name, all, as RFC 9110 §5.3 has it.

    Of a request id the last is told: none of those that come twice is one.
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        lower, stripped = name.lower(), value.strip()
        if lower in names and stripped:
            before = b"" if lower == REQUEST_ID else found.get(lower, b"")
            found[lower] = before + b", " + stripped if before else stripped
    return found or None


def check_framing(version: str, headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Raise ClientError for a version or a coding that is not ours, or not one host (RFC 9112 §2.3, §6.1, §3.2).

    Another server may read such a head in another way, so nothing behind it can be taken for a request.
    """
    if version not in ("1.1", "1.0"):
        raise ClientError(f"HTTP/{version} is not spoken here", next="send HTTP/1.1")
    codings = [value for name, value in headers if name.lower() == b"transfer-encoding"]
    if codings and (version == "1.0" or [coding.lower() for coding in codings] != [b"chunked"]):
        found = b", ".join(codings).decode("latin-1")
        raise ClientError(f"cannot read Transfer-Encoding: {found!r}", where="Transfer-Encoding", next="send chunked")
    hosts = sum(name.lower() == b"host" for name, _ in headers)
    if hosts > 1 or (version == "1.1" and not hosts):
        raise ClientError(f"the head names {hosts} hosts", where="Host", next="send one Host header")


def _path_of(url: bytes) -> bytes:
    """Return the path of a target in origin or absolute form (RFC 9112 §3.2)."""
    if not url.startswith(b"/") and b"://" in url:
        url = b"/" + url.partition(b"://")[2].partition(b"/")[2]
    return url.partition(b"?")[0]


def _is_open(methods: Mapping[bytes, CallEndpoint | Page] | None) -> bool:
    """Say whether what serves a path asks nobody for a key."""
    return methods is not None and all(isinstance(route, Page) and route.is_open for route in methods.values())


def _read_query(head: Head, url: bytes) -> None:
    """Take what a target's query says: to calls in which mode they are taken, to a page all of it."""
    if isinstance(head.endpoint, CallEndpoint):
        head.endpoint = _in_mode(head.endpoint, url)
    else:
        head.query = url.partition(b"?")[2].partition(b"#")[0]


def _in_mode(endpoint: CallEndpoint, url: bytes) -> CallEndpoint:
    """Return what takes calls in the mode that a target's query names, if it names one.

    Raises ClientError for a mode that is not known, or that the endpoint does not have.
    """
    named = [each[5:] for each in url.partition(b"?")[2].partition(b"#")[0].split(b"&") if each.startswith(b"mode=")]
    if not named:
        return endpoint
    if named != [b"accepted"]:
        raise ClientError("no such mode", where="mode", next="write ?mode=accepted, or leave it out")
    if endpoint.accepting is None:
        what = f"{endpoint.name} answers nowhere but here: it declares no results, or the server has no --accepted"
        raise ClientError(what, where="mode", next="declare results=tr.Webhook(…), and serve with --accepted DIR")
    return endpoint.accepting


def _find(routes: Routes, method: bytes, path: bytes) -> tuple[CallEndpoint | Page | None, bytes]:
    """Return the route, or None and the methods that the path does allow."""
    methods = routes.get(path)
    if methods is None:
        near = sorted(route.decode() for route in routes if is_oip(route) == is_oip(path) and VERSIONS not in route)
        known = ", ".join(near[:PATHS_TOLD_MAX])
        raise NotFoundError(f"no such path: {path.decode('latin-1')!r}", next=f"the paths are {known}")
    route = methods.get(b"GET" if method == b"HEAD" else method)
    allowed = {*methods, b"HEAD"} if b"GET" in methods else methods
    return route, b"" if route is not None else b", ".join(sorted(allowed))


def _accepts_gzip(value: bytes) -> bool:
    """Say whether an Accept-Encoding takes gzip (RFC 9110 §12.5.3); a weight of 0 refuses it, a name beats "*"."""
    weights = {}
    for part in value.lower().split(b","):
        coding, _, weight = part.partition(b";")
        weights[coding.strip()] = weight.replace(b" ", b"").rstrip(b"0")
    return weights.get(b"gzip", weights.get(b"*", b"q=")) not in (b"q=", b"q=0.")


def _read_json_bytes(value: bytes | None) -> int:
    """Return how many bytes of a body are JSON, where tensors follow it; -1 where nobody says so."""
    if value is None:
        return -1
    if not (value.isdigit() and len(value) <= JSON_DIGITS_MAX):
        what = f"{value[:40].decode('latin-1')!r} is no length"
        raise ClientError(what, where="Inference-Header-Content-Length", next="send the bytes of the JSON")
    return int(value)
