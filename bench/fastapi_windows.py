"""The peer of stream views: the same windows written by hand, a sorted set a customer and a terminal in Redis.

As it is commonly done: a payment is a member, its time the score; the members of thirty days are read in one pipeline,
and counted and averaged in Python. The same model through ONNX Runtime, one request at a time.

    WINDOWS_STORE=redis://… WINDOWS_MODEL=build/bench/streamed/stream/model.onnx uvicorn fastapi_windows:app
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import numpy as np
import onnxruntime
import redis.asyncio
from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field

WINDOWS_S = (300, 3_600, 86_400, 7 * 86_400, 30 * 86_400)


class Payment(BaseModel):
    """A card payment that waits for an answer."""

    model_config = ConfigDict(extra="forbid")

    transaction_id: int
    customer_id: int
    terminal_id: int
    amount: Annotated[float, Field(ge=0, le=100_000, allow_inf_nan=False)]
    time: datetime


class Decision(BaseModel):
    """What becomes of it."""

    decision: str
    score: float
    customer_count_5m: int


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the model once, and connect."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    app.state.session = onnxruntime.InferenceSession(os.environ["WINDOWS_MODEL"], options)
    app.state.redis = redis.asyncio.Redis.from_url(os.environ["WINDOWS_STORE"])
    yield
    await app.state.redis.aclose()


app = FastAPI(lifespan=lifespan)


@app.get("/readyz")
async def readyz() -> str:
    """Say that the model is loaded."""
    return "ready"


@app.post("/predict")
async def predict(payment: Payment, request: Request) -> Decision:
    """Decide on one payment."""
    now = payment.time.replace(tzinfo=payment.time.tzinfo or UTC)
    now_s = now.timestamp()
    begins = [(now_s - length) // max(1, length // 60) * max(1, length // 60) for length in WINDOWS_S]
    async with request.app.state.redis.pipeline(transaction=False) as pipeline:
        for key in (f"customer:{payment.customer_id}", f"terminal:{payment.terminal_id}"):
            pipeline.zrangebyscore(key, begins[-1], f"({now_s}", withscores=True)
        members = await pipeline.execute()
    customer, terminal = (windows(found, begins) for found in members)
    features: Any = [payment.amount, payment.amount / max(customer[9], 1.0), now.hour, now_s // 86_400 % 7]
    matrix = np.array([[*features, *customer, *terminal]], dtype=np.float32)
    score = float(request.app.state.session.run(["score"], {"features": matrix})[0].ravel()[0])
    decision = "block" if score >= 0.9 else "review" if score >= 0.5 else "allow"
    return Decision(decision=decision, score=score, customer_count_5m=int(customer[0]))


def windows(members: list[tuple[bytes, float]], begins: list[float]) -> list[float]:
    """Return the counts of all windows, then the means."""
    counts, cents = [0] * len(begins), [0] * len(begins)
    for member, time_s in members:
        amount = int(member.rpartition(b":")[2])
        for place, begin_s in enumerate(begins):
            if time_s >= begin_s:
                counts[place] += 1
                cents[place] += amount
    return [*counts, *(total / 100 / count if count else 0.0 for total, count in zip(cents, counts, strict=True))]
