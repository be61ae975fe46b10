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
from tailrace.cli.models.options import AsJson, print_json, print_table, table_of
from tailrace.errors import SetupError

if TYPE_CHECKING:
    from tailrace.server.key_file import Key

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


def create(
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
) -> None:
    """Make a key, and print it: this once, since the file holds no more than its digest.

    A server that has the file takes the key within a second.

    For example:

        tailrace keys create checkout --pipeline fraud --stream payments --expires 90d --keys keys.json
    """
    from tailrace.server.key_file import changing, make_key

    scopes = [*(f"pipelines/{each}" for each in pipeline or ()), *(f"streams/{each}" for each in stream or ())]
    secret, key = make_key(name, scopes, None if expires is None else _end_of(expires))
    with changing(keys, create=True) as known:
        known.append(key)
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
    table = table_of("id", "name", "state", "scopes", "created", "expires")
    for row in rows:
        days = [(row[name] or "")[:10] for name in ("created", "expires")]
        table.add_row(row["id"], row["name"], row["state"], " ".join(row["scopes"]), *days)
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


COMMANDS: Final[dict[str, Callable[..., Any]]] = {"create": create, "list": list_keys, "revoke": revoke}


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
    return {"id": key.id, "name": key.name, "state": key.state(now), "scopes": list(key.scopes), **told}
