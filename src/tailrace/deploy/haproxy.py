"""The configuration of HAProxy for some servers."""

from __future__ import annotations

from tailrace.deploy.upstream import CHECK_S, CHECKS_FAILED, CONNECT_MS, READY_PATH, Upstream


def haproxy_config(upstream: Upstream, listen: str, grpc_listen: str) -> str:
    """Return the file. listen, grpc_listen: the address and port of HAProxy itself."""
    servers = "\n".join(f"    server s{place} {server}" for place, server in enumerate(upstream.servers, 1))
    return f"""\
# Tailrace servers behind HAProxy 2.6 or later. Each runs with --pre-drain-s 5; see
# docs/how-to/run-behind-a-balancer.md.

defaults
    mode http
    timeout client 75s
    timeout server {upstream.answer_ms}ms            # by then the server has answered, whatever failed in it
    timeout connect {CONNECT_MS}ms            # a handshake that nobody answers goes to the other server
    timeout check 1s
    timeout http-request 5s
    timeout http-keep-alive 75s
    option forwardfor

    # A request is sent again only where it was never sent: the connection could not be made.
    retry-on conn-failure
    retries 2
    option redispatch 1              # at once to the other server

frontend decisions
    bind {listen}
    default_backend tailrace

backend tailrace
    balance leastconn
    option httpchk
    http-check send meth GET uri {READY_PATH} ver HTTP/1.1 hdr Host tailrace
    http-check expect status 200

    # Out two to three seconds after {READY_PATH} says 503, within the pre-drain; in two seconds after it says 200.
    # An idle connection is closed here long before the server closes it (--idle-s 60).
    default-server check inter {CHECK_S}s fall {CHECKS_FAILED} rise {CHECKS_FAILED} pool-purge-delay 5s
{servers}
{_grpc(upstream, grpc_listen) if upstream.grpc_servers else ""}"""


def _grpc(upstream: Upstream, listen: str) -> str:
    """Return the part for gRPC: HTTP/2 to ports that are up as long as their servers are."""
    servers = "\n".join(
        f"    server g{place} {server} proto h2 track tailrace/s{place}"
        for place, server in enumerate(upstream.grpc_servers, 1)
    )
    return f"""
frontend decisions_grpc
    bind {listen} proto h2
    default_backend tailrace_grpc

backend tailrace_grpc
    balance leastconn
{servers}
"""
