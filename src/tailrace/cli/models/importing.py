"""`tailrace models import`: a model of MLflow's registry becomes a version."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tailrace.cli.models.options import (
    Aliases,
    RegistryUrl,
    SignKey,
    carried,
    check_aliases,
    name_version,
    opened,
    signer_of,
)
from tailrace.cli.printing import AsJson, plain, print_json

Data = Annotated[
    Path, typer.Option(help="Rows to compare and profile on, best held-back ones: Parquet or CSV.", show_default=False)
]
TrackingUri = Annotated[
    str,
    typer.Option(
        envvar="MLFLOW_TRACKING_URI",
        help="Where MLflow's registry is, such as https://mlflow.example; else MLflow's own choice.",
    ),
]
Python = Annotated[
    str, typer.Option(help="The Python that MLflow is installed for: Tailrace never imports it. Else this one.")
]


def import_model(  # noqa: PLR0917 - one parameter an option
    uri: Annotated[
        str, typer.Argument(metavar="URI", help="models:/NAME@ALIAS or models:/NAME/NUMBER.", show_default=False)
    ],
    registry: RegistryUrl,
    data: Data,
    tracking_uri: TrackingUri = "",
    python: Python = "",
    name: Annotated[str | None, typer.Option(help="The model's name in the registry; else MLflow's.")] = None,
    target: Annotated[
        str | None, typer.Option(help="The column of outcomes in the data; with it metrics are computed.")
    ] = None,
    alias: Aliases = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Load also a pickle, which runs whatever code it holds, as you.")
    ] = False,
    sign_key: SignKey = None,
    as_json: AsJson = False,
) -> None:
    """Package a model of MLflow's registry, and register it.

    Its files are downloaded by MLflow itself, packaged as `tailrace package` does, and registered with the version of
    MLflow's, its run and its commit as lineage; the run's metrics go along as mlflow.NAME. LightGBM, XGBoost, ONNX and
    scikit-learn models in skops' format run no code of whoever made them; a pickle does, and is refused unless you say
    so.

    For example:

        tailrace models import models:/fraud@champion --tracking-uri sqlite:///mlflow.db --data rows.parquet
    """
    from tailrace.release.package import package
    from tailrace.release.registry.mlflow_source import download, load
    from tailrace.release.registry.records import Lineage
    from tailrace.release.registry.reference import check_name
    from tailrace.release.registry.registering import register

    if "@" in tracking_uri and os.environ.get("MLFLOW_TRACKING_URI") != tracking_uri:
        print("--tracking-uri holds a login, which others here may read: set MLFLOW_TRACKING_URI", file=sys.stderr)
    aliases, signer = check_aliases(alias), signer_of(sign_key)
    name = check_name(name or uri.removeprefix("models:/").partition("@")[0].partition("/")[0])
    found = opened(registry, None, create=True)
    with tempfile.TemporaryDirectory(prefix="tailrace-import-") as folder:
        files, directory = Path(folder, "mlflow"), Path(folder, "packaged")
        files.mkdir()
        source = download(uri, files, python=python or sys.executable, tracking_uri=tracking_uri)
        metrics = {f"mlflow.{metric}": value for metric, value in source.metrics.items()}
        model = load(source, allow_pickle=allow_pickle)
        package(model, data, name=name, out=directory, target=target, metrics=metrics)
        lineage = Lineage(source=source.told, code=source.commit)
        with carried("registering") as on_progress:
            version = register(found, directory, name, lineage=lineage, signer=signer, on_progress=on_progress)
    if not as_json:  # it is there, whatever becomes of its aliases
        print(f"{version.record.reference} is {plain(lineage.source)}", flush=True)
    named, fault = name_version(found, aliases, version.record)
    if as_json:
        print_json({"name": name, "number": version.record.number, "digest": version.record.digest,
                    "source": lineage.source, "signed_by": version.key_id, "aliases": named})  # fmt: skip
    if fault is not None:
        raise fault
