"""A network of 20 MFLOP a row: what batching is measured with."""

import tailrace as tr

FOLDER = "../../build/bench/heavy"
FEATURES = 24


class Job(tr.Request):
    """A row of the network."""

    f0: float
    f1: float
    f2: float
    f3: float
    f4: float
    f5: float
    f6: float
    f7: float
    f8: float
    f9: float
    f10: float
    f11: float
    f12: float
    f13: float
    f14: float
    f15: float
    f16: float
    f17: float
    f18: float
    f19: float
    f20: float
    f21: float
    f22: float
    f23: float


class Told(tr.Response):
    """The score."""

    score: float


heavy = tr.Pipeline(
    name="heavy",
    request=Job,
    response=Told,
    features=[getattr(Job, f"f{index}") for index in range(FEATURES)],
    model=tr.Model("mlp", path=f"{FOLDER}/mlp"),
    budget=tr.Budget("20ms"),
)
