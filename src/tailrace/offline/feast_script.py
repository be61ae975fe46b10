"""Run by the Python that Feast lives in: prints what a repository's registry says, as one line of JSON.

Feast reads its registry itself, whatever kind that is (file, SQL, S3, …) and whichever version wrote it. This file
imports nothing of Tailrace. Usage: python feast_script.py REPOSITORY
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any


def describe(repository: Path) -> dict[str, Any]:
    """Return a repository's project, online store and views."""
    store = importlib.import_module("feast").FeatureStore(repo_path=str(repository))
    config, views = store.config, {}
    for view in [*store.list_feature_views(), *store.list_stream_feature_views()]:
        views[view.name] = {
            "name": _online_name(view, config),
            "ttl_s": view.ttl.total_seconds() if view.ttl else 0.0,
            "online": bool(getattr(view, "online", True)),
            "entities": list(view.entities),
            "join_keys": [{"name": each.name, "dtype": _type(each)} for each in view.entity_columns],
            "features": [{"name": each.name, "dtype": _type(each)} for each in view.features],
            "source": _source(view.batch_source, repository),
        }
    return {
        "project": store.project,
        "key_version": config.entity_key_serialization_version,
        "online_store": _online_store(config.online_store, repository),
        "views": list(views.values()),
        "on_demand": [view.name for view in store.list_on_demand_feature_views()],
    }


def _type(field: Any) -> str:
    return str(field.dtype.to_value_type().name)


def _online_name(view: Any, config: Any) -> str:
    """Return how the online store calls a view: Feast may add its version."""
    try:
        from_feast = importlib.import_module("feast.infra.online_stores.helpers").compute_versioned_name
        return str(from_feast(view, config.registry.enable_online_feature_view_versioning))
    except (ImportError, AttributeError):  # an earlier Feast has no versions of views
        return str(view.name)


def _source(source: Any, repository: Path) -> dict[str, Any]:
    """Return where a view's rows come from. kind: the class of Feast's source."""
    kind = type(source).__name__
    place = str(getattr(source, "path", None) or getattr(source, "table", None) or getattr(source, "query", None) or "")
    if kind == "FileSource" and "://" not in place:
        place = str(repository / place)
    return {
        "kind": kind,
        "place": place,
        "time": str(getattr(source, "timestamp_field", None) or ""),
        "renames": dict(getattr(source, "field_mapping", None) or {}),
    }


def _online_store(config: Any, repository: Path) -> dict[str, Any]:
    """Return which online store it is, and where. place: its path, or Redis's connection string without a password."""
    kind = str(getattr(config, "type", ""))
    if kind == "sqlite" or kind.endswith("SqliteOnlineStore"):
        return {"kind": "sqlite", "place": str(repository / config.path), "options": []}
    if kind == "redis":
        place, *options = str(config.connection_string).split(",")
        kept = [each for each in options if not each.startswith(("password=", "username="))]
        return {
            "kind": str(getattr(config.redis_type, "value", config.redis_type)),
            "place": place,
            "options": kept,
            "has_login": len(kept) < len(options),
        }
    return {"kind": kind, "place": "", "options": []}


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(describe(Path(sys.argv[1]).resolve())) + "\n")
