"""The same model behind mosec, as its documentation has it: a fixed batch size and a fixed wait.

python mosec_app.py --port 8000, with MODEL (the .onnx file), FEATURES, BATCH and WAIT_MS in the environment.
"""

import os

import msgspec
import numpy as np
import onnxruntime
from mosec import Server, Worker

NAMES = os.environ["FEATURES"].split(",")
BATCH = int(os.environ["BATCH"])
Row = msgspec.defstruct("Row", [(name, float) for name in NAMES])


class Mlp(Worker):
    """Scores rows together, on one thread, as Tailrace's model does."""

    def __init__(self) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
        self._decode = msgspec.json.Decoder(Row).decode

    def deserialize(self, data: bytes) -> tuple[float, ...]:
        """Read one body."""
        return msgspec.structs.astuple(self._decode(data))

    def serialize(self, data: float) -> bytes:
        """Write one answer."""
        return msgspec.json.encode({"score": data})

    def forward(self, data):  # type: ignore[no-untyped-def]
        """Score a batch, which mosec hands over as a row where batches have one."""
        rows = data if BATCH > 1 else [data]
        scores = self._session.run(None, {"x": np.array(rows, np.float32)})[0][:, 0].tolist()
        return scores if BATCH > 1 else scores[0]


if __name__ == "__main__":
    server = Server()
    more = {"max_batch_size": BATCH, "max_wait_time": int(os.environ["WAIT_MS"])} if BATCH > 1 else {}
    server.append_worker(Mlp, num=1, **more)
    server.run()
