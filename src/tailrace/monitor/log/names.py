"""What the files of the prediction log are called, and what their metadata says: known without what reads them."""

from __future__ import annotations

from typing import Final

DRAFT: Final = ".arrows"
SEALED: Final = ".parquet"
DAMAGED: Final = ".damaged"
"""A draft of which not all could be made a file."""
HOUR: Final = "%Y-%m-%dT%H"
"""Of a folder: UTC, when its files were begun."""
SCHEMA_VERSION: Final = 1
VERSION_KEY: Final = b"tailrace.log.version"


def why_not_read(version: bytes) -> str:
    """Return why a file cannot be read that says it is of a version; "" where it can: an older one lacks columns."""
    if version.isdigit() and int(version) <= SCHEMA_VERSION:
        return ""
    return f"it is of version {version.decode('ascii', 'replace')}, which a newer Tailrace reads"
