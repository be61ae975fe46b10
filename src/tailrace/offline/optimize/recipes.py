"""What can be done to a model: a recipe says it in numbers, and in words."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from tailrace.inference.manifest import SessionSettings

Kind = Literal["as packaged", "optimised graph", "int8 dynamic", "int8 static", "float16", "fewer trees", "cut trees"]


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """One way to make another model of a packaged one.

    per_channel: whether each column of a layer's weights has a scale of its own. ends: whether the first and the last
    layer are of short numbers too. reduced: whether weights have 7 bits, which a processor without VNNI adds up without
    an overflow. trees: how many are kept; depth: where they are cut; of: how many, or how deep, they were. scaled:
    whether the trees that are kept are made to count for all, as in a forest that averages. session: how ONNX Runtime
    computes it.
    """

    kind: Kind = "as packaged"
    per_channel: bool = False
    ends: bool = True
    reduced: bool = False
    trees: int = 0
    depth: int = 0
    of: int = 0
    scaled: bool = False
    session: SessionSettings = SessionSettings()

    @property
    def name(self) -> str:
        """The recipe in words."""
        settings, default = self.session, SessionSettings()
        parts = [
            f"{self.trees} of {self.of} trees" if self.kind == "fewer trees"
            else f"trees cut at depth {self.depth} of {self.of}" if self.kind == "cut trees"
            else self.kind,
            *(["per channel"] if self.per_channel else []),
            *([] if self.ends else ["ends in float32"]),
            *(["7 bits"] if self.reduced else []),
            *([f"{settings.threads} threads"] if settings.threads != default.threads else []),
            *(["memory kept"] if settings.arena != default.arena else []),
            *([f"graph level {settings.level}"] if settings.level != default.level else []),
        ]  # fmt: skip
        return ", ".join(parts)

    @property
    def folder(self) -> str:
        """The name of the directory that holds the model it makes."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    @property
    def is_short(self) -> bool:
        """Whether numbers become shorter than float32."""
        return self.kind in {"int8 dynamic", "int8 static", "float16"}

    def with_session(self, **settings: object) -> Recipe:
        """Return the recipe with other settings of ONNX Runtime's."""
        return msgspec.structs.replace(self, session=msgspec.structs.replace(self.session, **settings))


AS_PACKAGED = Recipe()


def recipes_of_layers(*, reduced: bool) -> list[Recipe]:
    """Return what is tried on a graph that has layers of weights."""
    recipes = [
        Recipe(kind=kind, per_channel=per_channel, ends=ends, reduced=reduced)
        for kind in ("int8 dynamic", "int8 static")
        for per_channel, ends in ((False, True), (True, True), (True, False))
    ]
    return [*recipes, Recipe(kind="float16")]


def recipes_of_session(best: Recipe, cores: int) -> list[Recipe]:
    """Return a recipe with other settings of ONNX Runtime's, one at a time."""
    threads = sorted({count for count in (2, 4, 8, 16, 32, 64, 128) if count < cores} | {cores} - {1})
    return [
        *(best.with_session(threads=count) for count in threads),
        best.with_session(arena=True),
        *(best.with_session(level=level) for level in ("none", "basic", "extended")),
    ]
