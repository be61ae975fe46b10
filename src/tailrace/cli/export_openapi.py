"""`tailrace export openapi`: the HTTP API of pipelines as an OpenAPI document."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from tailrace.server.options import ServeOptions

ARRAY_MAX: Final[int] = {each.name: each.default for each in msgspec.structs.fields(ServeOptions)}["array_max"]


def openapi(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Python files that declare pipelines.", show_default=False),
    ],
    array_max: Annotated[int, typer.Option(help="Requests in one call, as the server is told.", min=1)] = ARRAY_MAX,
    with_keys: Annotated[bool, typer.Option("--with-keys", help="The server is given --keys.")] = False,
    with_arrow: Annotated[bool, typer.Option("--with-arrow", help="The server is given --arrow.")] = False,
) -> None:
    """Print the OpenAPI 3.1 document of a server of these pipelines: what it answers at `GET /openapi.json`.

    It is made from the request and response types, with examples. No model and no store is opened.

    For example:

        tailrace export openapi examples/fraud/pipeline.py > openapi.json
    """
    from tailrace.compile.loading import load_pipelines
    from tailrace.server.openapi.document import openapi_document
    from tailrace.server.openapi.page import document_bytes

    pipelines = [pipeline for file in files for pipeline in load_pipelines(file)]
    document = openapi_document(pipelines, array_max=array_max, with_keys=with_keys, with_arrow=with_arrow)
    sys.stdout.write(document_bytes(document).decode())
