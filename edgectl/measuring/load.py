"""Readings in the usual range of a bundle's channels, as JSON lines: what `edgectl bench` feeds it with."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
from edgectl_agent.config import Fields
from edgectl_agent.core.batch import Float64
from edgectl_agent.core.bundle import Bundle, Channel
from edgectl_agent.core.units import SECOND_NS

_START_NS = 1_767_571_200 * SECOND_NS
_CATEGORY_VALUES = 20
_SEED = 1


def fields(bundle: Bundle) -> Fields:
    """How the lines of `rounds` are to be read."""
    spec = bundle.features
    return Fields(
        stream="stream",
        time="time",
        channels={channel.name: f"v.c{i}" for i, channel in enumerate(spec.channels)},
        categories={category: f"k.c{i}" for i, category in enumerate(spec.categories)},
    )


def rounds(bundle: Bundle, streams: int) -> Iterator[list[bytes]]:
    """For ever: one reading of each stream, as far apart as those that the model was trained on."""
    spec, rng = bundle.features, np.random.default_rng(_SEED)
    channels, categories = ([f"c{i}" for i in range(len(names))] for names in (spec.channels, spec.categories))
    center, spread = (np.array(numbers) for numbers in zip(*(_usual(bundle, c) for c in spec.channels), strict=True))
    of = [f"stream-{i:06}" for i in range(streams)]
    late_ns = (np.arange(streams) * bundle.tail.interval_ns // streams).tolist()
    number = 0
    while True:
        values: Float64 = center + spread * np.clip(rng.normal(0, 0.5, (streams, len(channels))), -1, 1)
        codes = rng.integers(0, _CATEGORY_VALUES, (streams, len(categories))).tolist()
        start_ns = _START_NS + number * bundle.tail.interval_ns
        yield [
            msgspec.json.encode(
                {
                    "time": (start_ns + late_ns[i]) // 1_000_000,
                    "stream": of[i],
                    "v": dict(zip(channels, row, strict=True)),
                    "k": {name: f"value-{code}" for name, code in zip(categories, codes[i], strict=True)},
                }
            )
            for i, row in enumerate(np.round(values, 4).tolist())
        ]
        number += 1


def _usual(bundle: Bundle, channel: Channel) -> tuple[float, float]:
    """Middle and spread of a channel: of its own value among the features, of its mean, or of its range."""
    low, high = channel.low if channel.low is not None else -1.0, channel.high if channel.high is not None else 1.0
    for i, name in enumerate(bundle.feature_names):
        if name == channel.name or name.startswith(f"{channel.name}.mean"):
            return bundle.scaler.center[i], bundle.scaler.scale[i]
    return (low + high) / 2, abs(high - low) / 100
