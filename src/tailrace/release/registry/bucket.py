"""A registry in a bucket of S3, or of a server that speaks as S3 does and knows conditional writes.

    s3://BUCKET/PREFIX?region=eu-west-1&endpoint=http://127.0.0.1:9000

Through boto3, and not through fsspec's s3fs: that pins botocore to versions which the online store on DynamoDB does
not run with, and the two are wanted together.
"""

from __future__ import annotations

import hashlib
import os
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn
from urllib.parse import parse_qsl

from tailrace.errors import RegistryError
from tailrace.release.registry.storage import CHUNK_BYTES, OBJECT_BYTES_MAX, Found, OnBytes

FILE_BYTES_MAX: Final = 5 << 30
"""What S3 takes in one request, which it refuses unless all of it has arrived with its checksum."""
CONNECT_S_MAX: Final = 5.0
ANSWER_S_MAX: Final = 60.0
ATTEMPTS_MAX: Final = 4
_CONFLICTS_MAX: Final = 5
_MISSING: Final = {"NoSuchKey", "404", "NotFound"}
_EXISTS: Final = {"PreconditionFailed", "412"}
_CONFLICT: Final = {"ConditionalRequestConflict", "409"}
_PARAMETERS: Final = {"region", "endpoint"}


class BucketStorage:
    """Objects under a prefix of a bucket. Credentials are found as boto3 finds them."""

    def __init__(self, url: str) -> None:
        address, _, query = url.removeprefix("s3://").partition("?")
        self._bucket, _, prefix = address.partition("/")
        self._prefix = f"{prefix.strip('/')}/".lstrip("/")
        self._parameters = dict(parse_qsl(query, keep_blank_values=True))
        # With its parameters: a release keeps it, and another process opens the same bucket by it.
        self.url = f"s3://{self._bucket}/{self._prefix}".rstrip("/") + (f"?{query}" if query else "")
        if unknown := self._parameters.keys() - _PARAMETERS:
            raise RegistryError(
                f"a bucket's URL has no parameter {min(unknown)!r}", where=url, next="it may have region and endpoint"
            )

    @cached_property
    def _client(self) -> Any:
        try:
            from boto3.session import Session
            from botocore.config import Config
        except ImportError as error:
            raise RegistryError(
                "a registry in a bucket needs boto3", where=self.url, next="pip install 'tailrace[registry]'"
            ) from error
        config = Config(
            connect_timeout=CONNECT_S_MAX,
            read_timeout=ANSWER_S_MAX,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS_MAX},
            max_pool_connections=16,
        )
        return Session().client(
            "s3",
            region_name=self._parameters.get("region"),
            endpoint_url=self._parameters.get("endpoint"),
            config=config,
        )

    def find(self, prefix: str) -> list[Found]:
        """Return the objects whose key begins so; see `Storage`."""
        with self._asked():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            return [
                Found(each["Key"].removeprefix(self._prefix), each["Size"], each["LastModified"].timestamp())
                for page in pages
                for each in page.get("Contents", ())
            ]

    def look(self, key: str) -> Found:
        """Return an object as a listing has it."""
        with self._asked():
            told = self._client.head_object(**self._at(key))
        return Found(key, told["ContentLength"], told["LastModified"].timestamp())

    def read(self, key: str) -> bytes:
        """Return a small object."""
        with self._asked():
            answer = self._client.get_object(**self._at(key))
            with answer["Body"] as body:
                content: bytes = body.read(OBJECT_BYTES_MAX + 1)
        if len(content) > OBJECT_BYTES_MAX:
            raise ValueError(f"it has over {OBJECT_BYTES_MAX} bytes")
        return content

    def stream(self, key: str) -> Iterator[bytes]:
        """Give an object in parts."""
        with self._asked():
            body = self._client.get_object(**self._at(key))["Body"]
        with body:
            while True:
                with self._asked():
                    chunk: bytes = body.read(CHUNK_BYTES)
                if not chunk:
                    return
                yield chunk

    def write(self, key: str, content: bytes) -> None:
        """Put an object in the place of another."""
        with self._asked():
            self._client.put_object(**self._at(key), Body=content)

    def create(self, key: str, content: bytes) -> None:
        """Put an object where there is none: the server refuses it, by If-None-Match, where there is one."""
        for attempt in range(_CONFLICTS_MAX):
            try:
                with self._asked():
                    self._client.put_object(**self._at(key), Body=content, IfNoneMatch="*")
            except BlockingIOError:  # two at once, of which the server took neither
                if attempt + 1 == _CONFLICTS_MAX:
                    raise
            else:
                return

    def upload(self, key: str, path: Path, sha256: str, on_bytes: OnBytes) -> None:
        """Put a file in one request, which is broken off where its sha256 is another: not all servers look at that."""
        size_bytes = path.stat().st_size
        if size_bytes > FILE_BYTES_MAX:
            raise OSError(f"{path} has {size_bytes:,} bytes; S3 takes {FILE_BYTES_MAX:,} in one request")
        checksum = b64encode(bytes.fromhex(sha256)).decode()
        with path.open("rb") as file:
            sent = _Sent(file, size_bytes, sha256, on_bytes)
            try:
                with self._asked():
                    self._client.put_object(
                        **self._at(key), Body=sent, ContentLength=size_bytes, ChecksumSHA256=checksum
                    )
            except OSError as error:
                if sent.is_altered:
                    raise OSError(f"{path} was altered while it was read") from error
                raise

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        with self._asked():
            self._client.delete_object(**self._at(key))

    def _at(self, key: str) -> Mapping[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + key}

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Raise OSError for what boto3 raises, its kind by the code: missing, there already, or refused for a while."""
        client = self._client
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

        try:
            yield
        except client.exceptions.NoSuchBucket as error:
            raise OSError(f"there is no bucket {self._bucket!r}") from error
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in _MISSING:
                raise FileNotFoundError(str(error)) from error
            if code in _EXISTS:
                raise FileExistsError(str(error)) from error
            if code in _CONFLICT:
                raise BlockingIOError(str(error)) from error
            raise OSError(str(error)) from error
        except (BotoCoreError, HTTPClientError) as error:
            raise OSError(str(error)) from error


class _Sent:
    """A file that is sent: hashed as it is read, anew where it is read again; and each byte is told of once.

    Its last bytes are not given where its sha256 is another: the server never has the whole then, and puts nothing.
    """

    def __init__(self, file: BinaryIO, size_bytes: int, sha256: str, on_bytes: OnBytes) -> None:
        self._file = file
        self._size_bytes = size_bytes
        self._sha256 = sha256
        self._on_bytes = on_bytes
        self._told = 0
        self._digest = hashlib.sha256()
        self.is_altered = False

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes. Raises OSError for a file that is not what it was."""
        left = self._size_bytes - self._file.tell()
        chunk = self._file.read(left if size < 0 else min(size, left))
        self._digest.update(chunk)
        at = self._file.tell()
        if (left and size and not chunk) or (at == self._size_bytes and self._digest.hexdigest() != self._sha256):
            self._refuse()
        if at > self._told:
            self._on_bytes(at - self._told)
            self._told = at
        return chunk

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place in the file: to its beginning, to read it again. Raises OSError once it was altered."""
        if self.is_altered:
            self._refuse()
        at = self._file.seek(offset, whence)
        if at == 0:
            self._digest = hashlib.sha256()
        return at

    def tell(self) -> int:
        """Return the place in the file."""
        return self._file.tell()

    def _refuse(self) -> NoReturn:
        self.is_altered = True
        raise OSError("it was altered while it was read")
