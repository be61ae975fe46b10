"""`tailrace replay`: send recorded calls again, and see what is different."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailrace.cli.printing import AsJson, print_table, table_of
from tailrace.cli.progress import progress_bar

if TYPE_CHECKING:
    from tailrace.recording.comparison import Outcome


def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What tailrace record has written.", show_default=False)],
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="A server's URL, or a file of pipelines.", show_default=False)
    ],
    store: Annotated[
        str | None, typer.Option(help="Online store of a file's pipelines, in place of the declared.")
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option("--header", "-H", metavar="HEADER", help="'Name: value', for a secret that was taken out."),
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option("--ca-file", help="Authorities that an https server is believed by, PEM.")
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0.0, help="By how much numbers may differ.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Send recorded calls again, one after the other, and compare status and body with what was recorded.

    A file of pipelines is served for as long as it takes. Times are shown beside each other, and are no difference.
    Exit code 1 where an answer is another, or a call could not be sent for its body was left out.

    For example:

        tailrace replay failing.trr pipeline.py
    """
    from tailrace.recording.answers import Sender
    from tailrace.recording.comparison import Outcome, compared, same
    from tailrace.recording.file import read_recording

    recording = read_recording(file)
    outcomes: list[Outcome] = []
    believed = None if ca_file is None else str(ca_file)
    with (
        progress_bar("replaying") as show,
        _server_at(target, store) as url,
        Sender(url, header or (), ca_file=believed) as sender,
    ):
        for call in recording.calls:
            if call.body is None:
                outcomes.append(Outcome(call, None, left_out=call.left_out))
            else:
                outcomes.append(compared(call, sender.ask(call), tolerance=tolerance))
            show("replaying", len(outcomes), len(recording.calls))
    if as_json:
        print(json.dumps([_told(outcome) for outcome in outcomes]))
    else:
        _show(outcomes)
        print(f"{len(outcomes):,} calls of {recording.server}, {same(outcomes):,} answered as they were")
    raise typer.Exit(0 if same(outcomes) == len(outcomes) else 1)


def _server_at(target: str, store: str | None) -> AbstractContextManager[str]:
    """Give a server's URL: the target itself, or that of one that is started for the file that it names."""
    from tailrace.recording.local_server import local_server

    return nullcontext(target) if target.startswith(("http://", "https://")) else local_server(Path(target), store)


def _show(outcomes: list[Outcome]) -> None:
    """Print a table, a line for each call."""
    table = table_of("call", "status", "ms then", "ms now", "release", "difference")
    for number, outcome in enumerate(outcomes, 1):
        call, answer = outcome.call, outcome.answer
        releases = [each for each in (call.release, answer.release if answer else "") if each]
        table.add_row(
            f"{number} {call.line.rpartition(' ')[0][:60]}",
            str(call.status),
            f"{call.whole_ms:.1f}",
            f"{answer.whole_ms:.1f}" if answer else "",
            " → ".join(dict.fromkeys(releases)),
            "\n".join(outcome.differences) or (f"not sent: {outcome.left_out}" if outcome.answer is None else "none"),
        )
    print_table(table)


def _told(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as JSON has it."""
    call, answer = outcome.call, outcome.answer
    then = {"status": call.status, "ms": call.whole_ms, "release": call.release, "layers": call.layers}
    now = answer and {"status": answer.status, "ms": round(answer.whole_ms, 3), "release": answer.release,
                      "layers": answer.layers}  # fmt: skip
    return {"call": call.line, "same": outcome.is_same, "then": then, "now": now, "differences": outcome.differences,
            "redacted": list(call.redacted), "left_out": outcome.left_out}  # fmt: skip
