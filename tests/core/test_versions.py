"""How far an agent and this edgectl may be apart."""

from __future__ import annotations

import pytest

from edgectl.core.versions import distance, fits, way_out


@pytest.mark.parametrize(
    ("agent", "ours", "fine"),
    [
        ("1.4.0", "1.4.9", True),
        ("1.2.0", "1.4.0", True),
        ("1.6.0rc1", "1.4.0", True),
        ("1.1.9", "1.4.0", False),
        ("1.7.0", "1.4.0", False),
        ("2.0.0", "1.9.0", False),
        ("1.10.0", "1.9.0", True),
        ("1.40.0", "1.4.0", False),
        ("", "1.4.0", True),
        ("built by hand", "1.4.0", True),
    ],
)
def test_two_minor_versions_of_one_major_version_understand_each_other(agent: str, ours: str, fine: bool) -> None:
    assert (distance(agent, ours) == "") is fine


def test_the_distance_says_both_versions_and_which_of_the_two_to_change() -> None:
    assert distance("1.1.9", "1.4.0") == "agent 1.1.9 is more than 2 minor versions from edgectl 1.4.0"
    assert way_out("pi", "1.1.9", "1.4.0") == "edgectl nodes upgrade --select name=pi"
    assert way_out("pi", "1.7.0", "1.4.0") == "use an edgectl of the agent's version"


@pytest.mark.parametrize(
    ("pattern", "version", "fine"),
    [
        ("", "1", True),
        ("1.4.*", "1.4.2", True),
        ("1.4.*", "1.40.2", False),
        ("1.4.2", "1.4.2", True),
        ("1.4", "1.4.2", False),
    ],
)
def test_a_pattern_fits_whole_versions(pattern: str, version: str, fine: bool) -> None:
    assert fits(pattern, version) is fine
