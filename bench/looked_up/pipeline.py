"""The features that a feature server gives, and nothing else: twenty columns of two entities, all of them answered.

`bench/feast_peer.py` makes what is under BUILD.
"""

import tailrace as tr

BUILD = "../../build/bench/looked-up"
ROWS = "../../build/bench/streamed"


class Ask(tr.Request):
    """Whom it is about."""

    customer_id: int
    terminal_id: int


class Told(tr.Response):
    """What is known of both."""

    score: float
    customer_count_5m: int
    customer_count_1h: int
    customer_count_1d: int
    customer_count_7d: int
    customer_count_30d: int
    customer_mean_5m: float
    customer_mean_1h: float
    customer_mean_1d: float
    customer_mean_7d: float
    customer_mean_30d: float
    terminal_count_5m: int
    terminal_count_1h: int
    terminal_count_1d: int
    terminal_count_7d: int
    terminal_count_30d: int
    terminal_mean_5m: float
    terminal_mean_1h: float
    terminal_mean_1d: float
    terminal_mean_7d: float
    terminal_mean_30d: float


class CustomerProfile(tr.BatchFeatureView):
    """What is known of a customer."""

    entity = tr.Entity("customer", key="customer_id")
    source = tr.Parquet(f"{ROWS}/customers.parquet")
    customer_count_5m: int = 0
    customer_count_1h: int = 0
    customer_count_1d: int = 0
    customer_count_7d: int = 0
    customer_count_30d: int = 0
    customer_mean_5m: float = 0.0
    customer_mean_1h: float = 0.0
    customer_mean_1d: float = 0.0
    customer_mean_7d: float = 0.0
    customer_mean_30d: float = 0.0


class TerminalProfile(tr.BatchFeatureView):
    """What is known of a terminal."""

    entity = tr.Entity("terminal", key="terminal_id")
    source = tr.Parquet(f"{ROWS}/terminals.parquet")
    terminal_count_5m: int = 0
    terminal_count_1h: int = 0
    terminal_count_1d: int = 0
    terminal_count_7d: int = 0
    terminal_count_30d: int = 0
    terminal_mean_5m: float = 0.0
    terminal_mean_1h: float = 0.0
    terminal_mean_1d: float = 0.0
    terminal_mean_7d: float = 0.0
    terminal_mean_30d: float = 0.0


looked_up = tr.Pipeline(
    name="looked_up", request=Ask, response=Told, features=[CustomerProfile, TerminalProfile],
    model=tr.Model("constant", path=f"{BUILD}/constant"), budget=tr.Budget("500ms"),
)  # fmt: skip
