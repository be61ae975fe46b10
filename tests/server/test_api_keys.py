"""API keys at a server: who has none gets nowhere, and who had one stops where it ends, whatever was remembered."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from http_server import RawClient, RunningServer, head_of, payment_of, post, rss_bytes, wait_for
from msgspec.structs import replace
from serving import fetch, serving

import tailrace as tr
from tailrace.deadline import MonotonicClock
from tailrace.errors import ForbiddenError, SetupError, UnauthorizedError
from tailrace.ingest.link import EventLink
from tailrace.server.events import stream_endpoints
from tailrace.server.http.forms import HeadMemory
from tailrace.server.http.intake import STRANGER_BYTES_MAX
from tailrace.server.http.reader import RequestReader
from tailrace.server.key_file import Key, KeyReader, changing, make_key, read_keys
from tailrace.server.keys import KEY_BYTES, Caller, Keys
from tailrace.server.options import ServeOptions

OTHER = "/v1/pipelines/log_with_fallback/predict"


@dataclass
class Door:
    """A server with keys, and the file of these. look: does what the server does once a second."""

    server: RunningServer
    file: Path
    keys: Keys

    def make(self, *scopes: str) -> tuple[str, str]:
        """Put a new key into the file, and have the server look; return it and its id."""
        secret, key = make_key("caller", scopes or ("pipelines/log",))
        with changing(self.file, create=True) as known:
            known.append(key)
        self.look()
        return secret, key.id

    def change(self, number: str, change: Callable[[Key], Key | None]) -> None:
        """Change what the file says of a key, or take it out; and have the server look."""
        with changing(self.file) as known:
            known[:] = [new for key in known if (new := change(key) if key.id == number else key) is not None]
        self.look()

    def look(self) -> None:
        """Let the server look at its file."""
        self.server.on_loop(self.keys.look)

    def refused(self, kind: str) -> int:
        """Return how many calls were refused, by the metric."""
        return self.server.count("tailrace_errors_total", "", kind)


@pytest.fixture
def door(http_server: RunningServer, tmp_path: Path) -> Iterator[Door]:
    """Give the server a file of one key that nobody has, and no head to remember; take both away again."""
    file = tmp_path / "keys.json"
    with changing(file, create=True) as known:
        known.append(make_key("nobody", ["pipelines/*"])[1])
    shared = http_server.http.shared

    def begin(keys: Keys | None) -> None:
        shared.keys, shared.heads = keys, HeadMemory(shared.limits.body_bytes_max)

    keys = Keys(file, shared.count_failure)
    http_server.on_loop(begin, keys)
    yield Door(http_server, file, keys)
    http_server.on_loop(begin, None)


@pytest.fixture
def client(door: Door) -> Iterator[RawClient]:
    """Return a client."""
    with door.server.connect() as client:
        yield client


def ask(client: RawClient, secret: str, path: str = "/v1/pipelines/log/predict") -> int:
    """Return the status that a caller with a key is answered."""
    return client.ask(post(payment_of(), f"Authorization: Bearer {secret}", path=path)).status


@pytest.mark.parametrize(
    "header", ["Authorization: Bearer {}", "authorization: bearer  {}", "X-API-Key: {}", "x-api-key: {}"]
)
def test_key_opens_its_pipeline_however_it_is_sent(door: Door, client: RawClient, header: str) -> None:
    """A known key is taken from either header; the second request has a remembered head."""
    secret, _ = door.make()
    assert [client.ask(post(payment_of(), header.format(secret))).status for _ in range(3)] == [200] * 3
    assert len(door.server.http.shared.heads) == 1


@pytest.mark.parametrize(
    "headers",
    [
        [],
        ["Authorization: Basic {}"],
        ["Authorization: {}"],
        ["Authorization: Bearer"],
        ["X-API-Key:"],
        ["Authorization: Bearer {}x"],
        ["Authorization: Bearer x{}"],
        ["Authorization: Bearer {} {}"],
        ["Authorization: Bearer {}", "X-API-Key: tr_000000000000_" + "A" * 43],
        ["X-API-Key: {}", "X-API-Key: other"],
        ["X-API-Key: " + "{}" * 100],
        ["X-API-Key: tr__"],
        ["X-API-Key: tr_{id}_" + "A" * 43],
        ["X-API-Key: {sha256}"],
        ["X-API-Key: \xff\xfe"],
        ["Cookie: key={}", "X-Forwarded-Authorization: Bearer {}"],
    ],
)
def test_caller_without_one_known_key_is_refused(door: Door, client: RawClient, headers: list[str]) -> None:
    """No key, a part of one, one and another, its digest: all are 401, counted, not remembered, and tell no secret."""
    secret, number = door.make()
    with changing(door.file) as known:
        digest = known[-1].sha256
    before = door.refused("unauthorized")
    sent = [header.replace("{}", secret).replace("{id}", number).replace("{sha256}", digest) for header in headers]
    answer = client.ask(post(payment_of(), *sent))
    assert answer.problem()["title"] == "Unauthorized"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert secret[20:] not in answer.body.decode()
    assert door.refused("unauthorized") == before + 1
    assert not len(door.server.http.shared.heads)
    assert ask(client, secret) == 200


def test_two_keys_in_one_request_are_refused_though_both_are_known(door: Door, client: RawClient) -> None:
    """Who stands before the server may take the other one; the same key twice is one."""
    (first, _), (second, _) = door.make(), door.make()
    for one, two, status in ((first, second, 401), (second, first, 401), (first, first, 200)):
        answer = client.ask(post(payment_of(), f"Authorization: Bearer {one}", f"X-API-Key: {two}"))
        assert answer.status == status
        assert status == 200 or answer.problem()["detail"] == "several keys were sent"


def test_probe_needs_no_key(door: Door, client: RawClient) -> None:
    """A balancer has no key."""
    assert client.ask(head_of()).status == 200


@pytest.mark.parametrize("header", ["Authorization: Bearer {}", "X-API-Key: {}"])
def test_key_opens_no_other_pipeline(door: Door, client: RawClient, header: str) -> None:
    """One connection with keys of two callers gets what each may have, whatever was remembered of the other."""
    first, _ = door.make("pipelines/log", "streams/*")
    second, _ = door.make("pipelines/log_with_fallback")
    every, _ = door.make("pipelines/*")
    before = door.refused("forbidden")

    def both(secret: str) -> tuple[int, int]:
        paths = ("/v1/pipelines/log/predict", OTHER)
        own, other = (client.ask(post(payment_of(), header.format(secret), path=path)).status for path in paths)
        return own, other

    for _ in range(4):
        assert (both(first), both(second), both(every)) == ((200, 403), (403, 200), (200, 200))
    assert door.refused("forbidden") == before + 8
    answer = client.ask(post(payment_of(), f"X-API-Key: {first}", path=OTHER))
    assert answer.problem()["detail"] == "the key is not for pipelines/log_with_fallback"


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda key: replace(key, revoked=datetime.now(UTC)), 401),
        (lambda key: replace(key, expires=datetime.now(UTC)), 401),
        (lambda key: replace(key, sha256="0" * 64), 401),
        (lambda key: replace(key, scopes=("streams/log",)), 403),
        (lambda _: None, 401),
    ],
    ids=["revoked", "expired", "exchanged", "narrowed", "taken out"],
)
def test_key_that_ends_ends_what_was_remembered(
    door: Door, client: RawClient, change: Callable[[Key], Key | None], status: int
) -> None:
    """The connection that has used it, one that waits with its body, and a new one are refused; other keys go on.

    Refusals of remembered heads are counted as any. A key that is given back opens again what it did.
    """
    secret, number = door.make()
    other, _ = door.make()
    kept = door.file.read_bytes()
    body = payment_of()
    whole = post(body, f"Authorization: Bearer {secret}")
    head, parted = whole[: -len(body)], post(body, f"X-API-Key: {secret}", "X-Trace: 1")
    with door.server.connect() as waits, door.server.connect() as begins, door.server.connect() as sibling:
        assert [client.ask(whole).status, client.ask(whole).status, waits.ask(whole).status] == [200] * 3
        assert ask(sibling, other) == 200
        waits.send(head)  # its head is known
        begins.send(parted[:-5])  # its head goes through the parser
        door.server.settle()
        kind = "unauthorized" if status == 401 else "forbidden"
        before = door.refused(kind)
        door.change(number, change)
        assert client.ask(whole).status == status
        assert waits.send(body.encode()).read().status == status
        assert begins.send(parted[-5:]).read().status == status
        assert door.refused(kind) == before + 3
        with door.server.connect() as new:
            assert new.ask(whole).status == status
        assert (ask(sibling, other), client.ask(whole).status) == (200, status)
        door.file.write_bytes(kept)
        os.utime(door.file, ns=(0, 0))
        door.look()
        with door.server.connect() as new:
            assert new.ask(whole).status == 200


def test_key_expires_though_the_file_stays(door: Door, client: RawClient) -> None:
    """A key whose time has come is refused on a connection that has used it."""
    secret, number = door.make()
    door.change(number, lambda key: replace(key, expires=datetime.now(UTC) + timedelta(milliseconds=250)))
    assert ask(client, secret) == 200

    def is_over() -> bool:
        door.look()
        return ask(client, secret) == 401

    wait_for(is_over, "the key has expired")
    detail = client.ask(post(payment_of(), f"Authorization: Bearer {secret}")).problem()["detail"]
    assert detail == "the key has expired"


def test_key_that_is_taken_out_stays_out_beside_one_that_expires_later(door: Door, client: RawClient) -> None:
    """What looks for keys that have expired gives nobody back what the file has taken."""
    brief, number = door.make()
    secret, out = door.make()
    door.change(number, lambda key: replace(key, expires=datetime.now(UTC) + timedelta(days=30)))
    asked = [post(payment_of(), f"X-API-Key: {each}") for each in (secret, brief)]
    assert [client.ask(each).status for each in asked] == [200, 200]
    door.change(out, lambda key: None)
    for _ in range(3):
        assert [client.ask(each).status for each in asked] == [401, 200]
        door.look()


def test_key_that_is_as_it_was_is_not_settled_at_each_look(
    door: Door, client: RawClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only one whose time is over is, once: all of ten thousand took 40 ms of each second."""
    secret, number = door.make()
    assert client.ask(post(payment_of(), f"X-API-Key: {secret}")).status == 200
    door.change(number, lambda key: replace(key, expires=datetime.now(UTC) + timedelta(days=30)))
    settled: list[Key | None] = []
    monkeypatch.setattr(Caller, "settle", lambda caller, key: settled.append(key))
    for _ in range(3):
        door.look()
    door.make()  # the file is read again, and says of the others what it did
    assert settled == []


def test_file_that_cannot_be_read_leaves_the_keys(door: Door, client: RawClient) -> None:
    """A file that is gone or cut short lets nobody in that was not, and nobody down; the next sound one counts."""
    secret, number = door.make()
    assert ask(client, secret) == 200
    kept = door.file.read_bytes()
    deep = b'{"version": 1, "keys": [], "x": ' + b"[" * 100_000
    for content in (b"", kept[:-20], b"[]", deep, b"\xff", kept.replace(b"pipelines/log", b"pipelines/../etc"), None):
        door.file.unlink()
        if content is not None:
            door.file.write_bytes(content)
        door.look()
        assert ask(client, secret) == 200
        with pytest.raises(SetupError, match=r"keys\.json"):
            Keys(door.file, lambda kind: None)
    door.file.write_bytes(kept)
    door.change(number, lambda _: None)
    assert ask(client, secret) == 401


def test_key_is_revoked_though_the_file_could_not_be_read_at_once(door: Door, client: RawClient) -> None:
    """A server without a file descriptor left keeps its keys, says so once, and reads what was written when it can."""
    secret, number = door.make()
    with changing(door.file) as known:
        known[:] = [replace(key, revoked=key.created) if key.id == number else key for key in known]
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    with structlog.testing.capture_logs() as told:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, files[1]))
        try:
            for _ in range(3):
                door.keys.look()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, files)
        assert ask(client, secret) == 200
        door.look()
        assert ask(client, secret) == 401
    assert [each["log_level"] for each in told] == ["error", "info"]


def test_wrong_keys_leave_nothing_behind(door: Door, client: RawClient) -> None:
    """Ten thousand wrong keys are ten thousand 401s; memory and who calls beside them do not tell of them."""
    secret, number = door.make()
    count, shared, before = 10_000, door.server.http.shared, door.refused("unauthorized")
    wrong = [post("{}", f"X-API-Key: tr_{number if n % 2 else f'{n:012x}'}_{n:043d}") for n in range(count)]

    def send(requests: list[bytes]) -> None:
        for at in range(0, len(requests), 50):
            client.send(b"".join(requests[at : at + 50]))
            assert {client.read().status for _ in range(50)} == {401}

    send(wrong[:2_000])
    rss = rss_bytes()
    with door.server.connect() as neighbour:
        send(wrong[2_000:6_000])
        assert ask(neighbour, secret) == 200
        send(wrong[6_000:])
    assert door.refused("unauthorized") == before + count
    assert rss_bytes() - rss < 2 << 20  # a fault that held its frame took 1.7 KB each, for ever
    assert len(shared.heads) == 1
    assert [caller.key.id for caller in door.keys._callers.values()] == [number]


def test_stranger_is_read_a_little_at_a_time(door: Door, client: RawClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a wrong key a connection is read a request or two a turn: others wait for no more. A key ends it."""
    secret, number = door.make()
    reads: list[int] = []
    read = RequestReader.read

    def watched(reader: RequestReader, data: bytes, raw: bytes = b"") -> Any:
        reads.append(len(data))
        return read(reader, data, raw)

    monkeypatch.setattr(RequestReader, "read", watched)
    wrong = [post("{}", f"X-API-Key: tr_{number}_{n:043d}") for n in range(20)]
    assert client.ask(wrong[0]).status == 401
    client.send(b"".join(wrong))
    assert {client.read().status for _ in wrong} == {401}
    assert max(reads) <= STRANGER_BYTES_MAX
    assert ask(client, secret) == 200
    client.send(b"".join(post(payment_of(), f"X-API-Key: {secret}", f"X-Number: {n:0{10 + n}d}") for n in range(20)))
    assert {client.read().status for _ in range(20)} == {200}
    assert max(reads) > STRANGER_BYTES_MAX


def test_file_is_read_only_when_it_is_another(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at a file that stays costs a stat, and a write is seen though size and time are the same."""
    reads: list[KeyReader] = []

    def watched(reader: KeyReader) -> tuple[Key, ...]:
        reads.append(reader)
        return ()

    monkeypatch.setattr(KeyReader, "read", watched)
    for _ in range(3):
        door.keys.look()
    assert not reads
    found = door.file.stat()
    draft = door.file.with_name("draft")
    draft.write_bytes(door.file.read_bytes())
    os.utime(draft, ns=(found.st_mtime_ns, found.st_mtime_ns))
    draft.replace(door.file)
    door.keys.look()
    assert len(reads) == 1


def test_key_that_was_read_is_not_decoded_again(door: Door) -> None:
    """A server reads its file between requests: what it knows of it costs little, what has changed is taken in."""
    _, number = door.make()
    reader = KeyReader(door.file)
    before = reader.read()
    door.change(number, lambda key: replace(key, scopes=("streams/*",)))
    after = reader.read()
    assert after[0] is before[0]
    assert (before[1].scopes, after[1].scopes) == (("pipelines/log",), ("streams/*",))
    assert after == read_keys(door.file)


def test_key_is_for_streams_apart_from_pipelines() -> None:
    """A scope opens one kind, by its name or all of them; what has no scope is opened by none."""
    secret, key = make_key("events", ["streams/payments", "pipelines/*"])
    caller = Caller(key, lambda kind: None)
    assert len(secret) == KEY_BYTES
    assert [caller.fault(scope) for scope in ("streams/payments", "pipelines/any")] == [None, None]
    for scope in ("streams/refunds", "streams/*", "streams/payments2", "", "*"):
        assert isinstance(caller.fault(scope), ForbiddenError)
    assert isinstance(Caller(replace(key, revoked=key.created), print).fault("pipelines/any"), UnauthorizedError)


def test_stream_asks_for_a_key_of_its_own() -> None:
    """The endpoint of a stream has the stream's scope."""

    class Event(tr.Request):
        event_id: str
        at: float

    stream = tr.Stream("payments", schema=Event, time="at", id="event_id")
    clock = MonotonicClock()
    [endpoint] = stream_endpoints([stream], EventLink(clock), clock, 10, print).values()
    assert endpoint.scope == "streams/payments"


PIPELINE = """
import tailrace as tr

class Payment(tr.Request):
    amount: float

class Decision(tr.Response):
    score: float

class Rules:
    def predict(self, feeds):
        return feeds["features"][:, 0]

pay = tr.Pipeline(name="pay", request=Payment, response=Decision, features=[Payment.amount],
                  model=tr.PythonModel("own", Rules), budget=tr.Budget("5s"))
"""


@pytest.mark.slow
def test_key_that_is_revoked_ends_at_every_worker_within_a_second(tmp_path: Path) -> None:
    """Callers of two workers are refused on their connections, with no restart; log, status and metrics tell no key."""
    file, pipeline = tmp_path / "keys.json", tmp_path / "pipeline.py"
    pipeline.write_text(PIPELINE)
    made = [make_key(name, ["pipelines/pay"]) for name in ("one", "two")]
    with changing(file, create=True) as known:
        known.extend(key for _, key in made)
    secrets = [secret for secret, _ in made]
    request = [post('{"amount": 1.0}', f"X-API-Key: {secret}", path="/v1/pipelines/pay/predict") for secret in secrets]
    with serving(tmp_path / "log", pipeline, "--workers", "2", "--keys", str(file)) as server, ExitStack() as stack:
        host, _, port = server.url.removeprefix("http://").partition(":")
        clients = [stack.enter_context(RawClient((host, int(port)))) for _ in range(16)]
        assert {client.ask(request[0]).status for client in clients for _ in range(3)} == {200}
        began_s = time.monotonic()
        with changing(file) as known:
            known[0] = replace(known[0], revoked=datetime.now(UTC))
        wait_for(lambda: {client.ask(request[0]).status for client in clients} == {401}, "no worker takes the key")
        assert time.monotonic() - began_s < 2.0  # a look a second, and a busy machine
        assert {client.ask(request[1]).status for client in clients} == {200}
        told = [fetch(f"{server.admin}/{page}")[2].decode() for page in ("metrics", "status")]
        assert server.metric("tailrace_errors_total", 'reason="unauthorized"') >= 16
        assert [worker["restarts"] for worker in server.workers()] == [0, 0]
    assert not any(secret[16:] in text for secret in secrets for text in (*told, (tmp_path / "log").read_text()))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_server_that_others_reach_needs_keys_or_a_word(host: str) -> None:
    """Off loopback a server without keys is refused, with what to do; with either it is not."""
    with pytest.raises(SetupError, match=r"(?s)without keys.*--keys FILE.*--no-auth"):
        ServeOptions(files=(), host=host)
    with pytest.raises(SetupError, match="without keys"):
        ServeOptions(files=(), host=host, keys="")
    assert ServeOptions(files=(), host=host, keys="keys.json").keys == "keys.json"
    assert ServeOptions(files=(), host=host, no_auth=True).no_auth
    assert ServeOptions(files=(), host="::1").keys is None
