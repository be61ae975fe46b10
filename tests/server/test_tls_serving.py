"""`tailrace serve` over TLS: what it announces, what stays plain, what it renews, and what it does not start on."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from serving import fetch, serving, start_serve, wait_for
from tls_files import Authority, Signed, pem_of
from token_issuer import AUDIENCE, ISSUER, Issuer
from unix_client import connect_unix

from tailrace.errors import SetupError
from tailrace.server.options import ServeOptions
from tailrace.server.tls.certificates import Certificates, TlsFiles

PATH = "/v1/pipelines/log/predict"
REQUEST = {"amount": 2.0, "label": "well"}


def test_port_speaks_tls_and_the_rest_is_plain(
    tmp_path: Path, pipelines_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The port is announced by https and renews its certificate by itself; a socket at a path crosses no network.

    Callers are told by tokens, which stand neither in the log nor in /status.
    """
    issuer = Issuer(tmp_path / "jwks.json")
    token = {"Authorization": f"Bearer {issuer.sign()}"}
    asked = ("--jwks", str(issuer.file), "--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE)
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    signed, renewed = authority.server(), other.server("renewed")
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(authority.file.read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    options = ("--tls-cert", str(signed.cert), "--tls-key", str(signed.key), "--unix", str(tmp_path / "s"))
    with serving(tmp_path / "log", pipelines_dir / "log.py", *options, *asked) as server:
        assert (server.url[:8], server.admin[:7]) == ("https://", "http://")
        assert server.ask("log", REQUEST, token).body["label"] == "well"
        assert server.ask("log", REQUEST).status == 401
        assert fetch(server.url.replace("https", "http") + "/readyz")[0] == 400
        client = http.client.HTTPConnection("x")
        client.sock = connect_unix(tmp_path / "s")
        client.request("POST", PATH, json.dumps(REQUEST), {"Content-Type": "application/json", **token})
        assert client.getresponse().status == 200
        client.close()
        trusted.write_bytes(other.file.read_bytes())
        assert fetch(f"{server.url}/readyz")[0] == 0
        for old, new in ((signed.key, renewed.key), (signed.cert, renewed.cert)):
            new.replace(old)
        wait_for(lambda: fetch(f"{server.url}/readyz")[0] == 200, 10)
        status = fetch(f"{server.admin}/status")[2].decode()
        assert server.end() == 0
        assert not [part for part in token["Authorization"][7:].split(".") if part in server.log.read_text() + status]


def test_admin_port_speaks_tls_where_others_reach_it(
    tmp_path: Path, pipelines_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its token would cross the network otherwise."""
    authority = Authority(tmp_path)
    signed = authority.server()
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    options = ("--admin-host", "0.0.0.0", "--admin-token", "t", "--tls-cert", str(signed.cert), "--tls-key")
    server = start_serve(tmp_path / "log", pipelines_dir / "log.py", *options, str(signed.key))
    try:
        server.wait_ready()
        admin = server.admin.replace("0.0.0.0", "127.0.0.1")
        assert admin.startswith("https://")
        assert fetch(f"{admin}/status", headers={"Authorization": "Bearer t"})[0] == 200
        assert fetch(f"{admin.replace('https', 'http')}/status", headers={"Authorization": "Bearer t"})[0] == 400
    finally:
        assert server.end() == 0


def broken(authority: Authority, spoil: Callable[[Signed, Path], tuple[Path, Path]], folder: Path) -> TlsFiles:
    """Return files of which something is wrong."""
    cert, key = spoil(authority.server(), folder)
    return TlsFiles(str(cert), str(key))


def of_another(signed: Signed, folder: Path) -> tuple[Path, Path]:
    """Return a key that is not that of the certificate."""
    return signed.cert, Authority(folder, "else").server("else").key


def with_password(signed: Signed, folder: Path) -> tuple[Path, Path]:
    """Return a key that a password hides."""
    signed.key.write_bytes(pem_of(ec.generate_private_key(ec.SECP256R1()), b"secret"))
    return signed.cert, signed.key


def absent(signed: Signed, folder: Path) -> tuple[Path, Path]:
    """Return a file that is not there."""
    return signed.cert, folder / "absent"


def garbage(signed: Signed, folder: Path) -> tuple[Path, Path]:
    """Return a file that is none of a certificate."""
    signed.cert.write_text("-----BEGIN CERTIFICATE-----\nsecret\n-----END CERTIFICATE-----\n")
    return signed.cert, signed.key


@pytest.mark.parametrize("spoil", [of_another, with_password, absent, garbage])
def test_server_does_not_start_on_files_that_do_not_fit(
    tmp_path: Path, spoil: Callable[[Signed, Path], tuple[Path, Path]]
) -> None:
    """It says which, asks no terminal for a password, and quotes nothing of them."""
    files = broken(Authority(tmp_path), spoil, tmp_path)
    with pytest.raises(SetupError) as found:
        files.read()
    assert files.key in found.value.where
    assert "secret" not in str(found.value)


@pytest.mark.parametrize("half", [{"tls_cert": "a"}, {"tls_key": "a"}])
def test_certificate_and_key_go_together(half: dict[str, str]) -> None:
    """One without the other would serve plainly what is meant to be secret."""
    with pytest.raises(SetupError, match="go together"):
        ServeOptions(files=(), **half)


def test_files_that_stop_fitting_leave_what_was(tmp_path: Path) -> None:
    """Each look that finds the same files reads nothing."""
    signed = Authority(tmp_path).server()
    certificates = Certificates(TlsFiles(str(signed.cert), str(signed.key)))
    first = certificates.context
    certificates.look()
    assert certificates.context is first
    signed.key.write_text("nonsense")
    certificates.look()
    assert certificates.context is first
    assert isinstance(first, ssl.SSLContext)
