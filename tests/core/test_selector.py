"""One selector grammar for every verb."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.core.errors import NothingMatched, UsageError
from edgectl.core.selector import Term, amount, parse, select

NODES = {
    "lyon-gw-01": {"name": ("lyon-gw-01",), "site": ("lyon",), "tier": ("near-edge",), "finding": ()},
    "lyon-pi-1": {"name": ("lyon-pi-1",), "site": ("lyon",), "tier": ("far-edge",), "line": ("press",), "finding": ()},
    "lyon-pi-2": {"name": ("lyon-pi-2",), "site": ("lyon",), "tier": ("far-edge",), "line": ("mill",), "finding": ()},
    "pune-pi-1": {"name": ("pune-pi-1",), "site": ("pune",), "tier": ("far-edge",), "finding": ("silent", "skew")},
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ["lyon-gw-01", "lyon-pi-1", "lyon-pi-2", "pune-pi-1"]),
        ("site=lyon", ["lyon-gw-01", "lyon-pi-1", "lyon-pi-2"]),
        ("site=lyon,tier=far-edge,!line=press", ["lyon-pi-2"]),
        ("name=~.*-gw-.*", ["lyon-gw-01"]),
        (r"name=~lyon-pi-\d{1,3}", ["lyon-pi-1", "lyon-pi-2"]),
        ("!site=~ly.*", ["pune-pi-1"]),
        ("finding=skew", ["pune-pi-1"]),
    ],
)
def test_every_term_must_hold(text: str, names: list[str]) -> None:
    assert list(select(NODES, text)) == names


def test_a_regular_expression_matches_the_whole_value() -> None:
    with pytest.raises(NothingMatched):
        select(NODES, "name=~lyon")


@pytest.mark.parametrize("text", ["lyon-pi-1", "site=", "=x", "site=lyon,", "name=~(", "site lyon", ","])
def test_what_is_not_a_selector_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


def test_a_bare_name_is_answered_with_the_right_spelling() -> None:
    with pytest.raises(UsageError, match="name=lyon-pi-1"):
        parse("lyon-pi-1")


def test_an_unknown_key_names_the_closest_one() -> None:
    with pytest.raises(UsageError, match="did you mean 'site'"):
        select(NODES, "sites=lyon")


def test_an_unknown_value_names_the_closest_one() -> None:
    with pytest.raises(NothingMatched, match="did you mean 'lyon'"):
        select(NODES, "site=lyn")


def test_exclude_takes_globs_and_refuses_those_that_fit_nothing() -> None:
    assert select(NODES, "site=lyon", exclude=["lyon-pi-*"]) == ("lyon-gw-01",)
    with pytest.raises(NothingMatched, match="removed all"):
        select(NODES, exclude=["*"])
    with pytest.raises(NothingMatched, match="fits no node"):
        select(NODES, exclude=["lion-*"])


def test_a_limit_takes_the_first_of_the_given_order() -> None:
    assert select(NODES, limit="2", order=["pune-pi-1", "lyon-pi-2"]) == ("lyon-pi-2", "pune-pi-1")
    assert len(select(NODES, limit="30%")) == 2


@given(st.integers(1, 10_000), st.integers(1, 100))
def test_a_percentage_is_never_nobody_and_never_more_than_everybody(total: int, percent: int) -> None:
    count = amount(f"{percent}%", total)
    assert 1 <= count <= total
    assert count == max(1, -(-percent * total // 100))


TERM = st.builds(
    Term,
    key=st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True),
    value=st.from_regex(r"[a-z0-9.-]{1,6}", fullmatch=True),
    regex=st.booleans(),
    negated=st.booleans(),
)


@given(st.lists(TERM, max_size=4))
def test_terms_survive_a_round_trip_through_text(terms: list[Term]) -> None:
    assert list(parse(",".join(map(str, terms)))) == terms


def test_a_key_that_no_node_has_a_value_for_is_said_to_have_none() -> None:
    with pytest.raises(NothingMatched) as e:
        select({"a": {"site": ("",)}}, "site=lyon")
    assert e.value.hint == "site: there is none yet"
