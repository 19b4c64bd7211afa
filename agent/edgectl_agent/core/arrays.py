"""Numpy arrays as plain values, so that a snapshot can hold them: dtype, shape and bytes (little-endian, C order); and
`planes`, how they lie in memory where it matters.

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

_LINE = 8
"""Numbers in a cache line."""


def planes(*shape: int) -> NDArray[np.float64]:
    """Uninitialised, its rows along the last axis an odd number of cache lines apart.

    Where they are a power of two apart, as in a batch of 4,096 readings, a column's numbers share one set of the cache
    and push each other out of it: to transpose such an array takes six times as long.
    """
    lines = -(-shape[-1] // _LINE) | 1
    return np.empty((*shape[:-1], lines * _LINE))[..., : shape[-1]]


def columns(of: NDArray[np.float64], places: NDArray[np.int64]) -> NDArray[np.float64]:
    """Some columns of `planes`, taken with what lies between its rows: numpy would first copy all to leave that out."""
    whole = of.base
    if isinstance(whole, np.ndarray) and whole.shape[:-1] == of.shape[:-1] and whole.ctypes.data == of.ctypes.data:
        of = whole
    return of.take(places, axis=-1)


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
