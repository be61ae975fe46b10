"""The options of `tailrace explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RequestId = Annotated[
    str, typer.Argument(metavar="REQUEST_ID", help="As the caller sent it, in X-Request-Id.", show_default=False)
]
Log = Annotated[
    Path,
    typer.Option(metavar="DIR", envvar="TAILRACE_LOG", help="What the server has as --log.", show_default=False),
]
PipelineName = Annotated[str | None, typer.Option(metavar="NAME", help="Search this pipeline's log alone.")]
At = Annotated[
    str | None, typer.Option(metavar="TIME", help="When it was answered, to an hour, as 2026-11-28T09:30: faster.")
]
Trace = Annotated[bool, typer.Option("--trace", help="REQUEST_ID is the id of a W3C trace.")]
Releases = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="DIR",
        envvar="TAILRACE_RELEASES",
        help="Where the server keeps its releases, beside where the log says; may be repeated.",
    ),
]
Store = Annotated[str | None, typer.Option(help="Online store that --replay reads, in place of the declared.")]
LogOnly = Annotated[
    bool, typer.Option("--log-only", help="Leave out what its release knows: faster, and no code of it runs.")
]
Replay = Annotated[
    bool, typer.Option("--replay", help="Score it again by its release, and show both beside each other.")
]
