"""`tailrace keys`: make the API keys of a server, list them, and end one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from tailrace.cli.durations import duration_ns
from tailrace.cli.filled import filled
from tailrace.cli.printing import AsJson, print_json, print_table, table_of
from tailrace.errors import SetupError

if TYPE_CHECKING:
    from tailrace.request.limit import Limit
    from tailrace.request.priority import Priority
    from tailrace.server.key_file import Key

Rate = Annotated[
    str | None, typer.Option(metavar="RATE", help="Requests it may ask for, as in 100/s, 6000/m, 10/h; any without.")
]
Burst = Annotated[int | None, typer.Option(metavar="N", help="Requests that may come at once; default: RATE's number.")]
Concurrent = Annotated[int | None, typer.Option(metavar="N", help="Calls that may be in flight at once; any without.")]
Certificate = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Of its certificate, shown in place of a key: DNS:…, URI:…, CN=…, SHA256:…"),
]
PriorityName = Annotated[str, typer.Option(help="high, normal or low: low is shed first.")]

KeyFile = Annotated[
    Path,
    typer.Option(
        "--keys",
        envvar="TAILRACE_KEYS",
        metavar="FILE",
        callback=filled("TAILRACE_KEYS", "no keys would be asked for"),
        help="The file of the keys.",
    ),
]


def create(  # noqa: PLR0917 - one parameter an option
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is, as in checkout.")],
    keys: KeyFile,
    pipeline: Annotated[
        list[str] | None, typer.Option(help="A pipeline that it opens, or '*' for all; may be repeated.")
    ] = None,
    stream: Annotated[
        list[str] | None, typer.Option(help="A stream that it may send events to, or '*'; may be repeated.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="DURATION", help="How long it is valid, as in 90d; for ever without.")
    ] = None,
    rate: Rate = None,
    burst: Burst = None,
    concurrent: Concurrent = None,
    priority: PriorityName = "normal",
    certificate: Certificate = None,
) -> None:
    """Make a key, and print it: this once, since the file holds no more than its digest.

    A server that has the file takes the key within a second. With --certificate there is no key: a server that has the
    authority of callers (--tls-client-ca) knows it by its certificate.

    For example:

        tailrace keys create checkout --pipeline fraud --stream payments --expires 90d --keys keys.json
    """
    from tailrace.server.key_file import certified, changing, make_key

    scopes = [*(f"pipelines/{each}" for each in pipeline or ()), *(f"streams/{each}" for each in stream or ())]
    limit, level = _limit_of(rate, burst, concurrent), _level_of(priority)
    secret, key = make_key(name, scopes, None if expires is None else _end_of(expires), limit, level)
    if certificate is not None:
        key = certified(key, certificate)
    with changing(keys, create=True) as known:
        known.append(key)
    if certificate is not None:
        print(f"{certificate} of {name} opens {', '.join(scopes)}; it has the id {key.id}")
        return
    print(f"key {key.id} of {name} opens {', '.join(scopes)}; it is shown this once:", file=sys.stderr)
    print(secret)


def list_keys(keys: KeyFile, as_json: AsJson = False) -> None:
    """List the keys of a file: whose they are, what they open, and whether they still do.

    For example:

        tailrace keys list --keys keys.json
    """
    from tailrace.server.key_file import read_keys

    rows = [_told(key, datetime.now(UTC)) for key in read_keys(keys)]
    if as_json:
        print_json(rows)
        return
    table = table_of("id", "name", "state", "scopes", "created", "expires", "limit", "priority", "certificate")
    for row in rows:
        days = [(row[name] or "")[:10] for name in ("created", "expires")]
        limit = [row["rate"] or "", f"burst {row['burst']}" if row["burst"] else "",
                 f"{row['concurrent']} at once" if row["concurrent"] else ""]  # fmt: skip
        shown = ", ".join(filter(None, limit)), row["priority"], row["certificate"] or ""
        table.add_row(row["id"], row["name"], row["state"], " ".join(row["scopes"]), *days, *shown)
    print_table(table)


def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Its id, or its name where one key alone has it.")],
    keys: KeyFile,
) -> None:
    """End a key. Servers refuse it within a second, on connections that have used it too.

    For example:

        tailrace keys revoke checkout --keys keys.json
    """
    import msgspec

    from tailrace.server.key_file import changing

    now = datetime.now(UTC)
    with changing(keys) as known:
        place = _find(known, key, now)
        known[place] = revoked = msgspec.structs.replace(known[place], revoked=now)
    print(f"key {revoked.id} of {revoked.name} is revoked")


def limit_key(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Its id, or its name where one key alone has it.")],
    keys: KeyFile,
    rate: Rate = None,
    burst: Burst = None,
    concurrent: Concurrent = None,
    priority: PriorityName = "normal",
) -> None:
    """Give a key other limits, and another priority. What is not given is not limited any more.

    Servers go by them within a second.

    For example:

        tailrace keys limit checkout --rate 200/s --burst 400 --concurrent 32 --keys keys.json
    """
    import msgspec

    from tailrace.server.key_file import LEVELS, changing

    given, level = _limit_of(rate, burst, concurrent), LEVELS[_level_of(priority)]
    with changing(keys) as known:
        place = _find(known, key, datetime.now(UTC))
        known[place] = changed = msgspec.structs.replace(
            known[place], rate=given.rate, burst=given.burst, concurrent=given.concurrent, priority=level
        )
    print(f"key {changed.id} of {changed.name} has other limits")


COMMANDS: Final[dict[str, Callable[..., Any]]] = {
    "create": create, "list": list_keys, "limit": limit_key, "revoke": revoke,
}  # fmt: skip


def _limit_of(rate: str | None, burst: int | None, concurrent: int | None) -> Limit:
    """Return what a key may have. Raises SetupError."""
    from tailrace.request.limit import Limit

    try:
        return Limit(rate=rate, burst=burst, concurrent=concurrent)
    except ValueError as error:
        raise SetupError(str(error), where="--rate", next="leave out what is not to be limited") from None


def _level_of(name: str) -> Priority:
    """Return a priority by its name. Raises SetupError."""
    from tailrace.request.priority import PRIORITIES

    if name not in PRIORITIES:
        raise SetupError(f"{name!r} is no priority", where="--priority", next=f"choose {', '.join(PRIORITIES)}")
    return PRIORITIES[name]


def _end_of(text: str) -> datetime:
    """Return when a key ends that is valid for so long. Raises SetupError."""
    try:
        return datetime.now(UTC) + timedelta(microseconds=duration_ns(text, "--expires") // 1_000)
    except OverflowError:
        raise SetupError(f"{text} is past the calendar", where="--expires", next="leave it out, for ever") from None


def _find(known: list[Key], wanted: str, now: datetime) -> int:
    """Return the place of a key that can be revoked. Raises SetupError where there is not exactly one."""
    found = [place for place, key in enumerate(known) if wanted in (key.id, key.name) and key.state(now) != "revoked"]
    if len(found) == 1:
        return found[0]
    ids = ", ".join(known[place].id for place in found)
    what = f"{len(found)} keys have the name: {ids}" if found else "there is no such key, or it is revoked"
    raise SetupError(what, where=wanted, next="give its id; see tailrace keys list")


def _told(key: Key, now: datetime) -> dict[str, Any]:
    """Return what may be told of a key."""
    times = {"created": key.created, "expires": key.expires, "revoked": key.revoked}
    told = {name: when and f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" for name, when in times.items()}
    limits = {"rate": key.rate, "burst": key.burst, "concurrent": key.concurrent, "priority": key.priority}
    limits["certificate"] = key.certificate
    return {"id": key.id, "name": key.name, "state": key.state(now), "scopes": list(key.scopes), **told, **limits}
