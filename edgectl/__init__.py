"""The operator's side: trains, signs, deploys, watches and rolls back anomaly detectors on a fleet of edge nodes."""

__version__ = "0.1.0"
