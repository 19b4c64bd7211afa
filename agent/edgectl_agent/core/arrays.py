"""Numpy arrays as plain values, so that a snapshot can hold them: dtype, shape and bytes (little-endian, C order).

Round-trip law: ``unpack_array(pack_array(a))`` equals ``a`` in dtype, shape and every bit (NaN payloads and ``-0.0``
included), and still does after a trip through msgpack, which turns tuples into lists.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core.errors import StorageError

_KINDS = "biufSU"
_DTYPE = re.compile(r"[<>|]?[biufSU]\d{1,9}")
"""Booleans, integers, floats, fixed-width bytes and text: what has a value of its own. An object is a pointer."""


def pack_array(a: NDArray[Any]) -> dict[str, Any]:
    """``{"dtype": "<f8", "shape": (n, …), "data": bytes}``.

    Raises:
        TypeError: the dtype is not boolean, number or fixed-width text (objects, dates, records).
    """
    if a.dtype.kind not in _KINDS:
        raise TypeError(f"an array of dtype {a.dtype} cannot be packed, expected booleans, numbers or fixed-width text")
    little = a.dtype.newbyteorder("<")
    return {"dtype": little.str, "shape": tuple(a.shape), "data": a.astype(little, copy=False).tobytes("C")}


def unpack_array(d: dict[str, Any]) -> NDArray[Any]:
    """A writable array of its own memory, in the machine's byte order.

    Raises:
        StorageError: not what `pack_array` makes: a missing key, another dtype, or a size that contradicts the shape.
    """
    try:
        if _DTYPE.fullmatch(d["dtype"]) is None:  # numpy would evaluate what it does not know
            raise ValueError(f"unknown dtype {d['dtype'][:40]!r}")
        dtype, shape, data = np.dtype(d["dtype"]), tuple(int(n) for n in d["shape"]), bytes(d["data"])
    except (KeyError, TypeError, ValueError, OverflowError) as e:
        raise StorageError(f"packed array is not readable: {e!r}", reason="damaged") from e
    if dtype.kind not in _KINDS or dtype.hasobject:
        raise StorageError(f"packed array has the dtype {dtype}, expected numbers or text", reason="damaged")
    if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != len(data):
        raise StorageError(f"packed array of shape {shape} and dtype {dtype} has {len(data)} bytes", reason="damaged")
    return np.ndarray(shape, dtype, data).astype(dtype.newbyteorder("="), copy=True)
