"""Declare two feature views in a repository of Feast's, and fill its online store. Run by the Python that has Feast.

python fill.py REPOSITORY    a folder with feature_store.yaml, customers.parquet, terminals.parquet; prints the version
"""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import feast
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64

WINDOWS = ("5m", "1h", "1d", "7d", "30d")


def declare(name: str, folder: Path) -> tuple[Entity, FeatureView]:
    """Return an entity and its view: five counts and five means."""
    entity = Entity(name=name, join_keys=[f"{name}_id"], value_type=ValueType.INT64)
    counts = [Field(name=f"{name}_count_{window}", dtype=Int64) for window in WINDOWS]
    means = [Field(name=f"{name}_mean_{window}", dtype=Float64) for window in WINDOWS]
    source = FileSource(path=str(folder / f"{name}s.parquet"), timestamp_field="event_timestamp")
    return entity, FeatureView(name=f"{name}_profile", entities=[entity], ttl=timedelta(0), source=source,
                               schema=[*counts, *means])  # fmt: skip


def main(folder: Path) -> None:
    """Apply and materialise."""
    (customer, customers), (terminal, terminals) = (declare(name, folder) for name in ("customer", "terminal"))
    service = FeatureService(name="profiles", features=[customers, terminals])
    store = FeatureStore(repo_path=str(folder))
    store.apply([customer, terminal, customers, terminals, service])
    now = datetime.now(UTC)
    store.materialize(now - timedelta(days=2), now)
    print(feast.__version__)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
