"""What the commands that know a registry have in common: which one, whose versions, and how far a file has come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailrace.cli.filled import filled
from tailrace.errors import RegistryError

if TYPE_CHECKING:
    from tailrace.release.registry.envelope import Signer
    from tailrace.release.registry.records import VersionRecord
    from tailrace.release.registry.registry import Registry


RegistryUrl = Annotated[
    str,
    typer.Option(
        "--registry",
        envvar="TAILRACE_REGISTRY",
        help="Where the registry is: a directory, s3://BUCKET/PREFIX, or a URL that fsspec knows.",
        show_default=False,
    ),
]
DefaultRegistryUrl = Annotated[
    str | None,
    typer.Option(
        "--registry",
        envvar="TAILRACE_REGISTRY",
        help="Registry of models that are a version and name no registry.",
    ),
]
TrustedKeys = Annotated[
    list[Path] | None,
    typer.Option(
        "--trusted-key",
        envvar="TAILRACE_TRUSTED_KEYS",
        callback=filled("TAILRACE_TRUSTED_KEYS", "anybody's versions would be taken"),
        help="A public key (PEM, Ed25519) whose versions are taken; may be repeated. None takes all.",
    ),
]
SignKey = Annotated[
    Path | None,
    typer.Option(
        "--sign-key",
        envvar="TAILRACE_SIGN_KEY",
        callback=filled("TAILRACE_SIGN_KEY", "nothing would be signed"),
        help="The private key (PEM, Ed25519) that signs the version.",
    ),
]
Aliases = Annotated[
    list[str] | None, typer.Option("--alias", help="An alias that names it from now on; may be repeated.")
]
VersionArgument = Annotated[
    str, typer.Argument(metavar="VERSION", help="The version: NAME@NUMBER or NAME@ALIAS.", show_default=False)
]


def check_aliases(aliases: list[str] | None) -> list[str]:
    """Return the aliases that a version shall have. Raises RegistryError for one that is no name."""
    from tailrace.release.registry.reference import check_alias

    return [check_alias(alias) for alias in aliases or ()]


def name_version(
    registry: Registry, aliases: list[str], record: VersionRecord
) -> tuple[list[str], RegistryError | None]:
    """Have aliases name a version that was registered; return those that do, and why others do not."""
    from tailrace.release.registry.notes import set_alias

    faults: dict[str, str] = {}
    for alias in aliases:
        try:
            set_alias(registry, alias, record.name, record.number)
        except RegistryError as error:
            faults[alias] = error.what
    named = [alias for alias in aliases if alias not in faults]
    if not faults:
        return named, None
    told = "; ".join(f"{alias!r} does not name it: {why}" for alias, why in faults.items())
    return named, RegistryError(
        f"the version is registered, but {told}",
        where=record.reference,
        next=f"tailrace models alias {record.name}@{min(faults)} {record.number}",
    )


def signer_of(key: Path | None) -> Signer | None:
    """Return what signs with a key; None without one."""
    from tailrace.release.registry.envelope import Signer

    return None if key is None else Signer.read(key)


def opened(url: str, keys: list[Path] | None, *, create: bool = False) -> Registry:
    """Return the registry at a URL, whose versions must be signed where there are keys."""
    from tailrace.release.registry.envelope import Trust
    from tailrace.release.registry.registry import open_registry

    return open_registry(url, Trust.read(keys or ()), create=create)


@contextmanager
def carried(action: str) -> Iterator[Callable[[str, int, int], None]]:
    """Show how far the bytes of a version have come, on stderr, and only to a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    console = Console(stderr=True)
    description = TextColumn("{task.description}", markup=False)  # a file's name is what its maker made it
    columns = (description, BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(action, total=None)

        def show(file: str, done: int, whole: int) -> None:
            progress.update(task, description=f"{action} {file}", completed=done, total=whole)

        yield show
