"""The node's side: reads streams, keeps windows, scores with ONNX Runtime, alerts, survives."""

__version__ = "0.1.0"
