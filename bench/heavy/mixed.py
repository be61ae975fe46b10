"""The network of pipeline.py, and a light model in the same worker."""

from pipeline import FOLDER, Told, heavy

import tailrace as tr

__all__ = ["heavy", "light"]


class Glance(tr.Request):
    """A row of the light model."""

    f0: float
    f1: float


light = tr.Pipeline(
    name="light",
    request=Glance,
    response=Told,
    features=[Glance.f0, Glance.f1],
    model=tr.Model("light", path=f"{FOLDER}/light"),
    budget=tr.Budget("50ms"),
)
