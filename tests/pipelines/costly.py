"""Two models that cost the same for every row: half a millisecond (it runs on the loop) and two (on the thread)."""

from dataclasses import replace

import tailrace as tr


class Job(tr.Request):
    job_id: int


class Level(tr.Response):
    job_id: int
    score: float


costly_inline = tr.Pipeline(
    name="costly_inline",
    request=Job,
    response=Level,
    features=[Job.job_id],
    model=tr.Model("costly_inline"),
    budget=tr.Budget("200ms"),
)
costly_threaded = replace(costly_inline, name="costly_threaded", model=tr.Model("costly_threaded"))
