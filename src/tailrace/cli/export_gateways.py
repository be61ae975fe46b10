"""`tailrace export nginx`, `haproxy`, `kong` and `aws`: what stands before servers, for their pipelines."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tailrace.errors import SetupError

if TYPE_CHECKING:
    from tailrace.deploy.upstream import Upstream

BODY_BYTES_MAX: Final = 1 << 20
"""Of a server that is told nothing else."""
_ARN: Final = re.compile(r"arn:aws[a-z-]*:elasticloadbalancing:[a-z0-9-]+:[0-9]{12}:listener/[A-Za-z0-9/._-]+")
_LINK: Final = re.compile(r"[A-Za-z0-9]+|\$\{stageVariables\.[A-Za-z0-9_]+\}")

Files = Annotated[
    list[Path], typer.Argument(metavar="FILE", help="Python files that declare pipelines.", show_default=False)
]
Servers = Annotated[
    list[str] | None,
    typer.Option("--server", metavar="HOST:PORT", help="A server of them, 127.0.0.1:8080 without it; may be repeated."),
]
GrpcServers = Annotated[
    list[str] | None,
    typer.Option(
        "--grpc-server", metavar="HOST:PORT", help="Its port for gRPC, one for each --server, in their order."
    ),
]
GrpcListen = Annotated[str, typer.Option(metavar="HOST:PORT", help="Where it takes calls over gRPC.")]
Listen = Annotated[str, typer.Option(metavar="HOST:PORT", help="Where it takes calls itself.")]
BodyBytes = Annotated[int, typer.Option(help="Bytes of one request, as the servers are told.", min=1)]


def nginx(
    files: Files,
    server: Servers = None,
    grpc_server: GrpcServers = None,
    listen: Listen = "127.0.0.1:8000",
    grpc_listen: GrpcListen = "127.0.0.1:8001",
    body_bytes_max: BodyBytes = BODY_BYTES_MAX,
) -> None:
    """Print a configuration of nginx for servers of these pipelines, as a file of /etc/nginx/conf.d.

    A server is restarted behind it without a failed request; its time-outs are those of the pipelines' budgets.

    For example:

        tailrace export nginx pipeline.py --server 10.0.0.1:8080 --server 10.0.0.2:8080 > tailrace.conf
    """
    from tailrace.deploy.nginx import nginx_config

    upstream = _upstream(files, server, body_bytes_max, grpc_server)
    sys.stdout.write(nginx_config(upstream, _address(listen), _address(grpc_listen)))


def haproxy(
    files: Files,
    server: Servers = None,
    grpc_server: GrpcServers = None,
    listen: Listen = "127.0.0.1:8000",
    grpc_listen: GrpcListen = "127.0.0.1:8001",
) -> None:
    """Print a configuration of HAProxy for servers of these pipelines.

    It checks the servers' readiness, so that one is restarted without a failed request.

    For example:

        tailrace export haproxy pipeline.py --server 10.0.0.1:8080 --server 10.0.0.2:8080 > haproxy.cfg
    """
    from tailrace.deploy.haproxy import haproxy_config

    upstream = _upstream(files, server, grpc_servers=grpc_server)
    sys.stdout.write(haproxy_config(upstream, _address(listen), _address(grpc_listen)))


def kong(files: Files, server: Servers = None) -> None:
    """Print a declarative configuration of Kong Gateway 3 for servers of these pipelines.

    A service and a route for each pipeline and stream, with its own time-outs, and an upstream with health checks.

    For example:

        tailrace export kong pipeline.py --server 10.0.0.1:8080 --server 10.0.0.2:8080 > kong.yaml
    """
    from tailrace.deploy.kong import kong_config

    sys.stdout.write(kong_config(_upstream(files, server)))


def aws(
    files: Files,
    listener: Annotated[
        str,
        typer.Option(metavar="ARN", help="The listener of the load balancer before the servers.", show_default=False),
    ],
    vpc_link: Annotated[str, typer.Option(metavar="ID", help="The VPC link that leads there.", show_default=False)],
) -> None:
    """Print an OpenAPI document from which Amazon's API Gateway makes an HTTP API in front of a load balancer.

    For example:

        tailrace export aws pipeline.py --vpc-link abc123 --listener "$LISTENER_ARN" > api.json
    """
    from tailrace.deploy.api_gateway import api_gateway_document

    if _ARN.fullmatch(listener) is None:
        next_step = "give one as aws elbv2 describe-listeners tells it"
        raise SetupError(f"{listener!r} is no listener's ARN", where="--listener", next=next_step)
    if _LINK.fullmatch(vpc_link) is None:
        raise SetupError(f"{vpc_link!r} is no id", where="--vpc-link", next="give one as aws apigatewayv2 tells it")
    sys.stdout.write(api_gateway_document(_upstream(files, None), listener, vpc_link))


COMMANDS: Final[dict[str, Callable[..., Any]]] = {"nginx": nginx, "haproxy": haproxy, "kong": kong, "aws": aws}


def _upstream(
    files: list[Path],
    servers: list[str] | None,
    body_bytes_max: int = BODY_BYTES_MAX,
    grpc_servers: list[str] | None = None,
) -> Upstream:
    """Return the servers of the pipelines of some files. No model and no store is opened."""
    from tailrace.compile.loading import load_pipelines
    from tailrace.deploy.upstream import upstream_of

    pipelines = [pipeline for file in files for pipeline in load_pipelines(file)]
    return upstream_of(pipelines, servers or ["127.0.0.1:8080"], body_bytes_max, grpc_servers or [])


def _address(listen: str) -> str:
    """Return where something listens, if it can be. Raises SetupError."""
    from tailrace.deploy.upstream import check_address

    check_address(listen)
    return listen
