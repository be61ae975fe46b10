"""Batch feature views: what is known beforehand, materialised from a source and looked up while serving. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from tailrace.features.feast.declaration import KEY_TYPES, FeastView
from tailrace.features.keys import fields_of
from tailrace.features.rows import RowCodec
from tailrace.features.sources import Every, Parquet, Source
from tailrace.features.view_spec import Entity, ViewSpec
from tailrace.features.views import FeatureView, Reading

_SETTINGS: Final = frozenset({"entity", "source", "refresh", "max_staleness", "feast", "spec"})


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchViewSpec(ViewSpec):
    """A batch view: where its rows come from, and how often; and how Feast calls it, where it is read from there."""

    source: Source
    refresh_ns: int
    feast: FeastView | None = None

    def codec(self) -> RowCodec:
        """Return the codec of its packed rows."""
        return RowCodec(self)


class BatchFeatureView(FeatureView, is_kind=True):
    """Base of views that are computed in batches and looked up while serving.

    A subclass sets `entity` and `source`, may set `refresh` and `max_staleness`, and annotates its columns, each with
    the default that answers for an unknown entity or a null. Types: float, int, bool, str, NumPy's own number types,
    and vectors: `Annotated[list[float], tr.Field(min_length=8, max_length=8)]`, of np.float16 too. A value is stale
    once its source's time (or, without one, the time it was materialised) is older than `max_staleness`; it is served
    all the same, and counted as stale. On the class, a column's name is its `Column`. `feast` says how the view is
    called in Feast, where the pipeline's store is Feast's own.
    """

    source: ClassVar[Source]
    refresh: ClassVar[Every] = Every("1d")
    feast: ClassVar[FeastView | None] = None
    spec: ClassVar[BatchViewSpec]

    @classmethod
    def _read(cls) -> BatchViewSpec:
        """Return what the class declares, with its mistakes."""
        return _BatchReading(cls, _SETTINGS).spec()


class _BatchReading(Reading):
    """A batch view's declaration while it is read."""

    has_vectors = True
    _view: type[BatchFeatureView]

    def spec(self) -> BatchViewSpec:
        """Return the view's spec, with its problems."""
        entity, source = self.entity(), self.source()
        self._check_key(entity, source)
        refresh_ns, max_staleness_ns, feast = self.refresh_ns(), self.max_staleness_ns(), self.feast(entity)
        return BatchViewSpec(
            name=self._view.__name__,
            entity=entity,
            columns=self.columns(),
            source=source,
            refresh_ns=refresh_ns,
            feast=feast,
            max_staleness_ns=max_staleness_ns,
            problems=tuple(self.problems),
        )

    def source(self) -> Source:
        """Return the source."""
        source = getattr(self._view, "source", None)
        if isinstance(source, Source) and type(source) is not Source:
            self._renames(source)
            return source
        what = "the view names no source" if source is None else f"{source!r} is not a source"
        self.report(what, ".source", 'write `source = tr.Parquet("data/…", time="…")`, tr.CSV(…) or tr.SQL(…)')
        return Parquet("")

    def _check_key(self, entity: Entity, source: Source) -> None:
        if source.key is not None and entity.key and len(fields_of(source.key)) != len(entity.fields):
            self.report(f"the source's key {source.key!r} does not match the entity's, {entity.key_fields!r}",
                        ".source", "name a column for each field of the entity's key, in its order")  # fmt: skip

    def _renames(self, source: Source) -> None:
        known = self.annotations()
        for name in source.columns:
            if name not in known:
                self.report(f"the source renames {name!r}, which the view does not declare", ".source",
                             f"declare it as a column, or take it out of columns={{{name!r}: …}}")  # fmt: skip

    def refresh_ns(self) -> int:
        """Return how often it is to be materialised."""
        refresh = self._view.refresh
        try:
            refresh.jitter_ns  # noqa: B018 - it is read to be checked
            return refresh.duration_ns
        except (ValueError, AttributeError) as error:
            what = str(error) if isinstance(refresh, Every) else f"{refresh!r} is not an interval"
            self.report(what, ".refresh", 'write `refresh = tr.every("1h")`')
            return 0

    def feast(self, entity: Entity) -> FeastView | None:
        """Return how Feast calls the view; None where it does not say."""
        view: Any = self._view.feast
        if view is None:
            return None
        if any(column.width for column in self.columns()):
            self.report("a view that is read from Feast has no vectors", ".feast", "materialise it with Tailrace")
        write_as = 'write `feast = tr.FeastView("NAME", join_key="…")`'
        if not isinstance(view, FeastView):
            self.report(f"{view!r} is not a FeastView", ".feast", write_as)
            return None
        if not view.name or not all(fields_of(view.join_key)):
            self.report("Feast's name of the view, or of a join key, is empty", ".feast", write_as)
        if len(fields_of(view.join_key)) != len(entity.fields):
            self.report(f"the join key {view.join_key!r} does not match the entity's key, {entity.key_fields!r}",
                        ".feast", "name a join key for each field of the entity's key, in its order")  # fmt: skip
        types = fields_of(view.key_type)
        if not set(types) <= set(KEY_TYPES) or (types != (view.key_type,) and len(types) != len(entity.fields)):
            self.report(f"{view.key_type!r} is not the type that the entity's ids have in Feast", ".feast",
                        'give key_type="int32", "int64" or "string", one for each field, or none')  # fmt: skip
        known = self.annotations()
        for name in view.features:
            if name not in known:
                self.report(f"features= names {name!r}, which the view does not declare", ".feast",
                            f"declare it as a column, or take it out of features={{{name!r}: …}}")  # fmt: skip
        return view
