"""`tailrace models compare`: two versions beside each other, by their metrics and by their scores of the same rows."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from tailrace.cli.models.options import RegistryUrl, TrustedKeys, carried, opened
from tailrace.cli.printing import AsJson, plain, print_json, print_table, table_of

if TYPE_CHECKING:
    from tailrace.release.registry.differences import Differences
    from tailrace.release.registry.records import VersionRecord


def compare(
    one: Annotated[str, typer.Argument(metavar="A", help="A version: NAME@NUMBER or NAME@ALIAS.", show_default=False)],
    other: Annotated[str, typer.Argument(metavar="B", help="The other version.", show_default=False)],
    registry: RegistryUrl,
    threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="With two classes: a row whose score crosses it is a flip.")
    ] = 0.5,
    trusted_key: TrustedKeys = None,
    as_json: AsJson = False,
) -> None:
    """Compare two versions: their metrics side by side, and how their scores differ on the golden rows of both.

    Both models are fetched, loaded, and score the same rows. A flip is a row that gets another class, or crosses the
    threshold.

    For example:

        tailrace models compare fraud@production fraud@staging --registry s3://models/team
    """
    from tailrace.release.registry.differences import compare as compare_models
    from tailrace.release.registry.differences import loaded
    from tailrace.release.registry.reference import Reference

    found = opened(registry, trusted_key)
    records = [found.resolve(Reference.parse(each)).record for each in (one, other)]
    with carried("fetching") as on_progress, loaded(found, records, on_progress=on_progress) as models:
        differences = compare_models(models[0], models[1], threshold)
    if as_json:
        print_json(
            {
                "versions": [record.reference for record in records],
                "metrics": [record.metrics for record in records],
                "differences": None if isinstance(differences, str) else asdict(differences),
                "not_compared": differences if isinstance(differences, str) else "",
            }
        )
        return
    _print_metrics(records[0], records[1])
    _print_differences(differences)


def _print_metrics(one: VersionRecord, other: VersionRecord) -> None:
    """Print what both were measured by, and by how much the second is more."""
    versions = (one.reference, other.reference)
    table = table_of("metric", *versions, "change", right=(*versions, "change"))
    for metric in dict.fromkeys([*one.metrics, *other.metrics]):
        values = [record.metrics.get(metric, "") for record in (one, other)]
        first, second = values
        change = f"{second - first:+.4g}" if not isinstance(first, str) and not isinstance(second, str) else ""
        table.add_row(plain(metric), *map(plain, values), change)
    print_table(table)


def _print_differences(differences: Differences | str) -> None:
    """Print how the scores differ, or why nobody knows."""
    if isinstance(differences, str):
        print(f"Their scores are not compared: {plain(differences)}")
        return
    from tailrace.release.registry.differences import QUANTILES

    table = table_of("difference", "score", right=("score",))
    table.add_row("mean", f"{differences.mean:.3g}")
    for quantile, value in zip(QUANTILES, differences.quantiles, strict=True):
        table.add_row(f"p{quantile * 100:g}", f"{value:.3g}")
    table.add_row("max", f"{differences.max:.3g}")
    if differences.flips is not None:
        where = "" if differences.threshold is None else f" (at {differences.threshold:g})"
        table.add_row(f"flips{where}", str(differences.flips))
    if differences.unscored:
        table.add_row("scored by one alone", str(differences.unscored))
    print_table(table, f"Scores of the {differences.rows} golden rows of both:")
