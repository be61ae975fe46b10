"""Card fraud on last night's profiles alone: what was served before there were windows over events.

The request, the decision and the address of pipeline.py, with a model and a store of its own. The demonstration counts
what the windows add to it.
"""

from dataclasses import replace

import pipeline
from pipeline import BUILD, CustomerProfile, Payment, TerminalProfile, amount_ratio, amount_zscore, hour

import tailrace as tr

fraud = replace(
    pipeline.fraud,
    features=[Payment.amount, amount_ratio, amount_zscore, hour, CustomerProfile, TerminalProfile],
    model=tr.Model("nightly", path=f"{BUILD}/nightly", fallback=tr.Constant(0.5)),
    store=f"lmdb:{BUILD}/nightly_store",
    record_requests=False,
)
