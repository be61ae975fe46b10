"""`tailrace models gc` and `verify`: what nobody needs goes, and what is kept is what was registered."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from tailrace.cli.durations import duration_ns
from tailrace.cli.models.options import RegistryUrl, TrustedKeys, carried, opened
from tailrace.cli.printing import AsJson, plain, print_json, size_text
from tailrace.deadline import NS_PER_S
from tailrace.errors import RegistryError, SetupError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailrace.release.registry.garbage import Collected
    from tailrace.release.registry.records import VersionRecord
    from tailrace.release.registry.reference import Reference
    from tailrace.release.registry.registry import Registry


def gc(
    registry: RegistryUrl,
    keep: Annotated[
        int | None, typer.Option(min=0, help="Delete all but so many newest versions of each model; else none.")
    ] = None,
    older_than: Annotated[str, typer.Option(help="With --keep: only versions that are as old.")] = "30d",
    dead_after: Annotated[
        str, typer.Option(help="A writer of another machine that was silent for so long is dead; from 10m.")
    ] = "1h",
    as_json: AsJson = False,
) -> None:
    """Remove what nobody needs: files of no version, drafts of dead writers, expired holds, and by --keep old versions.

    A version that an alias names, or that is held, stays; so does a file that is being registered.

    For example:

        tailrace models gc --keep 10 --older-than 90d --registry s3://models/team
    """
    from tailrace.release.registry.garbage import DRAFT_S_MIN, Retention, collect

    retention = Retention(keep, duration_ns(older_than, "--older-than") / NS_PER_S)
    draft_s = duration_ns(dead_after, "--dead-after") / NS_PER_S
    if draft_s < DRAFT_S_MIN:
        raise RegistryError(
            f"a writer that lives may be silent for {DRAFT_S_MIN / 2:.0f} s",
            where="--dead-after",
            next=f"wait twice that at least: {DRAFT_S_MIN / 60:.0f}m",
        )
    collected = collect(opened(registry, None), retention, draft_s=draft_s)
    if as_json:
        print_json(asdict(collected))
    else:
        _print_collected(collected)


def verify(
    registry: RegistryUrl,
    versions: Annotated[
        list[str] | None,
        typer.Argument(metavar="[VERSION]", help="The versions, NAME@NUMBER or NAME@ALIAS; without any, all."),
    ] = None,
    trusted_key: TrustedKeys = None,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="End with 0 also where there is no version to look at.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read every file of versions, and hold it against what was registered; and the signatures, where keys are given.

    Exit code 1 where one is missing, cut short, altered, or not signed by a trusted key; and where there is none.

    For example:

        tailrace models verify --registry s3://models/team --trusted-key trusted.pem
    """
    from tailrace.release.registry.reference import Reference

    found = opened(registry, trusted_key)
    if versions:
        chosen = [Reference.parse(version) for version in versions]
    else:
        chosen = [Reference(name, number, None) for name in found.names() for number in found.numbers(name)]
    with carried("reading") as on_progress:
        told = [{"version": str(each), "fault": _fault_of(found, each, on_progress)} for each in chosen]
    if as_json:
        print_json(told)
    else:
        for each in told:
            print(
                f"{each['version']}: {plain(each['fault'] or 'whole')}",
                file=sys.stderr if each["fault"] else sys.stdout,
            )
        if not told:
            print("0 versions")
    if any(each["fault"] for each in told) or not (told or allow_empty):
        raise typer.Exit(1)


def _fault_of(registry: Registry, reference: Reference, on_progress: Callable[[str, int, int], None]) -> str:
    """Return what is wrong with a version; "" where nothing is."""
    try:
        _check(registry, registry.resolve(reference).record, on_progress)
    except SetupError as error:
        told = f"{error.where}: {error.what}" if error.where else error.what
        return told.removeprefix(f"{reference}: ")
    return ""


def _check(registry: Registry, record: VersionRecord, on_progress: Callable[[str, int, int], None]) -> None:
    """Read the files of a version. Raises RegistryError for one that is not what was registered."""
    from tailrace.release.registry.fetching import check_file

    done = 0
    for name, file in record.files.items():
        on_progress(f"{record.reference} {name}", done, record.size_bytes)
        check_file(registry, record, name, file)
        done += file.size_bytes


def _print_collected(collected: Collected) -> None:
    print(
        f"{len(collected.versions)} versions, {collected.files} files ({size_text(collected.bytes)}), "
        f"{collected.drafts} drafts and {collected.holds} holds removed"
    )
    for version in collected.versions:
        print(f"  {version} is deleted")
    for version, holders in collected.kept.items():
        print(f"  {version} stays: {plain('; '.join(holders))}")
    for warning in collected.warnings:
        print(f"warning: {plain(warning)}", file=sys.stderr)
