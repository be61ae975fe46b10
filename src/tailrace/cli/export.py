"""`tailrace export proto`: what a caller in another language needs of a pipeline's types."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tailrace.errors import SetupError

if TYPE_CHECKING:
    from tailrace.pipeline import Pipeline


def proto(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The Python file that declares the pipelines.", show_default=False)
    ],
    name: Annotated[
        str | None, typer.Argument(metavar="PIPELINE", help="Which pipeline; all of the file without it.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder of the .proto files; the pipeline's without it.", show_default=False)
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; end with 1 where the numbers do not fit the types.")
    ] = False,
) -> None:
    """Write a .proto file of a pipeline's request and response, and keep the numbers of their fields.

    The numbers stand in PIPELINE.proto.lock beside the pipeline's file. Keep it in version control: a server reads
    Protocol Buffers by it.

    For example:

        tailrace export proto pipeline.py fraud
    """
    from tailrace.cli.chosen import chosen_pipeline
    from tailrace.compile.loading import load_pipelines

    for pipeline in load_pipelines(file) if name is None else [chosen_pipeline(file, name)]:
        print(_export(pipeline, pipeline.base_dir if out is None else out, check=check))


def _export(pipeline: Pipeline, out: Path, *, check: bool) -> str:
    """Write the files of one pipeline; return what is told of them."""
    from tailrace.codecs.proto_form import message_forms
    from tailrace.codecs.proto_lock import fitting, lock_path, locked, read_lock, write_lock
    from tailrace.codecs.proto_text import proto_text

    kept = lock_path(pipeline.base_dir, pipeline.name)
    forms = message_forms(pipeline.request, pipeline.response)
    if check:
        if fitting(forms, kept) is None:
            raise SetupError("there are no numbers", where=str(kept), next="run it without --check, and keep the file")
        return f"{kept}: fits the types"
    former = read_lock(kept)
    lock = locked(forms, former)
    text = proto_text(pipeline.name, forms, lock, (pipeline.request.__name__, pipeline.response.__name__))
    path = out / f"{pipeline.name}.proto"
    try:
        if lock != former:
            write_lock(lock, kept)  # first: a number that callers have is kept
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SetupError(f"it cannot be written: {error.strerror}", where=error.filename or str(path)) from error
    return f"{path}: {len(forms)} messages, their numbers in {kept}"
