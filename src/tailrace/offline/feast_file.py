"""A Python file that declares the views of a Feast repository, to be read and edited by a person."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tailrace.errors import SetupError
from tailrace.offline.feast_registry import FeastField, FeastOnlineStore, FeastProject, FeastRegistryView, FeastSource

_COLUMNS: Final = {
    "DOUBLE": "float = 0.0", "FLOAT": "np.float32 = 0.0", "INT64": "int = 0", "INT32": "np.int32 = 0",
    "STRING": 'str = ""', "BOOL": "bool = False", "UNIX_TIMESTAMP": "int = 0  # seconds since the epoch",
}  # fmt: skip
"""How a feature of one of Feast's types is declared."""

_KEY_TYPES: Final = {"INT64": "int64", "INT32": "int32", "STRING": "string"}
_RESERVED: Final = frozenset({"entity", "source", "refresh", "max_staleness", "feast", "spec", "tr", "np"})
_UNITS_S: Final = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
_TITLE: Final = '''"""The views of Feast's project {project!r}, as `tailrace import-feast` has read them; edit them.

A default answers for an unknown entity and for a null: choose each as your model was trained with it.
"""
'''


class FeastFile(NamedTuple):
    """A file's text. left_out: what it does not declare, each with the reason."""

    text: str
    left_out: tuple[str, ...]


class _Names:
    """Names that a Python file can have, each given once."""

    def __init__(self) -> None:
        self._taken = {"tr", "np", "STORE"}

    def take(self, name: str) -> str:
        """Return the name, or one like it that is free."""
        base = name if name.isidentifier() and not keyword.iskeyword(name) else "_".join(_words(name)) or "view"
        base = f"view_{base}" if not base.isidentifier() or keyword.iskeyword(base) else base
        found, count = base, 1
        while found in self._taken:
            count += 1
            found = f"{base}_{count}"
        self._taken.add(found)
        return found


def write_feast_file(project: FeastProject) -> FeastFile:
    """Return a file that declares a project's views. Raises SetupError where it has none that can be declared."""
    left_out = [f"{name}: an on-demand view; write it as @tr.on_demand" for name in project.on_demand]
    store, why = _store_url(project)
    if why:
        left_out.append(f"the online store: {why}")
    parts: list[str] = []
    names, entities = _Names(), dict[tuple[tuple[str, ...], tuple[str, ...]], str]()
    declared: list[str] = []
    for view in project.views:
        features = [each for each in view.features if each.dtype in _COLUMNS]
        reason = _why_not(view, features)
        if reason:
            left_out.append(f"{view.name}: {reason}")
            continue
        left_out += [
            f"{view.name}.{each.name}: a view of Tailrace has no column of Feast's type {each.dtype}"
            for each in view.features
            if each.dtype not in _COLUMNS
        ]
        join_keys = tuple(each.name for each in view.join_keys)
        key = (view.entities, join_keys)
        if key not in entities:
            entities[key] = names.take("_".join(view.entities))
            parts.append(f'{entities[key]} = tr.Entity("{entities[key]}", key={_one_or_all(join_keys)})\n')
        declared.append("\n".join(_class(view, features, entities[key], names)))
    if not declared:
        raise SetupError(f"no view can be declared: {'; '.join(left_out) or 'it has none'}", where=project.project,
                         next="see the reasons")  # fmt: skip
    comments = [f"# Left out: {each}\n" for each in left_out]
    imports = ["import numpy as np\n\n" if any("np." in each for each in declared) else "", "import tailrace as tr\n"]
    head = [_TITLE.format(project=project.project), "\nfrom __future__ import annotations\n\n", *imports]
    about = '"""Feast\'s online store, read as it is: tr.Pipeline(…, store=STORE)."""'
    stores = [f"\nSTORE = {_quoted(store)}\n{about}\n"] if store else []
    gap = ["\n"] if comments else []
    return FeastFile("".join([*head, *gap, *comments, *stores, "\n", *parts, *declared]), tuple(left_out))


def _why_not(view: FeastRegistryView, features: list[FeastField]) -> str:
    """Return why a view cannot be declared; "" where it can."""
    if not view.join_keys or view.join_keys[0].name == "__dummy_id":
        return "it has no entity"
    if others := [each.dtype for each in view.join_keys if each.dtype not in _KEY_TYPES]:
        return f"its join key is of Feast's type {others[0]}: an id is an int or a text"
    if not view.online:
        return "Feast does not serve it online"
    return "" if features else "it has no feature of a type that a column can have"


def _class(view: FeastRegistryView, features: list[FeastField], entity: str, names: _Names) -> Iterator[str]:
    """Yield the lines of a view's class."""
    columns = _column_names(features)
    renamed = {column: feature for column, feature in columns.items() if column != feature}
    keys = [each.name for each in view.join_keys]
    types = [_KEY_TYPES[each.dtype] for each in view.join_keys]
    name = names.take("".join(word[:1].upper() + word[1:] for word in _words(view.name)) or "View")
    yield f"\n\nclass {name}(tr.BatchFeatureView):"
    yield f'    """Feast\'s {view.name}."""\n'
    yield f"    entity = {entity}"
    yield from _source(view.source, keys, columns)
    if view.ttl_s:
        yield f'    max_staleness = "{_duration(view.ttl_s)}"'
    given = [_quoted(view.name), f"join_key={_one_or_all(keys)}", f"key_type={_one_or_all(types)}"]
    if renamed:
        given.append(f"features={_mapping(renamed)}")
    yield f"    feast = tr.FeastView({', '.join(given)})\n"
    dtypes = {each.name: each.dtype for each in features}
    for column, feature in columns.items():
        yield f"    {column}: {_COLUMNS[dtypes[feature]]}"
    yield ""


def _source(source: FeastSource, keys: list[str], columns: dict[str, str]) -> Iterator[str]:
    """Yield the lines of a view's source: from where it is materialised once Feast is left."""
    originals = {feast: name for name, feast in source.renames.items()}
    renames = {column: originals.get(feature, feature) for column, feature in columns.items()}
    renames = {column: name for column, name in renames.items() if column != name}
    place = source.place
    if source.kind != "FileSource":
        yield f"    # Feast reads {source.kind} {source.place!r}: export it to this file before you materialise."
        place = f"data/{re.sub('[^A-Za-z0-9_.-]+', '_', source.place)[-80:] or 'exported'}.parquet"
    given = [_quoted(place)]
    if source.time:
        given.append(f"time={_quoted(originals.get(source.time, source.time))}")
    given.append(f"key={_one_or_all([originals.get(key, key) for key in keys])}")
    if renames:
        given.append(f"columns={_mapping(renames)}")
    yield f"    source = tr.Parquet({', '.join(given)})"


def _column_names(features: Iterable[FeastField]) -> dict[str, str]:
    """Return the features' names by the names of their columns."""
    found: dict[str, str] = {}
    for each in features:
        name = each.name
        if not name.isidentifier() or keyword.iskeyword(name) or name in _RESERVED or name.startswith("_"):
            name = f"feature_{'_'.join(_words(name))}"
        while name in found:
            name += "_"
        found[name] = each.name
    return found


def _store_url(project: FeastProject) -> tuple[str, str]:
    """Return the URL of the online store, and why there is none, or what it lacks."""
    store = project.online_store
    query = f"?project={project.project}" + (f"&key_version={project.key_version}" if project.key_version != 3 else "")
    if store.kind == "sqlite":
        return f"feast+sqlite:{Path(store.place)}{query}", ""
    if store.kind != "redis":
        return "", f"Feast's {store.kind or 'own'} cannot be read as it is; materialise the views from their sources"
    url = f"{_redis_place(store)}{query}"
    return (
        url,
        "its login is not copied; write it into the URL, user:password@ before the host" if store.has_login else "",
    )


def _redis_place(store: FeastOnlineStore) -> str:
    options = dict(each.partition("=")[::2] for each in store.options)
    scheme = "feast+rediss" if options.get("ssl", "").lower() == "true" else "feast+redis"
    return f"{scheme}://{store.place}/{options.get('db', '0')}"


def _duration(seconds: float) -> str:
    unit, size_s = next((pair for pair in _UNITS_S if seconds % pair[1] == 0), ("s", 1))
    return f"{int(seconds // size_s) if seconds % size_s == 0 else seconds}{unit}"


def _words(name: str) -> list[str]:
    return re.findall(r"[A-Za-z0-9]+", name)


def _quoted(text: str) -> str:
    """Return a text as Python writes it, in double quotes where that needs no escape."""
    return repr(text) if "\\" in repr(text) or '"' in text else f'"{text}"'


def _one_or_all(names: Sequence[str]) -> str:
    """Return one name as it is, several as a tuple."""
    return _quoted(names[0]) if len(names) == 1 else f"({', '.join(map(_quoted, names))})"


def _mapping(names: dict[str, str]) -> str:
    return "{" + ", ".join(f"{_quoted(ours)}: {_quoted(theirs)}" for ours, theirs in names.items()) + "}"
