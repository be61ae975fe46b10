"""The client over TLS: whom it believes, who it says it is, and that a call is a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server.http_server import RunningServer, ample
from server.secret_port import SecretPort, secret_port
from server.tls_files import Authority
from tailrace.client import Options
from tailrace.errors import SetupError, UnavailableError
from tailrace.pipeline import Pipeline
from tailrace.server.tls.certificates import Certificates, TlsFiles

REQUEST = {"amount": 1.0, "label": "é"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Return who signs."""
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def port(pipeline_of: Callable[[str], Pipeline], authority: Authority) -> Iterator[SecretPort]:
    """Serve a pipeline over TLS."""
    signed = authority.server()
    files = TlsFiles(str(signed.cert), str(signed.key), str(authority.file))
    with RunningServer([ample(pipeline_of("log"))]) as server, secret_port(server, Certificates(files)) as port:
        yield port


def test_calls_go_over_connections_that_are_kept(
    connect: Callable[..., Any], port: SecretPort, authority: Authority
) -> None:
    """Short ones and ones of many records each way, on one connection, which the server knows to be secret."""
    client = connect(f"https://localhost:{port.address[1]}", ca_file=str(authority.file), budget="10s")
    for label in ("é", "x" * 900_000, "é", "y" * 300_000):
        assert client.predict("log", {"amount": 1.0, "label": label})["label"] == label
    answers = client.predict_each("log", ({"amount": 1.0, "label": str(at)} for at in range(1_200)))
    assert [each["label"] for each in answers] == [str(at) for at in range(1_200)]
    assert len(port.server.http.connections) <= 4


def test_caller_says_who_it_is(connect: Callable[..., Any], port: SecretPort, authority: Authority) -> None:
    """Its certificate reaches the server."""
    caller = authority.caller("checkout")
    options = {"ca_file": str(authority.file), "client_cert": str(caller.cert), "client_key": str(caller.key)}
    client = connect(f"https://127.0.0.1:{port.address[1]}", budget="10s", **options)
    assert client.predict("log", REQUEST)["label"] == "é"
    (connection,) = port.server.http.connections
    peer = port.server.on_loop(connection._transport.get_extra_info("ssl_object").getpeercert)
    assert peer["subject"] == ((("commonName", "checkout"),),)


def test_server_that_nobody_vouches_for_is_not_asked(
    connect: Callable[..., Any], port: SecretPort, authority: Authority
) -> None:
    """Of an authority that is not trusted, or of another name: no call is sent, and the error says why."""
    with pytest.raises(UnavailableError, match=r"certificate verify failed"):
        connect(f"https://localhost:{port.address[1]}").predict("log", REQUEST)
    other = authority.caller("elsewhere")
    with (
        secret_port(port.server, Certificates(TlsFiles(str(other.cert), str(other.key)))) as elsewhere,
        pytest.raises(UnavailableError, match=r"Hostname mismatch"),
    ):
        connect(f"https://localhost:{elsewhere.address[1]}", ca_file=str(authority.file)).predict("log", REQUEST)


def test_server_that_speaks_no_tls_is_not_asked(connect: Callable[..., Any], port: SecretPort) -> None:
    """Nothing of a call is sent in the open."""
    host, number = port.server.address[:2]
    with pytest.raises(UnavailableError):
        connect(f"https://{host}:{number}").predict("log", REQUEST)


def test_options_that_do_not_fit_are_refused(tmp_path: Path, connect: Callable[..., Any]) -> None:
    """A key without a certificate, and files that are none; what is in them is not told."""
    with pytest.raises(SetupError, match="go together"):
        Options(client_cert="a")
    bad = tmp_path / "bad.pem"
    bad.write_text("secret")
    for options in ({"ca_file": str(bad)}, {"client_cert": str(bad), "client_key": str(bad)}):
        with pytest.raises(SetupError) as found:
            connect("https://localhost:1", **options)
        assert "secret" not in str(found.value)
