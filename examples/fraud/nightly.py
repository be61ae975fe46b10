"""Card fraud on last night's profiles alone: what was served before there were windows over events.

The same request, decision and address as pipeline.py, with a model of its own. The demonstration counts what the
windows add to it.
"""

from pipeline import (
    BUILD,
    CustomerProfile,
    Decision,
    Payment,
    TerminalProfile,
    amount_ratio,
    amount_zscore,
    hour,
)

import tailrace as tr

fraud = tr.Pipeline(
    name="fraud",
    request=Payment,
    response=Decision,
    features=[Payment.amount, amount_ratio, amount_zscore, hour, CustomerProfile, TerminalProfile],
    model=tr.Model("nightly", path=f"{BUILD}/nightly", fallback=tr.Constant(0.5)),
    decision=tr.bands("score", allow=0.0, review=0.1, block=0.5),
    rules=[tr.Rule("small_amount", when=lambda request: request.amount < 10, then="allow")],
    budget=tr.Budget("50ms", request="2ms", features="15ms", inference="20ms", postprocess="3ms", response="2ms"),
    store=f"lmdb:{BUILD}/store",
    time="time",
)
