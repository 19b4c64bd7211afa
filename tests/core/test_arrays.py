from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as hnp
import msgspec
import numpy as np
import pytest
from edgectl_agent.core.arrays import pack_array, unpack_array
from edgectl_agent.core.errors import StorageError
from hypothesis import given
from numpy.typing import NDArray

DTYPES = hnp.boolean_dtypes() | hnp.integer_dtypes(endianness="?") | hnp.floating_dtypes(endianness="?")


@given(hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=5)))
def test_a_packed_array_comes_back_to_the_last_bit_through_msgpack(a: NDArray[Any]) -> None:
    back = unpack_array(msgspec.msgpack.decode(msgspec.msgpack.encode(pack_array(a))))

    assert back.shape == a.shape
    assert back.dtype == a.dtype.newbyteorder("=")
    assert back.tobytes() == a.astype(a.dtype.newbyteorder("=")).tobytes()


def test_an_unpacked_array_is_writable_and_shares_no_memory() -> None:
    packed = pack_array(np.arange(4))
    first = unpack_array(packed)
    first[:] = 9

    assert unpack_array(packed).tolist() == [0, 1, 2, 3]


def test_a_strided_view_packs_its_own_elements_alone() -> None:
    view = np.arange(12, dtype=np.int32).reshape(3, 4)[:, ::2]

    assert unpack_array(pack_array(view)).tolist() == view.tolist()


@pytest.mark.parametrize("a", [np.array([object()]), np.array(["2026-01-01"], "M8[s]"), np.zeros(1, "i4,f8")])
def test_arrays_without_a_plain_value_are_refused(a: NDArray[Any]) -> None:
    with pytest.raises(TypeError, match="cannot be packed"):
        pack_array(a)


@pytest.mark.parametrize(
    "damage",
    [
        {"dtype": "|O"},
        {"dtype": "M8[s]"},
        {"dtype": "nonsense"},
        {"dtype": "i4,O"},
        {"shape": [3]},
        {"shape": [-2, -1]},
        {"shape": None},
        {"data": b"short"},
        {"data": None},
    ],
)
def test_a_packed_array_that_contradicts_itself_is_refused(damage: dict[str, Any]) -> None:
    packed = pack_array(np.arange(2, dtype=np.int64)) | damage

    with pytest.raises(StorageError, match="packed array"):
        unpack_array(packed)


def test_a_packed_array_without_a_key_is_refused() -> None:
    packed = pack_array(np.arange(2))
    del packed["shape"]

    with pytest.raises(StorageError, match="shape"):
        unpack_array(packed)
