"""`tailrace models register` and `fetch`: a model directory becomes a version, and a version a model directory."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailrace.cli.models.options import (
    Aliases,
    RegistryUrl,
    SignKey,
    TrustedKeys,
    VersionArgument,
    carried,
    check_aliases,
    name_version,
    opened,
    signer_of,
)
from tailrace.cli.printing import AsJson, print_json

if TYPE_CHECKING:
    from tailrace.release.registry.records import Lineage
    from tailrace.release.registry.registry import Registry

GIT_S_MAX = 5.0


def register(  # noqa: PLR0917 - one parameter an option
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIRECTORY", help="The model directory that `tailrace package` wrote.", show_default=False
        ),
    ],
    registry: RegistryUrl,
    name: Annotated[
        str | None, typer.Option(help="The model's name in the registry; the directory's manifest has the default.")
    ] = None,
    parent: Annotated[
        list[str] | None,
        typer.Option(help="A version that it was made from, NAME@NUMBER or NAME@ALIAS; may be repeated."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="The file that it was trained on; its sha256 is noted, it is not kept.")
    ] = None,
    command: Annotated[str, typer.Option(help="The command that made it.")] = "",
    code: Annotated[
        str | None, typer.Option(help="The version of the code that made it; else the commit of the working directory.")
    ] = None,
    alias: Aliases = None,
    sign_key: SignKey = None,
    as_json: AsJson = False,
) -> None:
    """Make a model directory the next version of a model.

    The version never changes. It is there whole or not at all, whatever becomes of this command, and has a number that
    no other has, also where several register at once. Prints NAME@NUMBER.

    For example:

        tailrace models register models/fraud --registry s3://models/team --data training.parquet --alias staging
    """
    from tailrace.inference.model_directory import read_manifest
    from tailrace.release.registry.registering import register as register_version

    aliases, signer = check_aliases(alias), signer_of(sign_key)
    name = name or read_manifest(directory).name
    found = opened(registry, None, create=True)
    lineage = _lineage(found, parent or [], data, command, code)
    with carried("registering") as on_progress:
        version = register_version(found, directory, name, lineage=lineage, signer=signer, on_progress=on_progress)
    if not as_json:  # it is there, whatever becomes of its aliases
        print(version.record.reference, flush=True)
    named, fault = name_version(found, aliases, version.record)
    if as_json:
        print_json({"name": name, "number": version.record.number, "digest": version.record.digest,
                    "signed_by": version.key_id, "aliases": named, "registry": found.url})  # fmt: skip
    if fault is not None:
        raise fault


def fetch(
    version: VersionArgument,
    registry: RegistryUrl,
    out: Annotated[Path, typer.Option(help="The directory to write, such as models/fraud.", show_default=False)],
    trusted_key: TrustedKeys = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the directory if it exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a version's files as a model directory, each held against its sha256; whole, or not at all.

    For example:

        tailrace models fetch fraud@production --registry s3://models/team --out models/fraud
    """
    from tailrace.release.registry.fetching import fetch_directory
    from tailrace.release.registry.reference import Reference

    found = opened(registry, trusted_key)
    record = found.resolve(Reference.parse(version)).record
    with carried("fetching") as on_progress:
        fetch_directory(found, record, out, overwrite=overwrite, on_progress=on_progress)
    if as_json:
        print_json({"version": record.reference, "digest": record.digest, "directory": str(out)})
    else:
        print(f"{record.reference} is in {out}")


def _lineage(registry: Registry, parents: list[str], data: Path | None, command: str, code: str | None) -> Lineage:
    """Return what a version was made from, parents with their numbers and digests."""
    from tailrace.release.registry.records import Lineage
    from tailrace.release.registry.reference import Reference
    from tailrace.release.registry.registering import data_sha256

    found = [registry.resolve(Reference.parse(parent)).record for parent in parents]
    return Lineage(
        parents={record.reference: record.digest for record in found},
        data="" if data is None else str(data),
        data_sha256="" if data is None else data_sha256(data),
        command=command,
        code=_commit_here() if code is None else code,
    )


def _commit_here() -> str:
    """Return the commit of the working directory, "+changes" behind it where there are some; "" where it has none."""
    told = []
    for words in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no")):
        try:
            done = subprocess.run(
                ("git", *words), capture_output=True, text=True, check=True, timeout=GIT_S_MAX, stdin=subprocess.DEVNULL
            )
        except (OSError, subprocess.SubprocessError):
            return ""
        told.append(done.stdout.strip())
    return told[0] + ("+changes" if told[1] else "")
