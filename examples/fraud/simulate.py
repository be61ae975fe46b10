"""Card transactions that never happened: customers, terminals, and four kinds of fraud.

The method is that of the simulator in the Fraud Detection Handbook (Le Borgne, Siblini, Lebichot, Bontempi:
"Reproducible Machine Learning for Credit Card Fraud Detection", Université Libre de Bruxelles, chapter 3.2,
https://fraud-detection-handbook.github.io), written anew on columns:

- A customer has a place on a 100 × 100 map, a mean amount and a mean number of transactions a day, and uses the
  terminals within a radius. The number a day is Poisson, the time of day normal around noon, the amount normal.
- Fraud 1: every amount over 220. Fraud 2: terminals are compromised each day and every transaction on them is
  fraudulent for 28 days. Fraud 3: cards are stolen each day, and for 14 days a third of their customers' transactions
  are fraudulent, at five times the amount.

The Handbook compromises 2 of 10,000 terminals and 3 of 5,000 customers a day; these rates are kept at any size. It has
no fraud that begins and ends within a day, so there is one more kind here. Fraud 4: one customer in 1,000 a day has the
card's number used up within half an hour, in 4 to 12 payments of usual amounts at terminals anywhere.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

DAY_S: Final = 86_400
MAP_SIZE: Final = 100.0
AMOUNT_FRAUD_MIN: Final = 220.0
TERMINALS_COMPROMISED_RATE: Final = 2 / 10_000
TERMINAL_COMPROMISED_DAYS: Final = 28
CUSTOMERS_COMPROMISED_RATE: Final = 3 / 5_000
CUSTOMER_COMPROMISED_DAYS: Final = 14
CUSTOMER_FRAUD_SHARE: Final = 1 / 3
CUSTOMER_FRAUD_FACTOR: Final = 5.0
BURST_S: Final = 1_800
BURST_PAYMENTS: Final = (4, 12)

Columns = dict[str, NDArray[Any]]
Advance = Callable[[str], None]
"""Told the name of each step as it begins."""


@dataclass(frozen=True, slots=True)
class World:
    """What is simulated: how many customers and terminals, for how many days from `start`, drawn from `seed`.

    bursts: the share of customers whose card is used up by a thief on a day.
    """

    customers: int = 10_000
    terminals: int = 10_000
    days: int = 60
    start: date = date(2018, 4, 1)
    radius: float = 5.0
    transactions_a_day_max: float = 4.0
    bursts: float = 1 / 1_000
    seed: int = 7


STEPS: Final = ("customers and terminals", "transactions", "frauds", "sorting")


def simulate(world: World, advance: Advance = lambda _: None) -> pa.Table:
    """Return the transactions of a world in the order of time, in the Handbook's columns and types."""
    random = np.random.default_rng(world.seed)
    advance(STEPS[0])
    customers = draw_customers(random, world)
    nearby, offsets = find_terminals(random, world, customers)
    advance(STEPS[1])
    columns = draw_transactions(random, world, customers, nearby, offsets)
    advance(STEPS[2])
    add_frauds(random, world, columns)
    bursts = draw_bursts(random, world, customers)
    columns = {name: np.concatenate((column, bursts[name])) for name, column in columns.items()}
    advance(STEPS[3])
    return to_table(world, columns)


def draw_customers(random: np.random.Generator, world: World) -> Columns:
    """Return a row for each customer: a place, a mean amount and its spread, transactions a day."""
    amount = random.uniform(5.0, 100.0, world.customers)
    return {
        "place": random.uniform(0.0, MAP_SIZE, (world.customers, 2)),
        "amount_mean": amount,
        "amount_std": amount / 2,
        "transactions_a_day": random.uniform(0.0, world.transactions_a_day_max, world.customers),
    }


def find_terminals(
    random: np.random.Generator, world: World, customers: Columns
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the terminals within reach of each customer, one list after the other, and where each list begins."""
    places = random.uniform(0.0, MAP_SIZE, (world.terminals, 2))
    lists, counts = [], [0]
    for chunk in np.array_split(customers["place"], max(1, world.customers // 256)):
        x, y = (chunk[:, axis, None] - places[None, :, axis] for axis in (0, 1))
        near = x * x + y * y < world.radius**2
        lists.append(np.nonzero(near)[1].astype(np.int32))
        counts.extend(near.sum(axis=1))
    return np.concatenate(lists), np.cumsum(counts, dtype=np.int64)


def draw_transactions(
    random: np.random.Generator,
    world: World,
    customers: Columns,
    nearby: NDArray[np.int32],
    offsets: NDArray[np.int64],
) -> Columns:
    """Return the genuine transactions, unordered: customer, terminal, day, second of the simulation, amount."""
    reach = np.diff(offsets)
    rate = np.where(reach > 0, customers["transactions_a_day"], 0.0)
    counts = random.poisson(rate[:, None], (world.customers, world.days)).ravel()
    slots = np.repeat(np.arange(counts.size), counts)
    second = random.normal(DAY_S / 2, 20_000, slots.size).astype(np.int64)
    slots, second = (values[(second > 0) & (second < DAY_S)] for values in (slots, second))
    customer, day = np.divmod(slots, world.days)
    mean = customers["amount_mean"][customer]
    amount = random.normal(mean, customers["amount_std"][customer])
    amount = np.where(amount < 0, random.uniform(0.0, 2 * mean), amount)
    chosen = offsets[customer] + (random.random(customer.size) * reach[customer]).astype(np.int64)
    return {
        "customer": customer,
        "terminal": nearby[chosen],
        "day": day,
        "second": day * DAY_S + second,
        "amount": amount.round(2),
    }


def add_frauds(random: np.random.Generator, world: World, columns: Columns) -> None:
    """Add the column `scenario` (0 where genuine) by the three kinds of fraud, and raise the amounts of the third."""
    day, amount = columns["day"], columns["amount"]
    scenario = np.where(amount > AMOUNT_FRAUD_MIN, 1, 0)
    terminals = draw_compromised(
        random, world.terminals, world.days, TERMINALS_COMPROMISED_RATE, TERMINAL_COMPROMISED_DAYS
    )
    scenario[terminals[columns["terminal"], day]] = 2
    customers = draw_compromised(
        random, world.customers, world.days, CUSTOMERS_COMPROMISED_RATE, CUSTOMER_COMPROMISED_DAYS
    )
    stolen = customers[columns["customer"], day] & (random.random(day.size) < CUSTOMER_FRAUD_SHARE)
    scenario[stolen] = 3
    columns["amount"] = np.where(stolen, amount * CUSTOMER_FRAUD_FACTOR, amount).round(2)
    columns["scenario"] = scenario


def draw_bursts(random: np.random.Generator, world: World, customers: Columns) -> Columns:
    """Return the payments of the fourth kind of fraud, unordered."""
    a_day = min(world.customers, round(world.bursts * world.customers))
    customer = np.array(
        [random.choice(world.customers, a_day, replace=False) for _ in range(world.days)], np.int64
    ).reshape(-1)
    day = np.repeat(np.arange(world.days), a_day)
    begin = random.integers(0, DAY_S - BURST_S, customer.size)
    burst = np.repeat(
        np.arange(customer.size), random.integers(BURST_PAYMENTS[0], BURST_PAYMENTS[1] + 1, customer.size)
    )
    customer, day = customer[burst], day[burst]
    amount = np.abs(random.normal(customers["amount_mean"][customer], customers["amount_std"][customer]))
    return {
        "customer": customer,
        "terminal": random.integers(0, world.terminals, burst.size),
        "day": day,
        "second": day * DAY_S + begin[burst] + random.integers(0, BURST_S, burst.size),
        "amount": np.maximum(amount, 0.01).round(2),
        "scenario": np.full(burst.size, 4),
    }


def draw_compromised(
    random: np.random.Generator, count: int, days: int, rate: float, duration_days: int
) -> NDArray[np.bool_]:
    """Return which of `count` is compromised on which day, shape (count, days): `rate` of them anew each day."""
    table = np.zeros((count, days), dtype=bool)
    for day in range(days):
        chosen = random.choice(count, size=min(count, max(1, round(rate * count))), replace=False)
        table[chosen, day : day + duration_days] = True
    return table


def to_table(world: World, columns: Columns) -> pa.Table:
    """Return the columns under the Handbook's names and types, ordered by time."""
    import pyarrow as pa

    order = np.argsort(columns["second"], kind="stable")
    second, scenario = columns["second"][order], columns["scenario"][order]
    time = np.datetime64(world.start, "ns") + second * np.timedelta64(1_000_000_000, "ns")
    return pa.table(
        {
            "TRANSACTION_ID": np.arange(order.size, dtype=np.int32),
            "TX_DATETIME": time,
            "CUSTOMER_ID": columns["customer"][order].astype(np.int32),
            "TERMINAL_ID": columns["terminal"][order].astype(np.int32),
            "TX_AMOUNT": columns["amount"][order].astype(np.float32),
            "TX_TIME_SECONDS": second.astype(np.int32),
            "TX_TIME_DAYS": columns["day"][order].astype(np.int32),
            "TX_FRAUD": (scenario > 0).astype(np.int8),
            "TX_FRAUD_SCENARIO": scenario.astype(np.int8),
        }
    )


def parse_args(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    world = World()
    parser = argparse.ArgumentParser(
        description="Simulate card payments with four kinds of fraud, and write them to a Parquet file.",
        epilog="example: python examples/fraud/simulate.py build/transactions.parquet --customers 5000 --days 30",
    )
    parser.add_argument("out", type=Path, help="the Parquet file to write")
    parser.add_argument("--customers", type=int, default=world.customers, help="default: %(default)s")
    parser.add_argument("--terminals", type=int, default=world.terminals, help="default: %(default)s")
    parser.add_argument("--days", type=int, default=world.days, help="default: %(default)s")
    parser.add_argument("--start", type=date.fromisoformat, default=world.start, help="first day; default: %(default)s")
    parser.add_argument("--seed", type=int, default=world.seed, help="the same seed, the same file")
    options = parser.parse_args(arguments)
    if min(options.customers, options.terminals, options.days) < 1:
        parser.error("--customers, --terminals and --days must be at least 1")
    return options


def main(arguments: list[str]) -> int:
    """Simulate and write the file."""
    import pyarrow.parquet as pq
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    options = parse_args(arguments)
    world = World(options.customers, options.terminals, options.days, options.start, seed=options.seed)
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("simulating", total=len(STEPS) + 1)

        def advance(step: str) -> None:
            progress.update(task, description=f"simulating: {step}", advance=1)

        table = simulate(world, advance)
        advance("writing")
        options.out.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, options.out, compression="zstd")
    frauds = int(np.sum(table["TX_FRAUD"].to_numpy()))
    last = world.start + timedelta(days=world.days - 1)
    print(f"{options.out}: {table.num_rows:,} transactions, {frauds:,} fraudulent, {world.start} to {last}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
