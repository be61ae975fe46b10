"""`tailrace package`: a trained model becomes a model directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tailrace.inference.manifest import Manifest
    from tailrace.release.package import PackageReport


Embedding = Annotated[
    bool, typer.Option("--embedding", help="The model, an .onnx file, gives a vector a row, and no scores.")
]
Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="The trained model: .txt (LightGBM), .json or .ubj (XGBoost), .cbm (CatBoost), .pt2 (PyTorch), .skops, "
        ".onnx; .pkl or .joblib with --allow-pickle.",
        show_default=False,
    ),
]
Calibrate = Annotated[
    str | None,
    typer.Option(
        metavar="HOW",
        help="isotonic or platt: fitted on the data's outcomes; or the pickle of a fitted IsotonicRegression or "
        "LogisticRegression of the score, with --allow-pickle.",
    ),
]
TextTolerance = Annotated[
    float,
    typer.Option(min=0.0, max=1.0, help="The share of rows that ONNX may score otherwise for how it reads text."),
]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Open also a pickle, which runs whatever code it holds, as you.")
]
Native = Annotated[bool, typer.Option("--native", help="Let the library that trained it compute it, not ONNX Runtime.")]

Explain = Annotated[
    bool, typer.Option("--explain", help="Keep the trees of its library too, which explain its scores.")
]


def package(  # noqa: PLR0917 - one parameter an option
    model: Model,
    data: Annotated[
        Path,
        typer.Option(help="Rows to compare and profile on, best held-back ones: Parquet or CSV.", show_default=False),
    ],
    name: Annotated[str, typer.Option(help="The model's name, as the pipeline declares it.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The directory to write, such as models/fraud.", show_default=False)],
    target: Annotated[
        str | None, typer.Option(help="The column of outcomes in the data; with it metrics are computed.")
    ] = None,
    metrics: Annotated[Path | None, typer.Option(help="A JSON object of metrics to keep with the model.")] = None,
    embedding: Embedding = False,
    calibrate: Calibrate = None,
    text_tolerance: TextTolerance = 0.0,
    native: Native = False,
    explain: Explain = False,
    allow_pickle: AllowPickle = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the directory if it exists.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Turn a trained model into a model directory that Tailrace serves.

    The model is converted to ONNX and scored in float32, as in serving, beside the original on the data. A score over
    1e-5 from the original's refuses it, but for 1 row in 1,000 that float32 moves across a split: these are counted.
    The directory holds model.onnx and manifest.json: signature, sha256, metrics, the profile of inputs and scores, and
    golden rows whose scores are checked whenever the model is loaded. A tree ensemble also gets
    trees.msgpack or forest.msgpack, which a kernel of its own computes, usually several times faster than ONNX Runtime;
    which of them computes the model is chosen where it is served. A model for which ONNX has no form keeps its
    library's, and that library computes it; so does any with --native.

    For example:

        tailrace package model.txt --data rows.csv --name fraud --out models/fraud
    """
    from tailrace.release.package import package as package_model

    with _progress() as show_step:
        report = package_model(
            model, data, name=name, out=out, target=target, metrics=_read_metrics(metrics), embedding=embedding,
            calibrate=calibrate, text_tolerance=text_tolerance, native=native, explain=explain,
            allow_pickle=allow_pickle, overwrite=overwrite, on_step=show_step,
        )  # fmt: skip
    if as_json:
        print(_to_json(report))
    else:
        _print_report(report)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show a progress bar on stderr, and give what is called with each step as it begins."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from tailrace.release.package import STEPS

    columns = TextColumn("{task.description:<8}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(STEPS[0], total=len(STEPS))
        yield lambda step: progress.update(task, description=step, completed=STEPS.index(step))


def _read_metrics(path: Path | None) -> dict[str, float | int | str] | None:
    import msgspec

    from tailrace.errors import ModelPackageError

    if path is None:
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, float | int | str])
    except (OSError, msgspec.DecodeError) as error:
        raise ModelPackageError(
            f"the metrics cannot be read: {error}", where=str(path), next='give a JSON object, as {"roc_auc": 0.93}'
        ) from error


def _to_json(report: PackageReport) -> str:
    import msgspec

    manifest = report.manifest
    return msgspec.json.encode(
        {
            "directory": str(report.directory),
            "name": manifest.name,
            "version": manifest.version,
            "files": manifest.files,
            "signature": manifest.signature,
            "source": manifest.source,
            "metrics": manifest.metrics,
            "golden_rows": len(manifest.golden.scores),
            "size_bytes": report.size_bytes,
            "backend": report.backend,
            "backend_reason": report.backend_reason,
            "cost_ns": {str(rows): report.curve.cost_ns(rows) for rows in (1, 16, 64)},
        }
    ).decode()


def _tell_compared(manifest: Manifest) -> str:
    from tailrace.release.package import DIFFERENCE_ROUNDED, DIFFERENCE_TEXT, ROWS_ROUNDED, ROWS_TEXT

    source, rounded = manifest.source, manifest.metrics.get(ROWS_ROUNDED, 0)
    text = f"{source.rows_compared:,} rows, worst difference {source.difference_max:.1e}"
    if rounded:
        text += f", but for {rounded} that float32 moves across a split: {manifest.metrics[DIFFERENCE_ROUNDED]:.1e}"
    if read_otherwise := manifest.metrics.get(ROWS_TEXT, 0):
        text += f", but for {read_otherwise} whose text ONNX reads otherwise: {manifest.metrics[DIFFERENCE_TEXT]:.1e}"
    return text


def _print_report(report: PackageReport) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from tailrace.deadline import format_duration
    from tailrace.inference.backends.trusted_types import allowed_types

    manifest, source = report.manifest, report.manifest.source
    console = Console()
    signature = Table(title=f"{manifest.name} {manifest.version}", title_justify="left")
    for header in ("input", "dtype", "feature"):
        signature.add_column(header)
    for spec in manifest.signature.inputs:
        for index, (feature, width) in enumerate(zip(spec.features, spec.feature_widths, strict=True)):
            place = f"{spec.name}[{index}]" if len(spec.features) > 1 else spec.name
            signature.add_row(place, spec.dtype if width == 1 else f"{spec.dtype} × {width}", feature)
    console.print(signature)
    facts = Table.grid(padding=(0, 2))
    facts.add_row("from", f"{source.framework} {source.version} {source.model_type}".strip())
    if source.difference_max is None:
        facts.add_row("compared", "not: it came as ONNX, without its original")
    else:
        facts.add_row("compared", _tell_compared(manifest))
    for text in report.texts:
        facts.add_row("read otherwise", escape(repr(text[:80])))
    for metric, value in manifest.metrics.items():
        facts.add_row(metric, f"{value:.4f}" if isinstance(value, float) else str(value))
    reason = f" ({report.backend_reason})" if report.backend_reason else ""
    facts.add_row("backend", report.backend + reason)
    if manifest.trusted:
        facts.add_row("types", f"{', '.join(manifest.trusted)}: in its file, beyond those that skops knows")
        if unknown := sorted(set(manifest.trusted) - set(allowed_types(manifest.trusted))):
            facts.add_row("to trust", f"{', '.join(unknown)}: where it is served, by tr.Model(..., trust=[...])")
    facts.add_row("golden", f"{len(manifest.golden.scores)} rows")
    facts.add_row(
        "cost", ", ".join(f"{rows} rows {format_duration(report.curve.cost_ns(rows))}" for rows in (1, 16, 64))
    )
    facts.add_row("written", f"{report.directory} ({report.size_bytes / 1024:,.0f} KiB)")
    console.print(facts)
