"""Callers told by their certificates: who has none that is let in gets nowhere, and who had one stops where it ends."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from http_server import RawClient, RunningServer, head_of, payment_of, post, wait_for
from msgspec.structs import replace
from secret_port import SecretPort, secret_port
from tls_client import TlsClient
from tls_files import Authority, Signed

from tailrace.errors import SetupError
from tailrace.server.certified import VISITORS_MAX, Certified
from tailrace.server.http.forms import HeadMemory
from tailrace.server.key_file import certified, changing, make_key
from tailrace.server.keys import Keys
from tailrace.server.options import ServeOptions
from tailrace.server.tls.certificates import Certificates, TlsFiles
from tailrace.server.tls.peer import Peer

OTHER = "/v1/pipelines/log_with_fallback/predict"


@dataclass
class Door:
    """A port whose callers are told by certificates. look: does what the server does once a second."""

    port: SecretPort
    authority: Authority
    file: Path
    keys: Keys | None

    def let_in(self, certificate: str, *scopes: str, days: int | None = None) -> str:
        """Put a certificate into the file, and have the server look; return its id."""
        ends = None if days is None else datetime.now(UTC) + timedelta(days=days)
        key = certified(make_key("caller", scopes or ("pipelines/log",), ends)[1], certificate)
        with changing(self.file, create=True) as known:
            known.append(key)
        self.look()
        return key.id

    def change(self, number: str, **members: Any) -> None:
        """Change what the file says of one, and have the server look."""
        with changing(self.file) as known:
            known[:] = [replace(key, **members) if key.id == number else key for key in known]
        self.look()

    def look(self) -> None:
        """Let the server look at its file."""
        assert self.keys is not None
        self.port.server.on_loop(self.keys.look)

    def connect(self, caller: Signed | None) -> TlsClient:
        """Return a client that shows a certificate, or none."""
        return TlsClient(self.port.address, self.authority.trusting(caller))


def ask(client: RawClient, path: str = "/v1/pipelines/log/predict", *headers: str) -> int:
    """Return the status that a caller is answered."""
    return client.ask(post(payment_of(), *headers, path=path)).status


def begin(server: RunningServer, folder: Path, *, with_file: bool) -> Iterator[Door]:
    """Give a server a port whose callers are told by certificates, and take it away again."""
    authority, file, shared = Authority(folder), folder / "keys.json", server.http.shared
    keys = None
    if with_file:
        with changing(file, create=True) as known:
            known.append(make_key("nobody", ["pipelines/*"])[1])
        keys = Keys(file, shared.count_failure)
    told = Certified(keys, keys, shared.count_failure, None, shared.limits.body_bytes_max)

    def ask_for(callers: Any) -> None:
        shared.keys, shared.heads = callers, HeadMemory(shared.limits.body_bytes_max)

    signed = authority.server()
    files = TlsFiles(str(signed.cert), str(signed.key), str(authority.file))
    server.on_loop(ask_for, told)
    with secret_port(server, Certificates(files)) as port:
        port.secured.certified = told
        yield Door(port, authority, file, keys)
    server.on_loop(ask_for, None)


@pytest.fixture
def door(http_server: RunningServer, tmp_path: Path) -> Iterator[Door]:
    """Let those in whom the file names."""
    yield from begin(http_server, tmp_path, with_file=True)


@pytest.fixture
def open_door(http_server: RunningServer, tmp_path: Path) -> Iterator[Door]:
    """Let all in whom the authority has signed for."""
    yield from begin(http_server, tmp_path, with_file=False)


@pytest.mark.parametrize("name", ["CN=checkout", "DNS:checkout.internal", "URI:spiffe://prod/checkout", "SHA256:"])
def test_caller_is_let_in_by_any_of_its_names(door: Door, name: str) -> None:
    """Into what the file says it opens, and nothing else."""
    names = [x509.DNSName("checkout.internal"), x509.UniformResourceIdentifier("spiffe://prod/checkout")]
    caller = door.authority.caller("checkout", names)
    if name == "SHA256:":
        name += hashlib.sha256(ssl.PEM_cert_to_DER_cert(caller.cert.read_text())).hexdigest()
    with door.connect(caller) as client:
        assert ask(client) == 401
    door.let_in(name)
    with door.connect(caller) as client:
        assert [ask(client), ask(client), ask(client, OTHER)] == [200, 200, 403]


def test_caller_without_a_certificate_gets_nowhere_but_to_the_probes(door: Door) -> None:
    """It is told what is missing; a key does instead."""
    secret, key = make_key("other", ["pipelines/log"])
    with changing(door.file) as known:
        known.append(key)
    door.look()
    with door.connect(None) as client:
        answer = client.ask(post(payment_of()))
        assert (answer.status, answer.problem()["detail"]) == (401, "this needs a certificate of the caller")
        assert client.ask(head_of()).status == 200
        assert ask(client, "/v1/pipelines/log/predict", f"X-API-Key: {secret}") == 200
    with door.connect(door.authority.caller("stranger")) as client:
        assert [ask(client, "/v1/pipelines/log/predict", f"X-API-Key: {secret}"), ask(client)] == [200, 401]


def test_remembered_head_of_one_is_not_anothers(door: Door) -> None:
    """Two send the same bytes: what the one opens the other does not, whoever comes first."""
    door.let_in("CN=one")
    door.let_in("CN=two", "pipelines/log_with_fallback")
    one, two = door.authority.caller("one"), door.authority.caller("two")
    with door.connect(one) as first, door.connect(two) as second, door.connect(None) as third:
        for _ in range(3):
            assert [ask(first), ask(second), ask(third)] == [200, 403, 401]
            assert [ask(first, OTHER), ask(second, OTHER), ask(third, OTHER)] == [403, 200, 401]
        both = post(payment_of()) + post(payment_of(), path=OTHER)
        assert [first.send(both).read().status, first.read().status] == [200, 403]
        assert [second.send(both).read().status, second.read().status] == [403, 200]
    assert not [form for form in door.port.server.http.shared.heads if form.head.caller is not None]


def test_name_that_is_taken_out_is_refused_on_its_connections(door: Door) -> None:
    """Revoked, expired or changed in the file: at the next look, whatever was remembered; and let in again."""
    number = door.let_in("CN=checkout")
    with door.connect(door.authority.caller("checkout")) as client:
        assert [ask(client), ask(client)] == [200, 200]
        door.change(number, revoked=datetime.now(UTC))
        assert [ask(client), ask(client)] == [401, 401]
        again = door.let_in("CN=checkout")
        assert [ask(client), ask(client)] == [200, 200]
        door.change(again, scopes=("pipelines/log_with_fallback",))
        assert [ask(client), ask(client, OTHER)] == [403, 200]
        door.change(again, scopes=("pipelines/*",), expires=datetime.now(UTC) - timedelta(seconds=1))
        assert [ask(client), ask(client, OTHER)] == [401, 401]


def test_end_of_a_certificate_ends_its_connections(open_door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that was good when it was shown."""
    caller = open_door.authority.caller("brief", valid=timedelta(hours=1))
    with open_door.connect(caller) as client:
        assert [ask(client), ask(client, OTHER)] == [200, 200]
        later = datetime.now(UTC).timestamp() + 3_601
        monkeypatch.setattr("tailrace.server.keys.time.time", lambda: later)
        assert [ask(client), ask(client)] == [401, 401]


def test_certificate_of_nobody_that_is_known_makes_no_connection(open_door: Door, tmp_path: Path) -> None:
    """Signed by another authority, expired, or revoked by the list: the handshake fails, which is counted."""
    door, other = open_door, Authority(tmp_path, "other")
    revoked = door.authority.caller("revoked")
    for caller in (other.caller("outsider"), door.authority.caller("old", valid=timedelta(hours=-1))):
        with pytest.raises((ssl.SSLError, EOFError, ConnectionError)), door.connect(caller) as client:
            ask(client)
    with door.connect(revoked) as client:
        assert ask(client) == 200
    lists = door.authority.file.read_bytes() + door.authority.revoke(revoked)
    draft = tmp_path / "draft"
    draft.write_bytes(lists)
    draft.replace(door.authority.file)
    door.port.look()
    with pytest.raises((ssl.SSLError, EOFError, ConnectionError)), door.connect(revoked) as client:
        ask(client)
    with door.connect(door.authority.caller("good")) as client:
        assert ask(client) == 200
    wait_for(lambda: not door.port.server.http.connections, "gone")


def test_what_is_known_of_certificates_is_bounded(open_door: Door) -> None:
    """Thousands that come once leave no more than so many."""
    told = open_door.port.secured.certified
    for number in range(VISITORS_MAX + 50):
        told.visitor_of(Peer((f"SHA256:{number:064x}", "CN=a"), 9e9))
    assert len(told._visitors) == VISITORS_MAX


def test_authority_of_callers_needs_tls() -> None:
    """Without it nobody would be asked; with it a server may be reached by others."""
    with pytest.raises(SetupError, match="without TLS"):
        ServeOptions(files=(), tls_client_ca="a")
    ServeOptions(files=(), host="0.0.0.0", tls_cert="a", tls_key="b", tls_client_ca="c")


@pytest.mark.parametrize("name", ["", "checkout", "CN=", "CN=\n", "CN=a\0b", "SHA256:AB", "DNS:a b\x7f", "O=x"])
def test_name_that_is_none_is_refused(name: str) -> None:
    """A certificate is named in one way, to the letter."""
    with pytest.raises(SetupError):
        certified(make_key("a", ["pipelines/*"])[1], name)
