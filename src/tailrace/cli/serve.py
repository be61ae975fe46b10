"""`tailrace serve`: serve every pipeline that the files declare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tailrace.cli.keys import not_emptied
from tailrace.cli.models.options import DefaultRegistryUrl, TrustedKeys

Origins = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ORIGIN",
        help="Count a broker's events: redis://…?stream=KEY, kafka://…, or STREAM=URL; may be repeated.",
    ),
]
UnixPath = Annotated[
    str | None, typer.Option(metavar="PATH", help="Serve on a Unix socket too, for callers on this host.")
]
UnixTakeover = Annotated[
    bool, typer.Option("--unix-takeover", help="Take PATH from a server that answers there, once ready.")
]
SampleFile = Annotated[
    str | None, typer.Option(metavar="FILE", help="Append a sample of what is served to FILE.SLOT, as JSON lines.")
]
Releases = Annotated[
    str | None,
    typer.Option(envvar="TAILRACE_RELEASES", help="Directory of pinned releases; default: by FILE, or by --store."),
]
AdminToken = Annotated[
    str | None, typer.Option(envvar="TAILRACE_ADMIN_TOKEN", help="Bearer token of the admin port; needed off loopback.")
]
StoreUrl = Annotated[str | None, typer.Option(help="Online store in place of the declared: lmdb:PATH, redis://…")]
Refresh = Annotated[
    bool, typer.Option("--refresh", help="Materialise batch views again as often as their refresh says.")
]
KeyFile = Annotated[
    str | None,
    typer.Option(
        envvar="TAILRACE_KEYS",
        metavar="FILE",
        callback=not_emptied,
        help="File of API keys, one of which each call must show.",
    ),
]


def serve(  # noqa: PLR0917 - one parameter an option
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Python files that declare pipelines.")],
    host: Annotated[str, typer.Option(help="Address to serve on; 0.0.0.0 for all of them.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to serve on; 0 takes a free one.")] = 8080,
    unix: UnixPath = None,
    unix_mode: Annotated[str, typer.Option(help="Mode of its file: 660 lets its group connect.")] = "600",
    unix_takeover: UnixTakeover = False,
    keys: KeyFile = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Serve others than this machine without keys.")] = False,
    workers: Annotated[int, typer.Option(help="Worker processes; give one a core.")] = 1,
    store: StoreUrl = None,
    refresh: Refresh = False,
    ingest: Origins = None,
    ingest_group: Annotated[str, typer.Option(help="The consumer group of --ingest.")] = "tailrace",
    releases: Releases = None,
    sample_requests: SampleFile = None,
    registry: DefaultRegistryUrl = None,
    trusted_keys: TrustedKeys = None,
    admin_host: Annotated[str, typer.Option(help="Address of /metrics and /status.")] = "127.0.0.1",
    admin_port: Annotated[int, typer.Option(help="Port of /metrics and /status; 0 takes a free one.")] = 8081,
    admin_token: AdminToken = None,
    body_bytes_max: Annotated[int, typer.Option(help="Longest body; a longer one is answered 413.")] = 1 << 20,
    header_bytes_max: Annotated[int, typer.Option(help="Longest head of a request, else 431.")] = 16 << 10,
    connections_max: Annotated[int, typer.Option(help="Connections a worker holds open, else 503.")] = 10_000,
    partial_bytes_max: Annotated[int, typer.Option(help="Bytes held of requests in part, else 503.")] = 256 << 20,
    array_max: Annotated[int, typer.Option(help="Requests one call may carry in an array, else 422.")] = 1_000,
    cache_bytes_max: Annotated[int, typer.Option(help="Bytes kept of a network store, a pipeline and worker.")] = 0,
    cache_ttl_s: Annotated[float, typer.Option(help="Seconds that a kept row is served without a read.")] = 10.0,
    cache_stale_s: Annotated[float, typer.Option(help="Seconds more, as stale, while the store fails.")] = 600.0,
    idle_s: Annotated[float, typer.Option(help="Seconds an idle connection is kept open.")] = 60.0,
    request_s: Annotated[float, typer.Option(help="Seconds a client may take to send one request, else 408.")] = 5.0,
    pre_drain_s: Annotated[float, typer.Option(help="Seconds to serve on with /readyz at 503, then drain.")] = 0.0,
    drain_s: Annotated[float, typer.Option(help="Seconds a stopping worker has for what is in flight.")] = 30.0,
    start_s: Annotated[float, typer.Option(help="Seconds a worker may take to be ready, else it is killed.")] = 120.0,
    heartbeat_s: Annotated[float, typer.Option(help="Seconds between a worker's signs of life.")] = 1.0,
    frozen_s: Annotated[float, typer.Option(help="Seconds of silence after which a worker is replaced.")] = 10.0,
) -> None:
    """Serve every pipeline that the files declare, until SIGTERM or Ctrl-C.

    What is served is pinned at the start: the modules of the files' folders and their models are copied, and a worker
    that is replaced loads the copies. What changes there later is served after the next start.

    A pipeline NAME answers POST /v1/pipelines/NAME/predict, with one JSON object or an array of them. /livez, /readyz
    stand on the same port, /metrics, /status on the admin port. SIGTERM drains, after --pre-drain-s, and exits with 0.
    A second one ends at once.

    For example:

        tailrace serve examples/fraud/pipeline.py --workers 2
    """
    settings = dict(locals())  # before any other name is there
    settings |= {"files": tuple(map(str, files)), "ingest": tuple(ingest or ())}
    settings["trusted_keys"] = tuple(map(str, trusted_keys or ()))

    from tailrace.server.options import ServeOptions
    from tailrace.server.supervisor import serve as serve_until_stopped

    raise typer.Exit(serve_until_stopped(ServeOptions(**settings)))
