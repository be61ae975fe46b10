"""The configuration of nginx for some servers: a file of /etc/nginx/conf.d."""

from __future__ import annotations

from math import ceil

from tailrace.deploy.upstream import CONNECT_MS, Upstream


def nginx_config(upstream: Upstream, listen: str, grpc_listen: str) -> str:
    """Return the file. listen, grpc_listen: the address and port of nginx itself."""
    servers = "\n".join(f"    server {server} max_fails=1 fail_timeout=2s;" for server in upstream.servers)
    tries = min(len(upstream.servers), 3)
    return f"""\
# Tailrace servers behind nginx 1.19.10 or later, as a file of /etc/nginx/conf.d. Each runs with --pre-drain-s 5; see
# docs/how-to/run-behind-a-balancer.md.

upstream tailrace {{
    zone tailrace 64k;               # what one nginx worker learns of a server, all know
    least_conn;

    # nginx without a subscription checks no health. It learns that a server is gone by a connection that is refused,
    # and tries it again two seconds later with one request.
{servers}

    # An idle connection is closed here before the server may close it: a draining one does so after a second.
    keepalive 64;
    keepalive_timeout 500ms;
    keepalive_requests 1000000;
}}

server {{
    listen {listen};
    keepalive_requests 1000000;
    client_max_body_size {ceil(upstream.body_bytes_max / 1024)}k;
    client_body_buffer_size 128k;    # of a body; what is longer waits on the disk

    location / {{
        proxy_pass http://tailrace;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_max_temp_file_size 0;  # no answer waits on the disk
        proxy_connect_timeout {CONNECT_MS}ms; # a handshake that nobody answers goes to the other server
        proxy_read_timeout {upstream.answer_ms}ms;   # by then the server has answered, whatever failed in it

        # A request is sent again only where it was never sent: nginx passes no POST on once it is (that would need
        # "non_idempotent"). No http_503: it means that there is no time, and another attempt takes more of it.
        proxy_next_upstream error timeout;
        proxy_next_upstream_tries {tries};
    }}
}}
{_grpc(upstream, grpc_listen) if upstream.grpc_servers else ""}"""


def _grpc(upstream: Upstream, listen: str) -> str:
    """Return the part for gRPC: the same, over HTTP/2."""
    servers = "\n".join(f"    server {server} max_fails=1 fail_timeout=2s;" for server in upstream.grpc_servers)
    return f"""
upstream tailrace_grpc {{
    zone tailrace_grpc 64k;
    least_conn;
{servers}
    keepalive 64;
    keepalive_timeout 500ms;
    keepalive_requests 1000000;
}}

server {{
    listen {listen} http2;
    keepalive_requests 1000000;
    client_max_body_size {ceil(upstream.body_bytes_max / 1024)}k;
    client_body_buffer_size 128k;

    location / {{
        grpc_pass grpc://tailrace_grpc;
        grpc_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        grpc_connect_timeout {CONNECT_MS}ms;
        grpc_read_timeout {upstream.answer_ms}ms;
        grpc_next_upstream error timeout;
        grpc_next_upstream_tries {min(len(upstream.grpc_servers), 3)};
    }}
}}
"""
