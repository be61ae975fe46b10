"""`tailrace accepted`: what waits in a server's directory of accepted requests, and what could not be delivered."""

from __future__ import annotations

import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tailrace.cli.printing import AsJson, print_json

if TYPE_CHECKING:
    from tailrace.server.accepted.journal import Journal, SetAside

RETRY_ALL: Final = "all"


def accepted(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="What the server has as --accepted.")],
    retry: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Deliver a result that was set aside again, or 'all'; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show how many accepted requests wait, how old the oldest is, and the results that are set aside, with the reason.

    The server may run meanwhile; it delivers what is to be tried again at once.

    For example:

        tailrace accepted /var/lib/tailrace/accepted --retry all
    """
    with closing(_opened(directory)) as journal:
        if retry:
            print(f"{_put_back(journal, retry)} results are delivered again", file=sys.stderr)
        _show(journal, as_json=as_json)


def _opened(directory: Path) -> Journal:
    """Return the journal in a directory. Raises StoreError where there is none."""
    from tailrace.errors import NoStoreError
    from tailrace.server.accepted.journal import Journal

    if not (directory / "data.mdb").is_file():
        raise NoStoreError("there are no accepted requests", where=str(directory), next="name a server's --accepted")
    return Journal(directory, entries_max=1, bytes_max=1 << 36, retention_s=0)  # which nothing here goes by


def _put_back(journal: Journal, retry: list[str]) -> int:
    """Have results delivered again; return how many. Raises SetupError for an id that is not set aside."""
    from functools import partial

    from tailrace.errors import SetupError

    (kept,) = journal.transact([journal.kept])
    known = {each.result.id for each in kept if each.result.pipeline}
    wanted = known if RETRY_ALL in retry else set(retry)
    if unknown := wanted - known:
        raise SetupError(f"{', '.join(sorted(unknown))} is not set aside", where="--retry",
                         next="see which ids are: tailrace accepted DIR")  # fmt: skip
    return sum(journal.transact([partial(journal.put_back, each) for each in sorted(wanted)]))


def _show(journal: Journal, *, as_json: bool) -> None:
    from functools import partial

    from tailrace.deadline import NS_PER_S

    now_ns = int(datetime.now(UTC).timestamp() * NS_PER_S)
    state, kept = journal.transact([partial(journal.state, now_ns), journal.kept])
    told: dict[str, Any] = {"scoring": state.waiting, "delivery": state.results,
                            "oldest_s": round(state.oldest_ns / NS_PER_S, 1)}  # fmt: skip
    rows = [_told(each) for each in kept]
    if as_json:
        print_json(told | {"set_aside": rows})
        return
    print(f"{state.waiting:,} wait to be scored, {state.results:,} to be delivered, the oldest for "
          f"{told['oldest_s']:,} s; {len(rows):,} are set aside")  # fmt: skip
    for row in rows:
        print(f"{row['id']}  {row['accepted_at'][:19]}  {row['pipeline'] or '?'}: {row['reason']}")


def _told(kept: SetAside) -> dict[str, Any]:
    from tailrace.deadline import NS_PER_S
    from tailrace.server.accepted.journal import accepted_ns

    result = kept.result
    when = datetime.fromtimestamp(accepted_ns(result.id) / NS_PER_S, UTC)
    return {
        "id": result.id, "pipeline": result.pipeline, "accepted_at": when.isoformat(), "reason": kept.reason,
        "result": result.body.decode("utf-8", "replace") if result.pipeline else "",
    }  # fmt: skip
