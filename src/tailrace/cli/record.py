"""`tailrace record`: keep calls of a server in a file, with which anyone may replay them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from tailrace.cli.durations import duration_ns
from tailrace.cli.progress import progress_bar
from tailrace.errors import SetupError


def record(  # noqa: PLR0917 - typer reads each option from a parameter
    url: Annotated[str, typer.Argument(metavar="URL", help="The server: http://HOST:PORT.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The file to write.", show_default=False)],
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where calls are to be sent meanwhile; port 0 takes a free one.")
    ] = "127.0.0.1:0",
    pipeline: Annotated[str | None, typer.Option(metavar="NAME", help="Only calls of this pipeline.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="CONDITION", help="Only calls such as 'status>=400' or 'ms>20'; may be repeated."),
    ] = None,
    request_id: Annotated[str | None, typer.Option(metavar="ID", help="Only the call with this X-Request-Id.")] = None,
    count: Annotated[int, typer.Option(min=1, max=100_000, help="How many calls at most.")] = 10,
    seconds: Annotated[str, typer.Option("--for", metavar="DURATION", help="For how long at most, as in 10m.")] = "10m",
    raw: Annotated[
        bool, typer.Option("--raw", help="Keep whole what cannot be read, and so not be redacted either.")
    ] = False,
    key: Annotated[
        str | None, typer.Option(envvar="TAILRACE_KEY", help="A key of the server, to ask what is redacted.")
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option("--ca-file", help="Authorities that an https server is believed by, PEM.")
    ] = None,
) -> None:
    """Keep calls of a server in a file: their bytes, answers, times and release.

    A proxy stands before the server until enough calls are kept, the time is over, or Ctrl-C. Clients send to it in
    place of the server, and are answered as by that. What the pipeline's types mark as tr.REDACTED, and secrets in
    headers, are not kept. Exit code 1 where no call was.

    For example:

        tailrace record http://127.0.0.1:8080 --pipeline fraud --where 'status>=400' --out failing.trr
    """
    import asyncio

    from tailrace.recording.condition import Condition, Wanted
    from tailrace.recording.file import write_recording
    from tailrace.recording.session import Limits, record, redaction_of

    wanted = Wanted(pipeline, request_id, tuple(map(Condition.parse, where or ())))
    authorities = None if ca_file is None else str(ca_file)
    redaction = redaction_of(url, key, keep_raw=raw, ca_file=authorities)
    limits = Limits(count, duration_ns(seconds, "--for") / 1e9)
    with progress_bar("recording") as show:
        calls = asyncio.run(
            record(
                url, _place_of(listen), wanted, redaction, limits,
                on_listening=lambda address: print(f"send calls to {address}", file=sys.stderr, flush=True),
                on_call=lambda done: show("recording", done, count), ca_file=authorities,
            )
        )  # fmt: skip
    if not calls:
        print("no call was recorded", file=sys.stderr)
        raise typer.Exit(1)
    write_recording(out, url, calls)
    redacted = sum(bool(call.redacted or call.answer_redacted) for call in calls)
    left_out = sum(call.body is None for call in calls)
    print(f"{out}: {len(calls):,} calls, {redacted:,} redacted, {left_out:,} without their body")


def _place_of(listen: str) -> tuple[str, int]:
    """Return a host and a port. Raises SetupError."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise SetupError(f"it is no address: {listen!r}", where="--listen", next="write HOST:PORT")
    return host.strip("[]"), int(port)
