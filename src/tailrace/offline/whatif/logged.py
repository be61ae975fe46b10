"""What a prediction log has of a pipeline, as lines of a sample: requests with the features that they were served."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from tailrace.compile.resolve import wire
from tailrace.errors import SetupError
from tailrace.pipeline import Pipeline


class LoggedLines:
    """The requests of a log of one of two pipelines. rows: its lines. Raises SetupError where neither has any.

    since_ns, until_ns: of answers, since the epoch.
    """

    def __init__(
        self, root: Path, pipelines: tuple[Pipeline, Pipeline], since_ns: int | None, until_ns: int | None
    ) -> None:
        try:
            from tailrace.monitor.log.listing import log_pipelines
            from tailrace.monitor.log.reader import LogReader
        except ImportError as error:
            raise SetupError(f"reading a log needs {error.name}", next="pip install 'tailrace[arrow]'") from None
        known = log_pipelines(root)
        logged = [each for each in pipelines if each.name in known]
        if not logged:
            raise SetupError(f"there is no log of pipeline {pipelines[0].name!r}", where=str(root),
                             next="give what `serve --log` was given, or a file of requests")  # fmt: skip
        self._reader = LogReader(root, logged[0].name, since_ns=since_ns, until_ns=until_ns)
        self._expands = wire(logged[0]).expanded is not None
        self.rows = sum(span.rows for lines in self._reader.files for span in lines.spans)

    @property
    def weighs(self) -> bool:
        """Whether some lines stand for more requests than others: a share is kept, and all that went badly."""
        import pyarrow.compute as pc

        shares = (batch.column(0) for batch in self._reader.batches(["share"]) if batch.num_columns)
        ends = (pc.min_max(each).as_py() for each in shares)
        return len({each[end] for each in ends for end in ("min", "max")} - {None}) > 1

    def lines(self) -> Iterator[tuple[int, str, bytes]]:
        """Give each request that has a score as a line of a sample, with how many there were and what it is called."""
        from tailrace.offline.log.samples import log_samples

        encode = msgspec.json.Encoder().encode
        for place, sample in enumerate(log_samples(self._reader, expands=self._expands), 1):
            if sample is not None:
                yield place, f"{self._reader.pipeline}:{sample.request_id or place}", encode(sample)
