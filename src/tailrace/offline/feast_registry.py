"""What a repository of Feast's declares, asked of Feast itself, in the Python that it lives in."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

import msgspec

from tailrace.errors import SetupError

ANSWER_S_MAX: Final = 300.0
"""For Feast to be imported and to read its registry, which may be far away."""

_SHOWN_MAX: Final = 2_000
_LOGIN: Final = re.compile(r"://.*@")
_SECRET: Final = re.compile(
    r"\b(\w*(?:password|passphrase|passwd|pwd|secret|token|private_key|api_key|access_key))\b.*", re.IGNORECASE
)
_NEXT: Final = "run `feast apply` in it, and give the Python of the environment that `feast` runs in"


class FeastField(msgspec.Struct, frozen=True):
    """A feature or a join key. dtype: Feast's ValueType, as in DOUBLE."""

    name: str
    dtype: str


class FeastSource(msgspec.Struct, frozen=True):
    """Where a view's rows come from. renames: Feast's names of the source's columns, where they differ."""

    kind: str
    place: str
    time: str
    renames: dict[str, str]


class FeastRegistryView(msgspec.Struct, frozen=True):
    """A feature view. ttl_s: 0 for none."""

    name: str
    ttl_s: float
    online: bool
    entities: tuple[str, ...]
    join_keys: tuple[FeastField, ...]
    features: tuple[FeastField, ...]
    source: FeastSource


class FeastOnlineStore(msgspec.Struct, frozen=True):
    """The online store. kind: redis, redis_cluster, redis_sentinel, sqlite, or what else Feast calls it."""

    kind: str
    place: str
    options: tuple[str, ...]
    has_login: bool = False


class FeastProject(msgspec.Struct, frozen=True):
    """A project. on_demand: the names of its on-demand feature views."""

    project: str
    key_version: int
    online_store: FeastOnlineStore
    views: tuple[FeastRegistryView, ...]
    on_demand: tuple[str, ...] = ()


def read_registry(repository: Path, python: str) -> FeastProject:
    """Return what a repository declares. python: the program that imports Feast.

    Raises SetupError where there is no repository, no such program, or where Feast cannot read it.
    """
    if not (repository / "feature_store.yaml").is_file():
        raise SetupError("there is no feature_store.yaml", where=str(repository), next="name a repository of Feast's")
    script = Path(__file__).with_name("feast_script.py").read_text("utf-8")
    command = [python, "-c", script, str(repository.resolve())]
    try:
        done = subprocess.run(
            command, cwd=repository, capture_output=True, text=True, timeout=ANSWER_S_MAX, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"cannot ask Feast: {error.__class__.__name__}", where=python, next=_NEXT) from None
    if done.returncode:
        raise SetupError(
            f"Feast cannot read it: {_without_secrets(done.stderr).strip()[-_SHOWN_MAX:]}",
            where=str(repository),
            next=_NEXT,
        )
    try:
        return msgspec.json.decode(done.stdout.strip().rpartition("\n")[2], type=FeastProject)
    except msgspec.DecodeError as error:
        raise SetupError(f"Feast said what cannot be read: {error}", where=str(repository), next=_NEXT) from None


def _without_secrets(text: str) -> str:
    """Return what may be shown of Feast's errors, which quote the repository's configuration.

    A password may hold any character: a line ends where one is named, and a login of a URL at the last @ of its line.
    """
    return _SECRET.sub(r"\1…", _LOGIN.sub("://…@", text))
