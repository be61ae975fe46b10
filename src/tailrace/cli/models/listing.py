"""`tailrace models list` and `show`: what is in the registry."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tailrace.cli.models.options import RegistryUrl, TrustedKeys, VersionArgument, opened
from tailrace.cli.printing import AsJson, plain, print_json, print_table, size_text, table_of

if TYPE_CHECKING:
    from tailrace.release.registry.registry import Listed, Registry, Version

METRICS_SHOWN_MAX = 2


def list_models(
    registry: RegistryUrl,
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="The model whose versions are listed; without it, all models."),
    ] = None,
    trusted_key: TrustedKeys = None,
    as_json: AsJson = False,
) -> None:
    """List the models of a registry, or the versions of one.

    For example:

        tailrace models list fraud --registry s3://models/team
    """
    from tailrace.errors import RegistryError
    from tailrace.release.registry.reference import check_name

    found = opened(registry, trusted_key)
    if name is None:
        _list_names(found, as_json=as_json)
        return
    check_name(name)
    versions = found.versions(name)
    if not versions:
        raise RegistryError(f"there is no model {name!r}", where=found.url, next="list all: tailrace models list")
    _list_versions(found, name, versions, as_json=as_json)


def show(
    registry: RegistryUrl, version: VersionArgument, trusted_key: TrustedKeys = None, as_json: AsJson = False
) -> None:
    """Show a version: what it was made from, its metrics and files, who signed it, what names and holds it.

    For example:

        tailrace models show fraud@production --registry s3://models/team
    """
    from tailrace.release.registry.reference import Reference

    found = opened(registry, trusted_key)
    shown = found.resolve(Reference.parse(version))
    name, number = shown.record.name, shown.record.number
    named, noted = found.aliases(name), found.tags(name, number)
    aliases = [alias for alias, record in named.items() if record.number == number]
    tags = {tag: record.value for tag, record in noted.items()}
    holders = [holder for holder in found.holders(name, number) if not holder.startswith("the alias ")]
    if as_json:
        print_json(_described(shown) | {"aliases": aliases, "tags": tags, "holds": holders})
    else:
        _print_version(shown, aliases, tags, holders)
    _warn({f"{name}@{alias}": fault for alias, fault in named.faults.items()})
    _warn({f"{name}@{number}: tag {tag}": fault for tag, fault in noted.faults.items()})


def _list_names(registry: Registry, *, as_json: bool) -> None:
    """Print the models, each with its newest version and its aliases."""
    rows: list[dict[str, Any]] = []
    for name in registry.names():
        if not (numbers := registry.numbers(name)):
            continue
        found = registry.aliases(name)
        aliases = {alias: record.number for alias, record in found.items()}
        rows.append({"name": name, "versions": len(numbers), "newest": numbers[-1], "aliases": aliases})
        _warn({f"{name}@{alias}": fault for alias, fault in found.faults.items()})
    if as_json:
        print_json(rows)
        return
    table = table_of("model", "versions", "newest", "aliases", right=("versions", "newest"))
    for row in rows:
        told = ", ".join(f"{alias} → {number}" for alias, number in row["aliases"].items())
        table.add_row(row["name"], str(row["versions"]), str(row["newest"]), told)
    print_table(table, registry.url)


def _list_versions(registry: Registry, name: str, versions: list[Listed], *, as_json: bool) -> None:
    """Print the versions of a model, the newest first."""
    from rich.text import Text

    found = registry.aliases(name)
    aliases = found
    named = {each.number: [a for a, record in aliases.items() if record.number == each.number] for each in versions}
    _warn({f"{name}@{alias}": fault for alias, fault in found.faults.items()})
    if as_json:
        print_json(
            [
                {"number": each.number, "fault": each.fault, "aliases": named[each.number]}
                | (_described(each.version) if each.version is not None else {})
                for each in versions
            ]
        )
        return
    metrics = _common_metrics(versions)
    headers = ("version", "aliases", "created", *metrics, "size", "signed by")
    table = table_of(*headers, right=("version", "size", *metrics))
    for each in versions:
        if each.version is None:
            table.add_row(str(each.number), "\n".join(named[each.number]), Text("refused", style="red"))
            continue
        record = each.version.record
        table.add_row(
            str(each.number), "\n".join(named[each.number]), record.created[:16].replace("T", " "),
            *(plain(record.metrics.get(metric, "")) for metric in metrics),
            size_text(record.size_bytes), _signed_by(each.version, 8),
        )  # fmt: skip
    print_table(table, f"{name} in {registry.url}")
    for each in versions:
        if each.version is None:
            print(f"{name}@{each.number} is refused: {plain(each.fault)}", file=sys.stderr)


def _warn(faults: dict[str, str]) -> None:
    """Tell of what cannot be read."""
    for where, fault in faults.items():
        print(f"warning: {where}: {plain(fault)}", file=sys.stderr)


def _common_metrics(versions: list[Listed]) -> list[str]:
    """Return the measures that a list has room for: the first of the newest version that are no counts."""
    for each in versions:
        if each.version is not None:
            return [name for name, value in each.version.record.metrics.items() if isinstance(value, float)][
                :METRICS_SHOWN_MAX
            ]
    return []


def _described(version: Version) -> dict[str, Any]:
    """Return what JSON tells of a version."""
    import msgspec

    told: dict[str, Any] = msgspec.to_builtins(version.record)
    return told | {"size_bytes": version.record.size_bytes, "signed_by": version.key_id,
                   "signed_by_claimed": version.claimed_id}  # fmt: skip


def _signed_by(version: Version, characters: int) -> str:
    """Return whose signature a version has; one that no trusted key has verified is what anyone may have written."""
    if version.key_id or not version.claimed_id:
        return version.key_id[:characters]
    return f"{plain(version.claimed_id[:characters])} (claimed, not verified)"


def _print_version(version: Version, aliases: list[str], tags: dict[str, str], holders: list[str]) -> None:
    """Print all of a version."""
    from rich.table import Table

    record = version.record
    lineage = record.lineage
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    data = f"{lineage.data} (sha256 {lineage.data_sha256[:12]}…)" if lineage.data else ""
    for name, value in (
        ("version", record.reference),
        ("digest", record.digest),
        ("registered", f"{record.created} by {record.by}, with Tailrace {record.tailrace}"),
        ("signed by", _signed_by(version, 64) or "nobody"),
        ("aliases", ", ".join(aliases)),
        ("framework", record.framework),
        ("made from", ", ".join(lineage.parents)),
        ("source", lineage.source),
        ("data", data),
        ("command", lineage.command),
        ("code", lineage.code),
        *((metric, value) for metric, value in record.metrics.items()),
        *((f"tag {tag}", value) for tag, value in tags.items()),
        *(("held by", holder) for holder in holders),
        *((name, f"{size_text(file.size_bytes)}, sha256 {file.sha256[:12]}…") for name, file in record.files.items()),
    ):
        if value != "":
            facts.add_row(plain(name), plain(value))
    print_table(facts)
