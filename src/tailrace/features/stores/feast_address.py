"""Where an online store of Feast is, as a URL says it, and the views that are read from it. No I/O.

    feast+redis://[[user]:password@]host[:port][/database]?project=NAME      feast+rediss:// for TLS
    feast+sqlite:PATH?project=NAME

`&key_version=2` for a repository whose `entity_key_serialization_version` is 2; it is 3 otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import parse_qs, urlencode

from tailrace.errors import StoreError
from tailrace.features.batch_views import BatchViewSpec
from tailrace.features.feast.codec import FeastCodec
from tailrace.features.feast.keys import KEY_VERSIONS, NUMBER_BYTES
from tailrace.features.stores.redis_address import without_password
from tailrace.features.view_spec import ViewSpec

_VIEWS_MAX: Final = 1 << 8 * NUMBER_BYTES
_WRITE_AS: Final = "write feast+redis://host:port/database?project=NAME or feast+sqlite:PATH?project=NAME"


@dataclass(frozen=True, slots=True)
class FeastAddress:
    """A store of Feast.

    place: the URL without what is Feast's: redis://…, or sqlite:PATH. shown: the URL without a password.
    """

    place: str
    shown: str
    project: str
    key_version: int

    @staticmethod
    def parse(url: str) -> FeastAddress:
        """Return the address in a URL that begins with feast+. Raises StoreError for one that is none."""
        whole = url.partition("+")[2]
        place, _, query = whole.partition("?")
        shown = f"feast+{without_password(whole) if '://' in place else place}"
        options = {name: values[-1] for name, values in parse_qs(query).items()}
        project, version = options.pop("project", ""), options.pop("key_version", "3")
        if not project:
            raise StoreError("the URL names no project of Feast", where=shown, next=_WRITE_AS)
        if version not in map(str, KEY_VERSIONS):
            raise StoreError(f"entity keys of version {version!r} cannot be read", where=shown,
                             next="give key_version=3, or 2, as feature_store.yaml has it")  # fmt: skip
        rest = f"?{urlencode(options)}" if options else ""
        return FeastAddress(place + rest, shown, project, int(version))


class FeastFields(NamedTuple):
    """What is read of one view: Feast's name of it, and of its features, in the order of the columns."""

    view: str
    features: tuple[str, ...]


class FeastViews:
    """The views that a store of Feast's is asked for; each has a number, which its keys begin with."""

    def __init__(self, address: FeastAddress) -> None:
        self._address = address
        self.fields: list[FeastFields] = []

    def codec(self, spec: ViewSpec) -> FeastCodec:
        """Return the codec of a view. Raises StoreError for a view that does not say how Feast calls it."""
        view = spec.feast if isinstance(spec, BatchViewSpec) else None
        if view is None:
            is_batch = isinstance(spec, BatchViewSpec)
            what = "the view does not say how Feast calls it" if is_batch else "Feast's store holds batch views alone"
            step = (
                'write `feast = tr.FeastView("NAME", join_key="…")`' if is_batch else "take a store of Tailrace's own"
            )
            raise StoreError(what, where=f"features.{spec.name}", next=f"{step}; its store is {self._address.shown}")
        fields = FeastFields(view.name, tuple(view.feature(column.name) for column in spec.columns))
        if fields not in self.fields:
            if len(self.fields) == _VIEWS_MAX:
                raise StoreError(f"more than {_VIEWS_MAX} views", where=self._address.shown, next="start it anew")
            self.fields.append(fields)
        return FeastCodec(spec, view, self.fields.index(fields), self._address.key_version)

    def number(self, key: bytes) -> int:
        """Return the number of the view that a key is of. Raises StoreError for a key of no view."""
        number = int.from_bytes(key[:NUMBER_BYTES], "little")
        if len(key) <= NUMBER_BYTES or number >= len(self.fields):
            raise StoreError("Feast's store has no such key", where=self._address.shown, next="ask for its views alone")
        return number
