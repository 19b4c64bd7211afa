from __future__ import annotations

import itertools

from edgectl.core.evaluation import WATCHED
from edgectl.generate.weblog import KINDS, WARM_UP, Fault, Service

SERVICE = Service(seed=1, hosts=("web-1", "web-2"))


def test_any_stretch_can_be_made_again_and_lines_come_by_time() -> None:
    whole = list(SERVICE.lines(0, 20))
    assert whole == [*SERVICE.lines(0, 7), *SERVICE.lines(7, 13)]
    times = [SERVICE.time_of(event) for event in whole]
    assert times == sorted(times)


def test_each_fault_changes_its_own_host_and_minutes_alone() -> None:
    usual = list(SERVICE.lines(100, 120))
    for kind in KINDS:
        fault = Fault(host="web-1", kind=kind, first=140, count=30)
        faulty = list(SERVICE.lines(100, 120, [fault]))
        changed = set(usual) ^ set(faulty)
        assert changed
        begin = SERVICE.labels(0, 0, [fault])[0]
        assert all(event.split(" ")[1] == "web-1" for event in changed)
        assert all(begin.start_ns <= SERVICE.time_of(event) <= begin.end_ns for event in changed)


def test_planned_faults_are_of_every_kind_and_leave_each_other_room() -> None:
    faults = SERVICE.planned(0, 48 * 60)
    assert {fault.kind for fault in faults} == set(KINDS)
    for host in SERVICE.hosts:
        mine = [fault for fault in faults if fault.host == host]
        assert mine[0].first >= WARM_UP
        assert all(b.first - (a.first + a.count) >= 100 for a, b in itertools.pairwise(mine))
    watched = [label for label in SERVICE.labels(0, 48 * 60, faults) if label.kind == WATCHED]
    assert {label.stream for label in watched} == set(SERVICE.hosts)
