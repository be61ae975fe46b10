"""Which storage a registry's URL means. Only that one's library is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tailrace.errors import RegistryError
from tailrace.release.registry.storage import Storage

PLACES: Final = "name a directory, s3://BUCKET/PREFIX, or a URL that fsspec knows, such as gs://BUCKET/PREFIX"


def open_storage(url: str) -> Storage:
    """Return the storage at a URL: a path or file://PATH, s3://BUCKET/PREFIX, or what fsspec knows.

    Nothing is asked yet. Raises RegistryError for a URL that is none, or whose library is missing.
    """
    scheme, separator, rest = url.partition("://")
    if not url or "\0" in url or (separator and not rest.strip("/")):
        raise RegistryError("this is no place for a registry", where=url, next=PLACES)
    if not separator or scheme == "file":
        from tailrace.release.registry.folder import FolderStorage

        return FolderStorage(Path(rest if separator else url))
    if scheme == "s3":
        from tailrace.release.registry.bucket import BucketStorage

        return BucketStorage(url)
    from tailrace.release.registry.any_storage import AnyStorage

    return AnyStorage(url)
