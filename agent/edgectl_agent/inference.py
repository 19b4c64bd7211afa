"""Runs a bundle's model; the only file that knows ONNX Runtime."""

from __future__ import annotations

import os

import numpy as np

from edgectl_agent.core.batch import Float32
from edgectl_agent.core.bundle import Golden
from edgectl_agent.core.errors import AdmissionError

# Else its wheels for Linux report to Microsoft, under an id that they keep in the home; it begins with the import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort

_ROWS = 8
"""Rows are padded to a multiple of this. The matrix kernels of ONNX Runtime treat the last rows of a batch that does
not fill a tile differently, in the last bit; padded, a row's score does not depend on the batch it arrives in."""


class Model:
    """One ONNX session with one thread and no arena: a node has more to do than to score."""

    def __init__(self, onnx_bytes: bytes) -> None:
        """Load the model.

        Raises:
            AdmissionError: ONNX Runtime refuses it, or it is not ``features`` (n, F) → ``score``.
        """
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False  # shapes change with every batch
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])
        except Exception as e:  # ONNX Runtime raises its own family, partly RuntimeError
            raise AdmissionError(f"ONNX Runtime cannot load the model: {_first_line(e)}", reason="unloadable") from e
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if [i.name for i in inputs] != ["features"] or "score" not in [o.name for o in outputs]:
            mapped = f"{[i.name for i in inputs]} to {[o.name for o in outputs]}"
            raise AdmissionError(
                f"model maps {mapped}, expected ['features'] to ['score']",
                reason="signature",
            )
        self._tile: _Tile | None = None
        """For few rows, once an answer has shown its shape."""

    def score(self, x: Float32) -> Float32:
        """Scores of standardised features.

        Args:
            x: shape (n, F), float32.

        Returns:
            shape (n,), float32; row i depends on ``x[i]`` alone.

        Raises:
            AdmissionError: the model fails on this input, or answers with another shape.
        """
        n = len(x)
        if n == 0:
            return np.empty(0, np.float32)
        if self._tile is not None and n <= _ROWS and x.shape[1] == self._tile.width:
            try:
                return self._tile.score(x)
            except Exception as e:
                raise _failure(n, x.shape[1], e) from e
        if n % _ROWS:
            padded = np.zeros((n + -n % _ROWS, x.shape[1]), np.float32)
            padded[:n] = x
            x = padded
        try:
            score = np.asarray(self._session.run(["score"], {"features": x})[0])
        except Exception as e:
            raise _failure(n, x.shape[1], e) from e
        if score.size != len(x) or score.dtype != np.float32:
            raise AdmissionError(
                f"model answers {score.dtype}{score.shape} for {len(x)} rows, expected float32({len(x)},)"
            )
        if self._tile is None and len(x) == _ROWS:
            self._tile = _Tile(self._session, x.shape[1], score.shape)
        return score.reshape(-1)[:n]


class _Tile:
    """Up to `_ROWS` rows in memory that the session is bound to for good: half of what a call of `run` costs."""

    def __init__(self, session: ort.InferenceSession, width: int, answer: tuple[int, ...]) -> None:
        self.width = width
        self._session, self._binding = session, session.io_binding()
        self._rows, score = np.zeros((_ROWS, width), np.float32), np.zeros(answer, np.float32)
        self._used, self._score = 0, score.reshape(-1)
        binding, rows = self._binding, self._rows
        binding.bind_input("features", "cpu", 0, np.float32, rows.shape, rows.ctypes.data)
        binding.bind_output("score", "cpu", 0, np.float32, score.shape, score.ctypes.data)

    def score(self, x: Float32) -> Float32:
        """As `Model.score`. Raises whatever ONNX Runtime does."""
        n = len(x)
        self._rows[:n] = x
        if n < self._used:  # a quantised model sees all rows together
            self._rows[n : self._used] = 0.0
        self._used = n
        self._session.run_with_iobinding(self._binding)
        return self._score[:n].copy()


def golden_error(model: Model, golden: Golden, width: int) -> float:
    """Largest deviation from the golden scores in units of the tolerance; at most 1 passes, infinite for a NaN.

    Raises:
        AdmissionError: as `Model.score` does.
    """
    inputs = np.frombuffer(golden.inputs, "<f4").reshape(golden.rows, width)
    expected = np.frombuffer(golden.scores, "<f4").astype(np.float64)
    found = model.score(np.ascontiguousarray(inputs, np.float32)).astype(np.float64)
    if not np.isfinite(found).all():
        return float("inf")
    deviation = np.abs(found - expected) / np.maximum(1.0, np.abs(expected))
    return float(deviation.max() / golden.tolerance)


def _failure(rows: int, width: int, error: Exception) -> AdmissionError:
    return AdmissionError(f"model fails on {rows} rows of {width} features: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
