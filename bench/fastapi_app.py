"""The peer: the fraud example as a FastAPI application, written as the documentation of its parts recommends.

The same model, rows, on-demand features, bands, rule and answer as examples/fraud/nightly.py, one request at a time:
pydantic validates, LMDB is read or Redis asked with one MGET, ONNX Runtime scores, a Prometheus histogram counts.

    FRAUD_STORE=build/fraud/store FRAUD_MODEL=build/fraud/model/model.onnx FRAUD_KEYS='{customer:%d}… {terminal:%d}…'
    uvicorn fastapi_app:app --http httptools
"""

import os
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any, Literal

import lmdb
import numpy as np
import onnxruntime
import redis.asyncio
from fastapi import FastAPI, Request
from prometheus_client import Counter, Histogram, make_asgi_app
from pydantic import BaseModel, ConfigDict, Field

Rows = list[bytes | None]
Read = Callable[[list[bytes]], Awaitable[Rows]]
Close = Callable[[], Awaitable[None]]

HEADER_BYTES = 32
CUSTOMER = struct.Struct("<4q7d")
TERMINAL = struct.Struct("<4q5d")
CUSTOMER_KEY, TERMINAL_KEY = map(str.encode, os.environ["FRAUD_KEYS"].split())
UNKNOWN_CUSTOMER = (0,) * 11
UNKNOWN_TERMINAL = (0,) * 9

LATENCY = Histogram("predict_seconds", "Time of one prediction.", buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5))
DECISIONS = Counter("decisions_total", "Decisions.", ["decision"])


class Payment(BaseModel):
    """A card payment that waits for an answer."""

    model_config = ConfigDict(extra="forbid")

    transaction_id: str
    customer_id: int
    terminal_id: int
    amount: Annotated[float, Field(ge=0, le=100_000, allow_inf_nan=False)]
    time: datetime


class Decision(BaseModel):
    """What becomes of it."""

    transaction_id: str
    decision: Literal["allow", "review", "block"]
    score: float
    reasons: list[str]


def open_lmdb(path: str) -> tuple[Read, Close]:
    """Return how rows are read from an LMDB environment, and how it is closed."""
    environment = lmdb.open(path, readonly=True, lock=False, readahead=False)

    async def read(keys: list[bytes]) -> Rows:
        with environment.begin(buffers=False) as transaction:
            return [transaction.get(key) for key in keys]

    async def close() -> None:
        environment.close()

    return read, close


def open_redis(url: str) -> tuple[Read, Close]:
    """Return how rows are read from Redis, and how it is closed."""
    client = redis.asyncio.Redis.from_url(url)
    read: Any = client.mget
    return read, client.aclose


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the model once, and open the store."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    app.state.session = onnxruntime.InferenceSession(os.environ["FRAUD_MODEL"], options)
    store = os.environ["FRAUD_STORE"]
    app.state.read, close = open_redis(store) if store.startswith("redis:") else open_lmdb(store)
    yield
    await close()


app = FastAPI(lifespan=lifespan)
app.mount("/metrics", make_asgi_app())


@app.get("/readyz")
async def readyz() -> str:
    """Say that the model is loaded."""
    return "ready"


@app.post("/predict")
async def predict(payment: Payment, request: Request) -> Decision:
    """Decide on one payment."""
    with LATENCY.time():
        rows = await request.app.state.read([CUSTOMER_KEY % payment.customer_id, TERMINAL_KEY % payment.terminal_id])
        customer = CUSTOMER.unpack_from(rows[0], HEADER_BYTES) if rows[0] else UNKNOWN_CUSTOMER
        terminal = TERMINAL.unpack_from(rows[1], HEADER_BYTES) if rows[1] else UNKNOWN_TERMINAL
        features = np.array([[*on_demand(payment, customer), *customer, *terminal]], dtype=np.float32)
        score = float(request.app.state.session.run(["score"], {"features": features})[0].ravel()[0])
        decision, reasons = decide(payment, score)
    DECISIONS.labels(decision).inc()
    return Decision(transaction_id=payment.transaction_id, decision=decision, score=score, reasons=reasons)


def on_demand(payment: Payment, customer: tuple[float, ...]) -> tuple[float, ...]:
    """Return the features that are computed from the request: amount, ratio, z-score, hour."""
    avg_amount_30d, avg_amount_90d, std_amount_90d = customer[5:8]
    return (
        payment.amount,
        payment.amount / max(avg_amount_30d, 1.0),
        (payment.amount - avg_amount_90d) / max(std_amount_90d, 1.0),
        payment.time.hour,
    )


def decide(payment: Payment, score: float) -> tuple[Literal["allow", "review", "block"], list[str]]:
    """Return the band of a score, and the codes of the rules that hold."""
    if payment.amount < 10:
        return "allow", ["small_amount"]
    return ("block" if score >= 0.5 else "review" if score >= 0.1 else "allow"), []
