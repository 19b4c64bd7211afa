"""Category codes → 64 independent bits, for sketches.

The finaliser of SplitMix64 (Steele, Lea & Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014,
figure 17). It is a bijection, so codes that differ stay different.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core.batch import Int32

_GOLDEN = 0x9E3779B97F4A7C15


def mixed(codes: Int32, salt: int = 0) -> NDArray[np.uint64]:
    """Shape as `codes`; another `salt` gives other bits."""
    z = codes.astype(np.uint64) + np.uint64((salt + 1) * _GOLDEN & 0xFFFFFFFFFFFFFFFF)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
