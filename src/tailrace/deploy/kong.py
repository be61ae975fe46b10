"""The declarative configuration of Kong Gateway for some servers: an upstream, and a service for each path.

Kong reads YAML; this writes the part of it that is JSON, under comments.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from tailrace.deploy.upstream import CHECK_S, CHECKS_FAILED, CONNECT_MS, READY_PATH, Operation, Upstream

FORMAT: Final = "3.0"
NAME: Final = "tailrace"
_HEADER: Final = """\
# Tailrace servers behind Kong Gateway 3. Each runs with --pre-drain-s 5 and --idle-s 75: Kong closes an idle connection
# after 60 s (upstream_keepalive_idle_timeout in kong.conf), and who sends should close first. See
# docs/how-to/run-behind-a-gateway.md.
"""


def kong_config(upstream: Upstream) -> str:
    """Return the file."""
    document = {
        "_format_version": FORMAT,
        "upstreams": [
            {
                "name": NAME,
                "algorithm": "least-connections",
                "targets": [{"target": server} for server in upstream.servers],
                "healthchecks": {"active": _checks()},
            }
        ],
        "services": [_service(each) for each in upstream.operations],
    }
    return _HEADER + msgspec.json.format(msgspec.json.encode(document)).decode() + "\n"


def _checks() -> dict[str, Any]:
    """Return the health checks: one a second, of which two in a row count."""
    return {
        "type": "http",
        "http_path": READY_PATH,
        "timeout": 1,
        "healthy": {"interval": CHECK_S, "successes": CHECKS_FAILED, "http_statuses": [200]},
        "unhealthy": {
            "interval": CHECK_S,
            "http_failures": CHECKS_FAILED,
            "tcp_failures": CHECKS_FAILED,
            "timeouts": CHECKS_FAILED,
            "http_statuses": [503],
        },
    }


def _service(operation: Operation) -> dict[str, Any]:
    """Return a path with its times. Kong sends a POST again only where the connection could not be made."""
    return {
        "name": operation.name,
        "protocol": "http",
        "host": NAME,
        "port": 80,
        "connect_timeout": CONNECT_MS,
        "write_timeout": operation.answer_ms,
        "read_timeout": operation.answer_ms,
        "retries": 1,
        "routes": [
            {
                "name": operation.name,
                "methods": ["POST"],
                "paths": [f"~{re.escape(operation.path)}$"],
                "strip_path": False,
                "protocols": ["http", "https"],
            }
        ],
    }
