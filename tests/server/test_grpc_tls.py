"""gRPC over TLS: secret connections alone, and a certificate that is renewed while the server runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

grpc = pytest.importorskip("grpc")
pytest.importorskip("cryptography")
from grpc_server import NO_RETRIES, WIRE, RunningGrpc, running_grpc, wire_of  # noqa: E402
from tls_files import Authority, Signed  # noqa: E402

from tailrace.errors import SetupError  # noqa: E402
from tailrace.pipeline import Pipeline  # noqa: E402
from tailrace.server.certified import Certified  # noqa: E402
from tailrace.server.grpc.credentials import Certificate, credentials_by  # noqa: E402
from tailrace.server.key_file import certified, changing, make_key  # noqa: E402
from tailrace.server.keys import Keys  # noqa: E402
from tailrace.server.tls.certificates import TlsFiles  # noqa: E402

BODY = b"\x09" + b"\0" * 7 + b"\x40"


def code_of(server: RunningGrpc, authority: Authority | None, caller: Signed | None = None) -> grpc.StatusCode:
    """Return how a call ends on a new connection.

    authority: whose certificates it takes; None: a plain one. caller: what it shows.
    """
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", "localhost"), *NO_RETRIES]
    if authority is None:
        channel = grpc.insecure_channel(server.address, options)
    else:
        shown = () if caller is None else (caller.key.read_bytes(), caller.cert.read_bytes())
        credentials = grpc.ssl_channel_credentials(authority.file.read_bytes(), *shown)
        channel = grpc.secure_channel(server.address, credentials, options)
    with channel:
        try:
            channel.unary_unary(f"{WIRE}/Predict")(BODY, timeout=10)
        except grpc.RpcError as fault:
            code: grpc.StatusCode = fault.code()
            return code
    return grpc.StatusCode.OK


def test_connection_is_secret_and_its_certificate_renewed(
    pipeline_of: Callable[[str], Pipeline], tmp_path: Path
) -> None:
    """A plain client gets nowhere. New files are taken at the next handshake, those that do not fit are not."""
    first, second = Authority(tmp_path, "first"), Authority(tmp_path, "second")
    own, renewed = first.server("own"), second.server("renewed")
    with running_grpc(wire_of(pipeline_of("log")), tls=TlsFiles(str(own.cert), str(own.key))) as server:
        assert code_of(server, first) is grpc.StatusCode.OK
        assert code_of(server, None) is grpc.StatusCode.UNAVAILABLE
        assert code_of(server, second) is grpc.StatusCode.UNAVAILABLE
        own.cert.write_bytes(renewed.cert.read_bytes())  # without its key: they do not fit
        assert code_of(server, first) is grpc.StatusCode.OK
        own.key.write_bytes(renewed.key.read_bytes())
        assert code_of(server, second) is grpc.StatusCode.OK
        assert code_of(server, first) is grpc.StatusCode.UNAVAILABLE


def test_certificate_that_was_read_half_written_is_read_again(tmp_path: Path) -> None:
    """Its end is written in the same moment of the disk's clock as its beginning was, over as many bytes."""
    own = Authority(tmp_path, "authority").server("own")
    certificate, whole = Certificate(TlsFiles(str(own.cert), str(own.key))), own.cert.read_bytes()
    for content, is_taken in ((b" " * len(whole), False), (whole, True)):
        own.cert.write_bytes(content)
        os.utime(own.cert, ns=(10**18, 10**18))
        assert (certificate.renewed() is not None) is is_taken
    assert certificate.renewed() is None


def test_certificate_is_a_caller(pipeline_of: Callable[[str], Pipeline], tmp_path: Path) -> None:
    """One of the authority's comes in by its names, and no other; what the file of keys says of it holds."""
    authority, stranger = Authority(tmp_path, "authority"), Authority(tmp_path, "stranger")
    own, let_in, other = authority.server("own"), authority.caller("let-in"), authority.caller("other")
    foreign = stranger.caller("let-in-too")
    file = tmp_path / "keys"
    with changing(file, create=True) as known:
        known.append(certified(make_key("let-in", ["pipelines/wire"])[1], "CN=let-in"))
    keys = Keys(file, lambda kind: None)
    callers = Certified(keys, keys, lambda kind: None, None, 1 << 20)
    tls = TlsFiles(str(own.cert), str(own.key), str(authority.file))
    with running_grpc(wire_of(pipeline_of("log")), keys=callers, tls=tls) as server:
        assert code_of(server, authority, let_in) is grpc.StatusCode.OK
        assert code_of(server, authority, other) is grpc.StatusCode.UNAUTHENTICATED
        assert code_of(server, authority, foreign) is grpc.StatusCode.UNAVAILABLE
        assert code_of(server, authority) is grpc.StatusCode.UNAVAILABLE


def test_list_of_revoked_certificates_is_refused(tmp_path: Path) -> None:
    """It would not be held to."""
    authority = Authority(tmp_path)
    own = authority.server()
    authority.file.write_bytes(authority.file.read_bytes() + authority.revoke(authority.caller("gone")))
    with pytest.raises(SetupError, match="revoked"):
        credentials_by(TlsFiles(str(own.cert), str(own.key), str(authority.file)))
