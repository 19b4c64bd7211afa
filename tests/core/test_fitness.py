"""Which nodes do not bring what a release needs, by what they report."""

from __future__ import annotations

import pytest
from edgectl_agent.core.bundle import Channel, FeatureSpec, InstantFeatures, Join, JoinMember
from edgectl_agent.core.messages import OutboxStatus, Report, SourceStatus
from msgspec.structs import replace

from edgectl.core.fitness import Needs, unfit, unheard

NEEDS = Needs(channels={"vib": "mm/s", "temp": "degC"}, categories=("shop",), optional=frozenset({"temp"}))


def report(*sources: SourceStatus) -> Report:
    outbox = OutboxStatus(records=0, bytes=0, limit_bytes=1, head_seq=0)
    return Report(
        node="n", agent="0.1.0", boot="b", clock_ns=0, uptime_s=1.0, state="healthy", outbox=outbox, sources=sources
    )


def source(channels: dict[str, str] | None, categories: tuple[str, ...] = ("shop",), name: str = "s") -> SourceStatus:
    return SourceStatus(name=name, state="running", channels=channels, categories=categories, recipes=("press",))


@pytest.mark.parametrize(
    ("sources", "why"),
    [
        ((source({"vib": "mm/s", "temp": ""}),), ""),
        ((source({"vib": ""}),), ""),
        ((source({"temp": "degC"}),), "lacks channel vib (source s)"),
        ((source({"vib": "inch/s"}),), "source s has vib in inch/s, not mm/s"),
        ((source({"vib": ""}, ()),), "lacks category shop (source s)"),
        ((source({"vib": ""}, (), "a"), source({"temp": ""}, ("shop",), "b")), ""),
        ((source({}, (), "a"), source({"temp": ""}, (), "b")),
         "lacks channel vib (sources a, b); lacks category shop (sources a, b)"),
        ((source(None, ()),), ""),
        ((), ""),
    ],
)  # fmt: skip
def test_a_node_is_judged_by_what_its_sources_map(sources: tuple[SourceStatus, ...], why: str) -> None:
    found = unfit(("n", "silent"), "press", NEEDS, {"n": report(*sources)})
    assert [one.why for one in found] == ([why] if why else [])


def test_a_mapped_channel_that_no_reading_has_had_is_told() -> None:
    def brought(name: str, never: tuple[str, ...], accepted: int = 9) -> SourceStatus:
        return replace(source({"vib": "", "temp": ""}, name=name), never=never, accepted=accepted)

    def said(*sources: SourceStatus) -> list[str]:
        return [one.why for one in unheard(("n", "silent"), "press", NEEDS, {"n": report(*sources)})]

    assert said(brought("a", ("vib", "temp"))) == [
        "channel vib (source a) was not in any of 9 readings since 1969-12-31T23:59:59Z"
    ]
    assert said(brought("a", ("vib",)), brought("b", ())) == said(brought("a", ()), brought("b", (), 0)) == []


def test_a_join_needs_what_its_sources_call_the_channels() -> None:
    spec = FeatureSpec(
        channels=(Channel(name="a", unit="V"), Channel(name="b", optional=True)),
        features=(InstantFeatures(channels=("a",), kinds=("value",)),),
        warm_up_ns=0,
        join=Join(
            stream="line",
            members=(JoinMember(streams="x", channels=("a",)), JoinMember(streams="y", channels=("b",))),
            within_ns=1, idle_ns=1, columns=("volt", "speed"),
        ),
    )  # fmt: skip
    assert Needs.of(spec) == Needs(channels={"volt": "V", "speed": ""}, optional=frozenset({"speed"}))
