"""gRPC over TLS: secret connections alone, and a certificate that is renewed while the server runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

grpc = pytest.importorskip("grpc")
pytest.importorskip("cryptography")
from grpc_server import NO_RETRIES, WIRE, RunningGrpc, running_grpc, wire_of  # noqa: E402
from tls_files import Authority  # noqa: E402

from tailrace.pipeline import Pipeline  # noqa: E402
from tailrace.server.tls.certificates import TlsFiles  # noqa: E402

BODY = b"\x09" + b"\0" * 7 + b"\x40"


def code_of(server: RunningGrpc, authority: Authority | None) -> grpc.StatusCode:
    """Return how a call ends on a new connection. authority: whose certificates it takes; None: a plain one."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", "localhost"), *NO_RETRIES]
    if authority is None:
        channel = grpc.insecure_channel(server.address, options)
    else:
        credentials = grpc.ssl_channel_credentials(authority.file.read_bytes())
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
