"""A share of ``make fuzz`` on every run, for what devices and networks send."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import share


@pytest.mark.parametrize("group", ["readings", "wires"])
def test_no_bytes_crash_hang_or_grow_a_decoder(group: str, tmp_path: Path) -> None:
    share.run(group, tmp_path)
