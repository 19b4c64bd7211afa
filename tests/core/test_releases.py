"""What the next release of a recipe says."""

from __future__ import annotations

import pytest
from edgectl_agent.core.messages import BundleRef, Release

from edgectl.core.errors import UsageError
from edgectl.core.releases import next_release


def ref(digit: str) -> BundleRef:
    return BundleRef(variant="fp32", sha256=digit * 64, length=1)


def release(version: str, counter: int, digit: str, recipe: str = "press") -> Release:
    return Release(recipe=recipe, version=version, counter=counter, variants=(ref(digit),))


SIGNED = (release("2", 2, "2"), release("1", 1, "1"), release("4", 4, "4"), release("9", 9, "9", recipe="pump"))


def test_the_first_release_of_a_recipe_counts_one_and_permits_no_return() -> None:
    made = next_release("fan", "1", (ref("a"),), SIGNED, created="now")
    assert (made.counter, made.fallbacks, made.variants) == (1, (), (ref("a"),))


def test_the_counter_rises_above_every_signed_release_of_the_same_recipe() -> None:
    assert next_release("press", "5", (ref("a"),), SIGNED, created="now").counter == 5


@pytest.mark.parametrize(
    ("fallback", "digests"), [((), "24"), (("none",), ""), (("1",), "1"), (("1", "4"), "14"), (("2", "2"), "2")]
)
def test_the_last_two_releases_are_fallbacks_unless_others_are_named(fallback: tuple[str, ...], digests: str) -> None:
    made = next_release("press", "5", (ref("a"),), SIGNED, fallback=fallback, created="now")
    assert made.fallbacks == tuple(digit * 64 for digit in digests)


def test_an_unsigned_fallback_is_refused_with_the_closest() -> None:
    with pytest.raises(UsageError, match="no signed release of press has this version"):
        next_release("press", "5", (ref("a"),), SIGNED, fallback=("9",), created="now")
    with pytest.raises(UsageError, match="does not go with other versions"):
        next_release("press", "5", (ref("a"),), SIGNED, fallback=("none", "1"), created="now")
