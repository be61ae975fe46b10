from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pytest

import tailrace as tr
from tailrace.compile.compiler import compile_plan
from tailrace.compile.resolve import wire
from tailrace.compile.wiring import snake_case
from tailrace.errors import CompileError, Problem
from tailrace.features.stores.memory import MemoryStore
from tailrace.inference.signature import Signature, TensorSpec
from tailrace.pipeline import Pipeline

BUDGET = tr.Budget("50ms")


class Ask(tr.Request):
    customer_id: int
    amount: float
    count: int
    text: str
    nullable_id: int | None = None
    list_a: list[int] = msgspec.field(default_factory=list)
    list_b: list[str] = msgspec.field(default_factory=list)
    fraction_id: float = 0.0


class Other(tr.Request):
    amount: float


class Answer(tr.Response):
    score: float


def view(name: str, key: str | tuple[str, ...], **columns: Any) -> Any:
    """Return a view over an entity of that key, with columns given by their defaults."""
    entity = tr.Entity(f"of_{key if isinstance(key, str) else '_'.join(key)}", key=key)
    body: dict[str, Any] = {"entity": entity, "source": tr.Parquet("x.parquet")}
    body["__annotations__"] = {column: type(default) for column, default in columns.items()}
    return type(name, (tr.BatchFeatureView,), body | columns)


Known = view("Known", "customer_id", level=0.0)


@tr.on_demand
def raising(request: Ask) -> np.ndarray:
    """Raise."""
    raise ZeroDivisionError("by nothing")


@tr.on_demand
def of_wrong_shape(request: Ask) -> np.ndarray:
    """Return one value too many."""
    return np.zeros(len(request.amount) + 1)


@tr.on_demand
def of_one_request(request: Ask) -> np.ndarray:
    """Look at one request as if it were not a batch."""
    return 1.0 if request.amount > 0 else 0.0


@tr.on_demand
def mean_amount(request: Ask) -> np.ndarray:
    """Mix the rows of the batch."""
    return request.amount / request.amount.mean()


@tr.on_demand
def fraction(request: Ask) -> np.ndarray:
    """Return a float."""
    return request.amount / 2


@tr.on_demand
def word(request: Ask) -> np.ndarray:
    """Return a text."""
    return np.where(request.amount > 1, "big", "small")


@tr.on_demand
def of_unknown_column(profile: Known) -> np.ndarray:
    """Read a column that the view does not have."""
    return profile.lebel


@tr.on_demand
def of_nothing(reqest) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Take a parameter that names nothing."""
    return reqest.amount


@pytest.fixture(scope="module")
def base(pipelines_dir: Path) -> Pipeline:
    """Return a pipeline without a mistake: one float into the model `log`, whose input is `amount`."""
    return Pipeline(
        name="base",
        request=Ask,
        response=Answer,
        features=[Ask.amount],
        model=tr.Model("log", fallback=tr.Constant(0.0)),
        decision=tr.bands("score", low=0.0, high=1.0),
        budget=BUDGET,
        base_dir=pipelines_dir,
    )


def problems_of(pipeline: Pipeline) -> tuple[Problem, ...]:
    """Compile a pipeline with mistakes and return them; each says what, where and what next."""
    with pytest.raises(CompileError) as caught:
        compile_plan(pipeline, MemoryStore())
    for problem in caught.value.problems:
        assert all(problem), f"a part is empty: {problem!r}"
        assert str(problem) in str(caught.value)
    return caught.value.problems


def the_problem(pipeline: Pipeline) -> Problem:
    """Return the only mistake of a pipeline."""
    (problem,) = problems_of(pipeline)
    return problem


def response(**fields: Any) -> type[tr.Response]:
    """Return a response type of these fields."""
    return msgspec.defstruct("Made", list(fields.items()), bases=(tr.Response,))  # type: ignore[return-value]


CASES: dict[str, tuple[dict[str, Any], str, str, str]] = {
    # what is changed, then parts of: what, where, next
    "missing feature": ({"features": []}, "wants amount as input 0", "model 'log'", "known are none"),
    "extra feature": ({"features": [Ask.amount, Ask.count]}, "takes no such input", "features.count", "remove it"),
    "feature of another request": (
        {"request": Other, "features": [Ask.amount]},
        "not of this request",
        "features[0]",
        "Other",
    ),
    "feature twice": ({"features": [Ask.amount, Ask.amount]}, "listed twice", "features[1]", "once"),
    "no feature at all": (
        {"features": [Ask.amount, "count"]},
        "'count' is not a feature",
        "features[1]",
        "list a request field",
    ),
    "rule on an unknown view": (
        {"features": [Ask.amount], "rules": [tr.Rule("r", lambda v: v.level > 0, "low")]},
        "'v' stands for nothing",
        "rule 'r'",
        "known are request",
    ),
    "negative buffer": (
        {"budget": tr.Budget("10ms", features="8ms", inference="4ms")},
        "2 ms more than the total of 10 ms",
        "budget",
        "give layers less",
    ),
    "rule to what is no text": (
        {"rules": [tr.Rule("r", lambda request: request.amount > 1, 5)]},  # type: ignore[arg-type]
        "then=5 is no decision",
        "rule 'r'",
        "known are low, high",
    ),
    "rule to no label": (
        {"rules": [tr.Rule("r", lambda request: request.amount > 1, "hihg")]},
        "then='hihg' is no decision",
        "rule 'r'",
        "did you mean 'high'?",
    ),
    "rule with an unknown parameter": (
        {"rules": [tr.Rule("r", lambda reqest: reqest.amount > 1, "high")]},
        "'reqest' stands for nothing",
        "rule 'r'",
        "did you mean 'request'?",
    ),
    "rule that raises": (
        {"rules": [tr.Rule("r", lambda request: request.amuont > 1, "high")]},
        "AttributeError",
        "rule 'r'",
        "columns",
    ),
    "rule that gives numbers": (
        {"rules": [tr.Rule("r", lambda request: request.amount, "high")]},
        "gives float64",
        "rule 'r'",
        "one value a row",
    ),
    "rule that is no function": (
        {"rules": [tr.Rule("r", "amount > 1", "high")]},
        "not callable",
        "rule 'r'",
        "columns",
    ),  # type: ignore[arg-type]
    "rules without a decision": (
        {"decision": None, "rules": [tr.Rule("r", lambda request: request.amount > 1, "high")]},
        "without a decision",
        "rules",
        "bands",
    ),
    "bands that do not ascend": (
        {"decision": tr.bands("score", low=0.5, high=0.1)},
        "do not ascend",
        "decision",
        "lowest score up",
    ),
    "bands of equal starts": ({"decision": tr.bands("score", low=0.5, high=0.5)}, "do not ascend", "decision", "order"),
    "bands from NaN": (
        {"decision": tr.bands("score", low=0.5, high=float("nan"))},
        "no number",
        "decision",
        "give a score",
    ),
    "bands of nothing": ({"decision": tr.bands("score")}, "without a label", "decision", "name at least one"),
    "bands of something else": ({"decision": tr.bands("amount", low=0.0)}, "not 'amount'", "decision", 'bands("score"'),
    "labels of a regression": (
        {"decision": tr.labels()},
        "0 labels for a model of 0 classes",
        "decision",
        "regression",
    ),
    "response field that nothing fills": (
        {"response": response(scor=float)},
        "nothing gives this field a value",
        "response Made.scor",
        "did you mean 'score'?",
    ),
    "response field of another type": (
        {"response": response(score=str)},
        "Expected `str`, got `float`",
        "response Made.score",
        "declare",
    ),
    "response field of many that is one": (
        {"response": response(reasons=str)},
        "Expected `str`, got `array`",
        "response Made.reasons",
        "declare",
    ),
    "response without a field": ({"response": response()}, "has no field", "response Made", "declare"),
    "literal without a label": (
        {"response": response(decision=Literal["low"])},
        "can be high",
        "response Made.decision",
        "add it",
    ),
    "model directory missing": (
        {"model": tr.Model("gone")},
        "no such model directory",
        "models/gone",
        "tailrace package",
    ),
    "fallback model of another signature": (
        {"model": tr.Model("log", fallback=tr.Model("payment"))},
        "takes other inputs",
        "model 'log'",
        "same feature columns",
    ),
    "name that is no URL": ({"name": "a/b"}, "cannot stand in a URL", "name", "letters"),
}


@pytest.mark.parametrize("case", CASES)
def test_mistake_alone_is_told(case: str, base: Pipeline) -> None:
    """One mistake gives one problem, with what, where and what next."""
    changes, what, where, next_step = CASES[case]
    problem = the_problem(replace(base, **changes))
    assert what in problem.what
    assert where in problem.where
    assert next_step in problem.next


ON_DEMAND: dict[str, tuple[Any, str, str]] = {
    "raises": (raising, "ZeroDivisionError: by nothing", "@on_demand raising"),
    "wrong shape": (of_wrong_shape, "shape (3,)", "@on_demand of_wrong_shape"),
    "written for one request": (of_one_request, "ValueError", "@on_demand of_one_request"),
    "mixes rows": (mean_amount, "depends on the other requests of its batch", "@on_demand mean_amount"),
    "unknown column": (of_unknown_column, "no column 'lebel'", "@on_demand of_unknown_column"),
}


@pytest.mark.parametrize("case", ON_DEMAND)
def test_mistake_of_an_on_demand_feature_is_told(case: str, base: Pipeline, pipelines_dir: Path) -> None:
    """A function that raises, gives another shape or mixes rows is found before the first caller."""
    feature, what, where = ON_DEMAND[case]
    problems = problems_of(replace(base, features=[Ask.amount, feature]))
    found = [problem for problem in problems if problem.where == where]
    if case == "unknown column" or not found:
        assert any("takes no such input" in problem.what for problem in problems)
    renamed = replace(feature, name="amount")
    problem = the_problem(replace(base, features=[renamed]))
    assert what in problem.what
    assert problem.where == "@on_demand amount"


def test_on_demand_feature_of_the_wrong_type_is_told(base: Pipeline) -> None:
    """A text never fills a float input, though the type is known only once the function ran."""
    problem = the_problem(replace(base, features=[replace(word, name="amount")]))
    assert "is float32, this is text" in problem.what
    assert problem.where == "features.amount"


def test_on_demand_parameter_that_names_nothing_is_told(base: Pipeline) -> None:
    """The missing type and the unknown name are both said."""
    problems = problems_of(replace(base, features=[replace(of_nothing, name="amount")]))
    assert any("'reqest' has no type" in problem.what for problem in problems)
    assert any("did you mean 'request'?" in problem.next for problem in problems)


@pytest.mark.parametrize(
    ("name", "snake"),
    [
        ("CustomerProfile", "customer_profile"),
        ("KYCProfile", "kyc_profile"),
        ("CustomerKYC", "customer_kyc"),
        ("MyKYCProfile", "my_kyc_profile"),
        ("Spend90d", "spend90d"),
        ("Spend90Days", "spend90_days"),
        ("X", "x"),
        ("XRay", "x_ray"),
        ("Under_Score", "under_score"),
        ("already_snake", "already_snake"),
    ],
)
def test_view_is_named_in_snake_case(name: str, snake: str) -> None:
    """A new word begins at a capital behind a small letter or a digit, and at the last capital of several."""
    assert snake_case(name) == snake


def test_parameter_that_could_name_two_views_is_told(base: Pipeline) -> None:
    """Names that are one in snake case are not left to chance, and an annotation says which is meant."""
    one, other = view("KYCLevel", "customer_id", level=0.0), view("KycLevel", "customer_id", level=0.0)
    rule = tr.Rule("r", lambda kyc_level: kyc_level.level > 1, "high")
    problems = problems_of(replace(base, features=[Ask.amount, one, other], rules=[rule]))
    (found,) = [problem for problem in problems if problem.where == "rule 'r'"]
    assert found.what == "the parameter 'kyc_level' could stand for KYCLevel or KycLevel"
    assert "annotate" in found.next


@tr.on_demand
def of_another_request(request: Other) -> np.ndarray:
    """Take the request of another pipeline."""
    return request.amount


class AskMore(Ask):
    """A request that extends the one which functions are written for."""

    more: float = 0.0


def test_function_of_another_request_is_told(base: Pipeline) -> None:
    """An on-demand feature or a rule annotated with another pipeline's request is told, whatever fields they share."""

    def is_large(request: Other) -> np.ndarray:
        return request.amount > 10

    features = [replace(of_another_request, name="amount")]
    problems = problems_of(replace(base, features=features, rules=[tr.Rule("r", is_large, "high")]))
    assert {problem.where for problem in problems} == {"features[0] amount", "rule 'r'"}
    for problem in problems:
        assert problem.what == "the parameter 'request' takes Other, which is not of this request"
        assert "annotate it with Ask" in problem.next


@pytest.mark.parametrize("annotation", [Ask, tr.Request])
def test_function_of_an_extended_request_is_taken(annotation: type, base: Pipeline) -> None:
    """What is written for a request serves those that extend it."""

    def amount(request: Any) -> np.ndarray:
        return request.amount  # type: ignore[no-any-return]

    amount.__annotations__["request"] = annotation
    compile_plan(replace(base, request=AskMore, features=[tr.on_demand(amount)]), MemoryStore()).close()


def test_request_that_is_an_array_is_told(base: Pipeline) -> None:
    """An array is many requests; the mistake is told with the others."""

    class Listed(tr.Request, array_like=True):
        amount: float

    problems = problems_of(replace(base, name="a/b", request=Listed, features=[Listed.amount]))
    assert [problem.where for problem in problems] == ["name", "request Listed"]
    assert "array_like" in problems[1].what


def test_request_that_json_cannot_tell_is_told(base: Pipeline) -> None:
    """A type that msgspec cannot decode is told in its words."""

    class Mixed(tr.Request):
        amount: float
        many: list[int] | set[int] = msgspec.field(default_factory=list)

    problem = the_problem(replace(base, request=Mixed, features=[Mixed.amount]))
    assert problem.where == "request Mixed"
    assert "union" in problem.what


@pytest.mark.parametrize(("place", "extends"), [("request", tr.Request), ("response", tr.Response)])
def test_annotation_that_names_nothing_is_told(place: str, extends: type, base: Pipeline) -> None:
    """A name that is nowhere defined leaves no field to be read: that alone is said, beside what needs none."""
    made: Any = type("Made", (extends,), {"__annotations__": {"score": "Nowhere"}})
    problems = problems_of(replace(base, name="a/b", **{place: made}))
    assert [problem.where for problem in problems] == ["name", f"{place} Made"]
    assert "'Nowhere' is not defined" in problems[1].what


PAIR = view("Pair", ("customer_id", "text"), x=0.0)

VIEWS: dict[str, tuple[list[Any], str, str]] = {
    "unknown key": ([view("V", "customer", amount=0.0)], "no field 'customer'", "did you mean 'customer_id'?"),
    "nullable key": ([view("V", "nullable_id", amount=0.0)], "'nullable_id' is not", "nullable_id: int"),
    "fractional key": ([view("V", "fraction_id", amount=0.0)], "'fraction_id' is not", "fraction_id: int"),
    "two lists": (
        [view("V", "list_a", x=0.0), view("W", "list_b", y=0.0)], "two list-valued keys, list_a and list_b", "keep one",
    ),
    "unknown part": (
        [view("V", ("customer_id", "customer"), x=0.0)], "no field 'customer'", "did you mean 'customer_id'?",
    ),
    "nullable part": ([view("V", ("nullable_id", "text"), x=0.0)], "'nullable_id' is not", "nullable_id: int"),
    "fractional part": ([view("V", ("text", "fraction_id"), x=0.0)], "'fraction_id' is not", "fraction_id: int"),
    "two lists in one key": (
        [view("V", ("list_a", "list_b"), x=0.0)], "two list-valued keys, list_a and list_b", "keep one",
    ),
    "fields of one key in two orders": (
        [PAIR, type("Turned", (PAIR,), {"entity": tr.Entity(PAIR.spec.entity.name, ("text", "customer_id"))})],
        "in another view", "declare the entity once",
    ),
    "two views of one name": (
        [view("V", "customer_id", x=0.0), view("V", "customer_id", y=0.0)], "two views are called V", "rename",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", VIEWS)
def test_mistake_of_a_view_is_told(case: str, base: Pipeline) -> None:
    """Keys that are unknown, nullable or no ids, two lists, and two views of one name."""
    features, what, next_step = VIEWS[case]
    problems = problems_of(replace(base, features=[Ask.amount, *features]))
    (found,) = [problem for problem in problems if what in problem.what]
    assert found.where.startswith("features")
    assert next_step in found.next


def test_features_in_another_order_are_told(pipelines_dir: Path, pipeline_of: Callable[[str], Pipeline]) -> None:
    """The model's matrix has an order; the one place where it differs is named, with the whole order."""
    payment = pipeline_of("payment")
    features = list(payment.features)
    problem = the_problem(replace(payment, features=[*features[1:], features[0]]))
    assert "input 0 of the model is amount, but the features have CustomerProfile.avg_amount there" in problem.what
    assert "amount, CustomerProfile.avg_amount, CustomerProfile.chargebacks" in problem.next


class Typed(tr.Request):
    """A story whose types are all wrong for the model `topics`."""

    country: int
    day_kind: str
    amount: str
    count: float
    vip: int


def test_wrong_types_are_told_one_by_one(pipelines_dir: Path) -> None:
    """Number into text, text into float64, float into int64, int into bool: four problems, and the right one passes."""
    pipeline = Pipeline(
        name="typed",
        request=Typed,
        response=Answer,
        features=[Typed.country, Typed.day_kind, Typed.amount, Typed.count, Typed.vip],
        model=tr.Model("topics"),
        budget=BUDGET,
        base_dir=pipelines_dir,
    )
    found = {problem.where: problem.what for problem in problems_of(pipeline)}
    assert found.keys() == {"features.country", "features.amount", "features.count", "features.vip"}
    assert "is string, this is int64" in found["features.country"]
    assert "is double" in found["features.amount"] or "is float64, this is text" in found["features.amount"]
    assert "is int64, this is float64" in found["features.count"]
    assert "is bool, this is int64" in found["features.vip"]


def test_bands_over_many_classes_are_told(pipeline_of: Callable[[str], Pipeline]) -> None:
    """Bands look at one score; a classifier of three classes has three."""
    problem = the_problem(
        replace(pipeline_of("topics"), decision=tr.bands("score", low=0.0, high=1.0), response=Answer)
    )
    assert "bands look at one score, and the model gives 3" in problem.what
    assert "tr.labels()" in problem.next


@pytest.mark.parametrize(("names", "count"), [(("a", "b"), 2), (("a", "b", "c", "d"), 4)])
def test_labels_that_are_not_the_classes_are_told(
    names: tuple[str, ...], count: int, pipeline_of: Callable[[str], Pipeline]
) -> None:
    """As many labels as classes, neither fewer nor more."""
    problem = the_problem(replace(pipeline_of("topics"), decision=tr.labels(*names), response=Answer))
    assert f"{count} labels for a model of 3 classes" in problem.what


def test_column_of_two_views_is_told_where_the_response_names_it(base: Pipeline) -> None:
    """Which of the two would be answered must not be left to chance."""
    one, other = view("One", "customer_id", level=0.0), view("Two", "customer_id", level=1.0)
    problems = problems_of(replace(base, features=[Ask.amount, one, other], response=response(level=float)))
    (found,) = [problem for problem in problems if problem.where == "response Made.level"]
    assert found.what == "One and Two both have this column"


def test_response_that_cannot_be_built_is_told(base: Pipeline) -> None:
    """A response type that takes its fields by keyword only is found before the first caller."""

    class ByKeyword(tr.Response, kw_only=True):
        score: float

    problem = the_problem(replace(base, response=ByKeyword))
    assert problem.where == "response ByKeyword"
    assert "TypeError" in problem.what


def test_request_without_a_sample_is_told(base: Pipeline) -> None:
    """A pattern that no sample meets is a mistake of the declaration, told with the others."""
    fields = [("amount", float), ("code", Annotated[str, tr.Field(pattern="^[A-Z]{3}$")])]
    coded: Any = msgspec.defstruct("Coded", fields, bases=(tr.Request,), frozen=True)
    problem = the_problem(replace(base, request=coded, features=[coded.amount]))
    assert problem.where == "request Coded"
    assert "example" in problem.next


def test_list_makes_rows_so_a_row_value_must_be_a_list(base: Pipeline) -> None:
    """A response field of a row's value cannot be one value where a request makes many rows."""
    problems = problems_of(replace(base, features=[Ask.amount, view("V", "list_a", x=0.0)]))
    assert any("list_a is a list" in problem.what and problem.next == "declare it a list" for problem in problems)


def test_all_mistakes_are_told_at_once(base: Pipeline) -> None:
    """Ten mistakes in one pipeline are one error of ten problems, in words that name each place."""
    broken = replace(
        base,
        name="no good",
        features=[Ask.count, Ask.text, Other.amount, view("V", "nobody", x=0.0), "x"],
        decision=tr.bands("score", low=0.5, high=0.1),
        rules=[tr.Rule("r", lambda what: what, "hihg")],
        response=response(scor=float, decision=Literal["low"]),
        budget=tr.Budget("1ms", features="2ms"),
        model=tr.Model("log", fallback=tr.Model("gone")),
    )
    places = [problem.where for problem in problems_of(broken)]
    for place in ("name", "budget", "features.V", "features[2]", "features[4]", "features.count",
                  "features.text", "decision", "rule 'r'", "response Made.scor", "response Made.decision"):  # fmt: skip
        assert place in places, place
    assert any("gone" in place for place in places)
    with pytest.raises(CompileError, match=f"'no good' has {len(places)} mistakes"):
        compile_plan(broken, MemoryStore())


def test_unreadable_model_leaves_no_false_mistakes(base: Pipeline) -> None:
    """With the model missing nothing is said about labels that only the model knows."""
    broken = replace(base, model=tr.Model("gone"), decision=tr.labels(), response=response(decision=str))
    assert "no such model directory" in the_problem(broken).what


def test_inputs_of_a_forgotten_view_are_told_together(pipeline_of: Callable[[str], Pipeline]) -> None:
    """Three missing inputs are told each with a suggestion, the rest of them in one line."""
    pipeline = pipeline_of("payment")
    tensor = TensorSpec("x", "float32", tuple(f"Forgotten.f{index}" for index in range(24)))
    problems = wire(replace(pipeline, features=[]), {pipeline.model: Signature((tensor,), "score")}).problems
    missing = [problem.what for problem in problems if "no feature gives" in problem.what]
    assert len(missing) == 4
    assert missing[-1].startswith("the model wants 21 more inputs that no feature gives: Forgotten.f3, Forgotten.f4,")
