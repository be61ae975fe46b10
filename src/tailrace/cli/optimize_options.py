"""The options of `tailrace optimize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tailrace.cli.models import options

Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="A trained model's file as `tailrace package` takes it, an .onnx file, or a model directory.",
        show_default=False,
    ),
]
Data = Annotated[
    Path, typer.Option(help="Rows held back from training, with outcomes: Parquet or CSV.", show_default=False)
]
Budget = Annotated[
    str, typer.Option(help="What the p99 of a call of the first batch may take, as in 20ms.", show_default=False)
]
MetricName = Annotated[
    str, typer.Option(help="What must be kept: auc, average_precision, log_loss, accuracy, rmse or mae.")
]
Tolerance = Annotated[float, typer.Option(help="How much worse the metric may be.")]
ScoreChange = Annotated[
    float | None, typer.Option(help="How far a single held-back score may move; any distance without it.")
]
Target = Annotated[str | None, typer.Option(help="The column of outcomes; without it the only one that is no feature.")]
Batches = Annotated[str, typer.Option(help="Rows of a call that are measured; the first decides.")]
Threads = Annotated[
    int, typer.Option(help="Threads that a call may take in serving; more are measured, and not chosen.")
]
Seconds = Annotated[float, typer.Option(help="Seconds that a candidate is measured for.")]
Limit = Annotated[str, typer.Option(help="What each process may take before it has failed.")]
MemoryMb = Annotated[int, typer.Option(help="Memory that each process may map, in MiB.")]
Work = Annotated[
    Path | None,
    typer.Option(help="Where finished work is kept, and a run that was killed goes on; NAME.optimize without it."),
]
Picture = Annotated[
    Path | None, typer.Option(help="The PNG of latency against the metric; pareto.png in the work folder without it.")
]
Out = Annotated[Path | None, typer.Option(help="The directory to write the winner to, such as models/fraud.")]
Name = Annotated[str | None, typer.Option(help="The winner's name; the model's own without it.")]
Register = Annotated[
    str | None, typer.Option(metavar="NAME", help="Make the winner the next version of this model in --registry.")
]
Registry = Annotated[
    str | None,
    typer.Option(envvar="TAILRACE_REGISTRY", help="Where the registry is: a directory, s3://BUCKET/PREFIX, or a URL."),
]
Alias = Annotated[
    list[str] | None,
    typer.Option("--alias", help="With --register: an alias that names the version from now on; may be repeated."),
]
SignKey = options.SignKey
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Open also a pickle, which runs whatever code it holds, as you.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace --out if it exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
