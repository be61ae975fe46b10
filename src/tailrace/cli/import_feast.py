"""`tailrace import-feast`: the feature views of a Feast repository, as declarations of Tailrace."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def import_feast(
    repository: Annotated[
        Path, typer.Argument(metavar="REPO", help="The folder with feature_store.yaml, applied.", show_default=False)
    ],
    python: Annotated[
        str, typer.Option(help="The Python that Feast is installed for: Tailrace never imports it.", show_default=False)
    ],
) -> None:
    """Print a Python file that declares the views of a Feast repository, and names its online store.

    Each feature view becomes a batch view that can be served from Feast's own Redis or SQLite as it is, and later be
    materialised from its source. Feast reads its registry itself, in the Python that is named. What cannot be declared
    is said on stderr and in the file; then the exit code is 1, with the rest printed.

    For example:

        tailrace import-feast shop/feature_repo --python shop/venv/bin/python > features.py
    """
    from tailrace.offline.feast_file import write_feast_file
    from tailrace.offline.feast_registry import read_registry

    found = write_feast_file(read_registry(repository, python))
    print(found.text, end="")
    for each in found.left_out:
        print(f"left out: {each}", file=sys.stderr)
    if found.left_out:
        raise typer.Exit(1)
