"""A model that another server computes, as a pipeline declares it. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final, Self

from tailrace.inference.declaration import Constant, Model, StageDeclaration, change_all
from tailrace.inference.remote.address import RemoteAddress
from tailrace.inference.remote.described import Described
from tailrace.inference.signature import NUMPY_DTYPES

PROTOCOLS: Final = ("oip", "oip-binary", "tensorflow", "tensorflow-columns", "torchserve")
CONNECTIONS_MAX: Final = 1_024
ROWS_MAX: Final = 100_000

_PATHS: Final = {
    "oip": re.compile(r".*/v2/models/(?P<model>[^/:]+)(/versions/(?P<version>[^/:]+))?"),
    "tensorflow": re.compile(r".*/v1/models/(?P<model>[^/:]+)(/(versions|labels)/(?P<version>[^/:]+))?"),
    "torchserve": re.compile(r".*/predictions/(?P<model>[^/:]+)(/(?P<version>[^/:]+))?"),
}
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class RemoteInput:
    """One input of a remote model: a tensor of a column for each feature.

    dtype: float32, float64, int32, int64, bool or string. features: by their names (`"amount"`,
    `"CustomerProfile.avg_amount_90d"`), in the order of the columns; None: all features of the pipeline for a model's
    only input, else the feature of the input's name.
    Raises ValueError for a type that is none of these.
    """

    name: str
    dtype: str = "float32"
    features: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in NUMPY_DTYPES:
            raise ValueError(f"RemoteInput({self.name!r}): the type is {self.dtype!r}; "
                             f"write one of {', '.join(NUMPY_DTYPES)}")  # fmt: skip
        if self.features is not None:
            object.__setattr__(self, "features", tuple(self.features))


@dataclass(frozen=True, slots=True, init=False)
class RemoteModel(StageDeclaration):
    """A model at a server that speaks the Open Inference Protocol, TensorFlow Serving's API or TorchServe's.

    url: of the model, with its version where it has one: `http://host:8000/v2/models/fraud/versions/3`.
    protocol: one of `PROTOCOLS`; None: what the URL's path shows. inputs, output: asked from the server, where its
        protocol can tell; where both are declared, the pipeline starts without it too.
    column: of the output, that is the score; classes: of a classifier, in the order of the output's columns. Of two
        classes the second column is the score, where none is named. vector: the columns of an output that is an
        embedding and no score.
    fallback: what scores a row when the server fails or is late: a `Constant`, or a `Model` that is computed here.
    authorization: the environment variable that holds the header Authorization, whole. connections_max: open to the
        server at once, by each worker: so many batches may wait for it. rows_max: of one call; more are sent in parts,
        side by side.
    Raises ValueError for what none of these may be.
    """

    name: str
    url: str
    protocol: str
    inputs: tuple[RemoteInput, ...] | None
    output: str | None
    column: int | None
    classes: tuple[str | int, ...]
    vector: int
    fallback: Constant | Model | None
    authorization: str | None
    connections_max: int
    rows_max: int
    described: Described | None = field(default=None, repr=False, compare=False)
    """What its server said when the release was made; set by the release, and then nobody is asked."""
    second_is_stage: ClassVar[bool] = True

    def __init__(
        self,
        name: str,
        *,
        url: str,
        protocol: str | None = None,
        inputs: Sequence[RemoteInput] | None = None,
        output: str | None = None,
        column: int | None = None,
        classes: Sequence[str | int] = (),
        vector: int = 0,
        fallback: Constant | Model | None = None,
        authorization: str | None = None,
        connections_max: int = 32,
        rows_max: int = 256,
        described: Described | None = None,
    ) -> None:
        found = protocol or _protocol_of(name, url)
        values = {
            "name": name, "url": url, "protocol": found, "inputs": None if inputs is None else tuple(inputs),
            "output": output, "column": column, "classes": tuple(classes), "vector": vector, "fallback": fallback,
            "authorization": authorization, "connections_max": connections_max, "rows_max": rows_max,
            "described": described,
        }  # fmt: skip
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)
        if problem := self._problem():
            raise ValueError(f"RemoteModel({name!r}): {problem}")

    @property
    def address(self) -> RemoteAddress:
        """Where it is."""
        return RemoteAddress.parse(self.url)

    @property
    def api(self) -> str:
        """The protocol without its variant: oip, tensorflow or torchserve."""
        return self.protocol.partition("-")[0]

    @property
    def remote_name(self) -> str:
        """What its server calls it."""
        return self._match("model")

    @property
    def version(self) -> str:
        """Its version in the URL; empty for whatever the server serves."""
        return self._match("version")

    @property
    def is_declared(self) -> bool:
        """Whether all is declared that would be asked from the server."""
        return self.inputs is not None and (self.output is not None or self.api != "oip")

    @property
    def constant(self) -> Constant | None:
        """What answers where no model does."""
        return self.fallback.constant if isinstance(self.fallback, Model) else self.fallback

    @property
    def second(self) -> Model | None:
        """The model that it falls back to, if that is one."""
        return self.fallback if isinstance(self.fallback, Model) else None

    def with_second(self, second: StageDeclaration) -> Self:
        """Return the same with another model to fall back to."""
        assert isinstance(second, Model)
        return replace(self, fallback=second)

    def _match(self, part: str) -> str:
        match = _PATHS[self.api].fullmatch(self.address.path)
        return (match[part] or "") if match is not None else ""

    def _problem(self) -> str:
        """Return what is wrong with it; nothing where all is well."""
        if self.protocol not in PROTOCOLS:
            return f"the protocol is {self.protocol!r}; write one of {', '.join(PROTOCOLS)}"
        try:
            path = self.address.path
        except ValueError as error:
            return str(error)
        if _PATHS[self.api].fullmatch(path) is None:
            return f"{path!r} is no model's path by {self.api}; write {_EXAMPLES[self.api]}"
        if self.authorization is not None and not _VARIABLE.fullmatch(self.authorization):
            return "authorization names an environment variable, which holds the header: 'FRAUD_AUTHORIZATION'"
        if not 1 <= self.connections_max <= CONNECTIONS_MAX or not 1 <= self.rows_max <= ROWS_MAX:
            return f"connections_max is 1 to {CONNECTIONS_MAX:,}, rows_max 1 to {ROWS_MAX:,}"
        return self._scores_problem()

    def _scores_problem(self) -> str:
        """Return what is wrong with what goes in, comes out, or stands in for it, and what it is called."""
        if not self.name:
            return "a model has a name, such as 'fraud'"
        if not all(isinstance(each, RemoteInput) for each in self.inputs or ()) or self.inputs == ():
            return 'its inputs are a list of tr.RemoteInput("x", "float32")'
        if self.column is not None and self.column < 0:
            return "columns count from 0"
        if self.vector < 0 or (self.vector and (self.classes or self.column is not None)):
            return "vector is the number of an embedding's columns, and then there is no score: no column, no classes"
        fallback: object = self.fallback
        if not isinstance(fallback, Constant | Model | None):
            return f"the fallback is {fallback!r}; write tr.Constant(0.5) or tr.Model(…)"
        return ""


_EXAMPLES: Final = {
    "oip": "http://host:8000/v2/models/NAME/versions/VERSION",
    "tensorflow": "http://host:8501/v1/models/NAME/versions/VERSION",
    "torchserve": "http://host:8080/predictions/NAME/VERSION",
}


def _protocol_of(name: str, url: str) -> str:
    """Return the protocol that a URL's path shows. Raises ValueError for one that shows none."""
    try:
        path = RemoteAddress.parse(url).path
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"RemoteModel({name!r}): {error}") from None
    for protocol, pattern in _PATHS.items():
        if pattern.fullmatch(path):
            return protocol
    examples = ", ".join(_EXAMPLES.values())
    raise ValueError(f"RemoteModel({name!r}): the path {path!r} shows no protocol; write one of {examples}")


def with_described(declared: StageDeclaration, known: Mapping[RemoteModel, Described]) -> StageDeclaration:
    """Return a stage whose remote models are known by what their servers said."""

    def told(each: StageDeclaration) -> StageDeclaration:
        return replace(each, described=known.get(each)) if isinstance(each, RemoteModel) else each

    return change_all(declared, told)
