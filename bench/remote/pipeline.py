"""A pipeline of 24 fields of the request whose model a server computes; bench/remote_model.py says where it is."""

import os

import tailrace as tr

Row = type(tr.Request)(
    "Row", (tr.Request,), {"__annotations__": {f"f{index}": float for index in range(24)}, "__module__": __name__}
)


class Scored(tr.Response):
    """What a row's score is."""

    score: float


remote = tr.Pipeline(
    name="remote", request=Row, response=Scored, features=[getattr(Row, f"f{index}") for index in range(24)],
    model=tr.RemoteModel("fraud", url=os.environ["REMOTE_MODEL_URL"]), budget=tr.Budget("500ms"),
)  # fmt: skip
