"""The outbox loses nothing that it acknowledged, and what storage damages it names exactly."""

from __future__ import annotations

import errno
import itertools
import os
import random
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from edgectl_agent.core.errors import StorageError, UsageError
from edgectl_agent.core.recovery import recover
from edgectl_agent.core.segment import MAX_PAYLOAD, SEGMENT_HEADER, SLOT_BYTES, decode_head, scan
from edgectl_agent.outbox import Outbox, Record
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.powercut import PowerCut, die_at, operations

MB = 1_000_000


def payload(seq: int) -> bytes:
    return b"alert %d " % seq + bytes([seq % 256]) * (seq * 7 % 23)


def opened(folder: Path, *, limit_bytes: int = MB, segment_bytes: int = 100_000, boot: str = "boot-1") -> Outbox:
    outbox = Outbox(folder, boot=boot, limit_bytes=limit_bytes, segment_bytes=segment_bytes)
    outbox.open()
    return outbox


def filled(folder: Path, count: int, *, group: int = 8, segment_bytes: int = 100_000) -> Outbox:
    """An outbox with `count` acknowledged records."""
    outbox = opened(folder, segment_bytes=segment_bytes)
    for seq in range(1, count + 1):
        assert outbox.append(payload(seq), seq) == seq
        if seq % group == 0 or seq == count:
            outbox.commit()
    return outbox


def everything(outbox: Outbox) -> list[Record]:
    found: list[Record] = []
    while page := outbox.read(found[-1].seq if found else 0, 50):
        found += page
    return found


def assert_holds(outbox: Outbox, seqs: list[int]) -> None:
    assert [(r.seq, r.payload) for r in everything(outbox)] == [(seq, payload(seq)) for seq in seqs]


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.seg"))


@pytest.fixture
def folder(memory_folder: Path) -> Path:
    return memory_folder / "outbox"


# ── appending, reading, releasing ───────────────────────────────────────────────────────────────────────────────────


def test_nothing_can_be_read_before_it_is_committed(folder: Path) -> None:
    outbox = opened(folder)
    assert outbox.append(b"one", 11) == 1

    assert outbox.read(0, 10) == []
    assert outbox.commit() == 1
    assert outbox.read(0, 10) == [Record("boot-1", 1, 11, b"one")]


def test_sequences_go_on_without_a_gap_over_restarts_and_segments(folder: Path) -> None:
    filled(folder, 40, segment_bytes=300).close()
    again = opened(folder, boot="boot-2", segment_bytes=300)
    assert again.append(payload(41), 0) == 41
    again.commit()

    assert_holds(again, list(range(1, 42)))
    assert [r.boot for r in again.read(39, 5)] == ["boot-1", "boot-2"]
    assert len(segments(folder)) > 3


def test_an_empty_commit_returns_the_head_and_writes_nothing(folder: Path) -> None:
    outbox = filled(folder, 3)
    before = (folder / "head").read_bytes()

    assert outbox.commit() == 3
    assert (folder / "head").read_bytes() == before


def test_a_page_ends_at_the_limit_and_at_four_megabytes(folder: Path) -> None:
    outbox = opened(folder, limit_bytes=20 * MB)
    for _ in range(10):
        outbox.append(bytes(MAX_PAYLOAD), 0)
    outbox.commit()

    assert [r.seq for r in outbox.read(2, 3)] == [3, 4, 5]
    assert 4 <= len(outbox.read(0, 100)) < 7
    assert [r.seq for r in everything(outbox)] == list(range(1, 11))


def test_release_deletes_whole_segments_and_survives_a_restart(folder: Path) -> None:
    outbox = filled(folder, 60, segment_bytes=300)
    count = len(segments(folder))
    outbox.release(31)
    outbox.release(31)
    outbox.release(7)
    outbox.close()

    assert len(segments(folder)) < count
    assert_holds(opened(folder), list(range(32, 61)))


def test_after_everything_is_released_the_sequence_goes_on(folder: Path) -> None:
    outbox = filled(folder, 20, segment_bytes=300)
    outbox.release(20)
    outbox.close()
    again = opened(folder)

    assert again.status().records == 0
    assert again.append(b"", 0) == 21


@pytest.mark.parametrize("name", ["head", "*.seg"])
def test_the_sequence_goes_on_even_if_the_head_or_the_segments_of_an_empty_log_are_deleted(
    folder: Path, name: str
) -> None:
    outbox = filled(folder, 20, segment_bytes=300)
    outbox.release(20)
    outbox.close()
    for path in folder.glob(name):
        path.unlink()

    assert opened(folder).append(b"", 0) == 21


def test_releasing_what_was_never_acknowledged_is_refused(folder: Path) -> None:
    outbox = filled(folder, 3)
    outbox.append(b"not yet", 0)

    with pytest.raises(UsageError, match="cannot release up to 4: the outbox has acknowledged 3"):
        outbox.release(4)
    assert_holds(outbox, [1, 2, 3])


def test_the_log_keeps_its_id_until_it_is_begun_anew(folder: Path) -> None:
    outbox = filled(folder, 4)
    first = outbox.log_id
    assert len(first) == 32
    assert outbox.status().log_id == first
    outbox.close()
    again = opened(folder, boot="boot-2")
    assert again.log_id == first
    again.close()

    shutil.rmtree(folder)
    assert opened(folder).log_id != first


@pytest.mark.parametrize("names", ["head", "id", "[!i]*"])
def test_an_outbox_that_may_give_a_sequence_twice_or_lost_its_id_gets_a_new_one(folder: Path, names: str) -> None:
    outbox = filled(folder, 4)
    first = outbox.log_id
    outbox.close()
    for path in folder.glob(names):
        path.unlink()
    again = opened(folder)
    second = again.log_id
    assert second not in ("", first)
    again.close()
    assert opened(folder).log_id == second


def test_a_new_log_takes_no_record_under_the_id_of_the_old_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = filled(folder, 4)
    first = outbox.log_id
    outbox.close()
    for path in (*segments(folder), folder / "head"):
        path.unlink()
    real = os.replace

    def replace(old: Path, new: Path) -> None:
        if new.name == "id":
            raise OSError(errno.EIO, "Input/output error")
        real(old, new)

    monkeypatch.setattr(os, "replace", replace)
    again = Outbox(folder, boot="b", limit_bytes=MB)
    assert again.open().failures
    again.append(payload(1), 1)
    with pytest.raises(StorageError, match="cannot write 1 records: Input/output error"):
        again.commit()
    monkeypatch.undo()
    assert again.commit() == 1
    second = again.log_id
    again.close()
    assert second != first
    assert opened(folder).log_id == second


def test_a_release_that_means_another_log_is_refused(folder: Path) -> None:
    outbox = filled(folder, 4)
    with pytest.raises(UsageError, match="this outbox is the log") as refusal:
        outbox.release(2, "0" * 32)
    assert refusal.value.reason == "another-log"
    assert_holds(outbox, [1, 2, 3, 4])
    outbox.release(2, outbox.log_id)
    assert_holds(outbox, [3, 4])


def test_death_before_any_file_operation_never_leaves_a_record_without_its_id(folder: Path) -> None:
    def work() -> None:
        outbox = opened(folder, boot="b")
        outbox.append(payload(1), 1)
        outbox.commit()
        note = os.open(folder.parent / "ledger", os.O_WRONLY | os.O_CREAT)
        os.write(note, outbox.log_id.encode())

    folder.parent.mkdir(parents=True, exist_ok=True)
    count = operations(work)
    for k in range(1, count + 2):
        shutil.rmtree(folder, ignore_errors=True)
        (folder.parent / "ledger").write_text("")
        die_at(k, work)
        told = (folder.parent / "ledger").read_text()
        had = (folder / "id").read_text().strip() if (folder / "head").exists() else ""
        assert bool(had) == (folder / "head").exists()
        outbox = opened(folder)
        assert outbox.log_id == (told or had or outbox.log_id)
        outbox.close()


def test_a_full_outbox_takes_nothing_until_something_is_released(folder: Path) -> None:
    outbox = opened(folder, limit_bytes=8_000)

    def append_forever() -> None:
        while True:
            outbox.append(bytes(100), 0)
            outbox.commit()

    with pytest.raises(StorageError, match="outbox is full") as refusal:
        append_forever()
    count = outbox.status().head_seq
    assert refusal.value.reason == "outbox-full"
    assert outbox.status().bytes <= 8_000

    outbox.release(count)
    assert outbox.append(bytes(100), 0) == count + 1


def test_an_oversized_record_is_refused_and_takes_no_sequence(folder: Path) -> None:
    outbox = opened(folder, limit_bytes=10 * MB)

    with pytest.raises(StorageError, match=f"record has {MAX_PAYLOAD + 1} bytes, expected at most {MAX_PAYLOAD}"):
        outbox.append(bytes(MAX_PAYLOAD + 1), 0)
    assert outbox.append(bytes(MAX_PAYLOAD), 0) == 1


def test_what_waits_for_a_commit_is_bounded(folder: Path) -> None:
    outbox = opened(folder, limit_bytes=100 * MB)

    def append_forever() -> None:
        while True:
            outbox.append(bytes(MAX_PAYLOAD), 0)

    with pytest.raises(StorageError, match="wait for a commit, no more are taken") as refusal:
        append_forever()
    assert refusal.value.reason == "group-full"
    assert 16 <= outbox.commit() <= 17
    assert outbox.append(b"", 0) > 16


def test_the_status_counts_what_waits(folder: Path) -> None:
    outbox = filled(folder, 10)
    outbox.release(4)
    status = outbox.status()

    assert (status.records, status.head_seq, status.oldest_ns, status.lost) == (6, 10, 5, 0)
    assert 0 < status.bytes < status.limit_bytes


# ── crashes ─────────────────────────────────────────────────────────────────────────────────────────────────────────

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 12)),
        st.tuples(st.just("commit"), st.integers(0, 200_000_000)),
        st.tuples(st.just("release"), st.floats(0, 1)),
        st.tuples(st.sampled_from(["kill", "power cut", "restart"]), st.integers(0, 2**32)),
    ),
    max_size=25,
)


class Model:
    """What must be in the outbox, whatever happens to its process and its power."""

    def __init__(self, folder: Path, lying: str = "none") -> None:
        self.folder, self.lying, self.now = folder, lying, 0
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.acknowledged = self.released = 0
        self.pending: list[int] = []
        self.outbox = self.start()

    def start(self) -> Outbox:
        self.disk = PowerCut(self.folder.parent, self.lying)
        with self.disk:
            outbox = Outbox(self.folder, boot="b", limit_bytes=MB, segment_bytes=400)
            report = outbox.open()
        assert report.lost == ()
        assert report.failures == ()
        assert report.damaged == ()
        return outbox

    def step(self, what: str, number: float) -> None:
        if what == "append":
            for _ in range(int(number)):
                self.pending.append(self.outbox.append(payload(self.acknowledged + len(self.pending) + 1), self.now))
            return
        with self.disk:
            if what == "commit":
                self.now += int(number)
                self.acknowledged = self.outbox.commit()
                self.pending = []
            elif what == "release":
                self.released = max(self.released, int(number * self.acknowledged))
                self.outbox.release(self.released)
        if what in ("kill", "power cut", "restart"):
            self.crash(what, random.Random(int(number)))

    def crash(self, what: str, rng: random.Random) -> None:
        """The group that was being written may be there in part; nobody was promised any of it."""
        torn = b"".join(self.outbox._group)
        if what != "restart" and torn:
            with segments(self.folder)[-1].open("ab") as f:
                f.write(torn[: rng.randint(0, len(torn))] + rng.randbytes(rng.choice([0, 0, 30])))
        if what == "restart":
            self.outbox.close()
        self.outbox._close_segment()
        self.outbox._head_file.close()
        if what == "power cut":
            self.disk.cut(rng)
        self.outbox = self.start()
        found = everything(self.outbox)
        adopted = [r.seq for r in found if r.seq > self.acknowledged]
        assert adopted == self.pending[: len(adopted)]
        self.acknowledged += len(adopted)
        self.pending = []

    def check(self) -> None:
        assert_holds(self.outbox, list(range(self.released + 1, self.acknowledged + 1)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_every_acknowledged_record_survives_kills_and_power_cuts(folder: Path, steps: list[tuple[str, float]]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    model = Model(folder)
    for what, number in [*steps, ("power cut", 1)]:
        model.step(what, number)
        model.check()


def test_the_crash_test_itself_notices_a_disk_that_only_pretends_to_sync(folder: Path) -> None:
    noticed = 0
    for seed in range(20):
        model = Model(folder / str(seed) / "outbox", lying=".seg")
        try:
            for what, number in [("append", 5), ("commit", 0), ("power cut", seed)]:
                model.step(what, number)
                model.check()
        except AssertionError:
            noticed += 1
    assert noticed > 10


def test_death_before_any_file_operation_loses_nothing(folder: Path) -> None:
    def work() -> None:
        outbox = opened(folder, boot="b", segment_bytes=150)
        head = outbox.status().head_seq
        for seq in range(head + 1, head + 7):
            outbox.append(payload(seq), seq * 10**9)
            if seq % 2 == 0:
                acknowledged = outbox.commit()
                ledger = os.open(folder.parent / "ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.write(ledger, b"%d\n" % acknowledged)
        outbox.release(max(outbox.status().head_seq - 3, 0))

    begun = filled(folder, 4, segment_bytes=150)
    begun.close()
    before = folder.with_name("before")
    folder.rename(before)
    shutil.copytree(before, folder)
    count = operations(work)
    assert count > 30
    for k in range(1, count + 1):
        shutil.rmtree(folder)
        shutil.copytree(before, folder)
        (folder.parent / "ledger").write_text("4\n")
        die_at(k, work)

        outbox = Outbox(folder, boot="after", limit_bytes=MB)
        report = outbox.open()
        promised = int((folder.parent / "ledger").read_text().split()[-1])
        found = [r.seq for r in everything(outbox)]
        assert report.lost == ()
        assert outbox.log_id == begun.log_id
        assert report.head_seq >= promised
        assert found in ([*range(n, report.head_seq + 1)] for n in (1, report.head_seq - 2))
        outbox.close()


# ── damage ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def one_segment(folder: Path) -> tuple[bytes, list[int]]:
    """A segment of 64 acknowledged records, and where each begins, with the end as the last."""
    outbox = filled(folder, 64)
    outbox.close()
    raw = segments(folder)[0].read_bytes()
    found = scan(raw, SEGMENT_HEADER, range(1, 65), None)
    return raw, [*found.offsets, found.end]


def test_one_flipped_bit_at_any_byte_loses_only_its_record_and_says_which(folder: Path) -> None:
    raw, starts = one_segment(folder)
    head, trusted = decode_head((folder / "head").read_bytes())
    record = 0
    for at in range(len(raw)):
        damaged = bytearray(raw)
        damaged[at] ^= 1 << at % 8
        found = recover([1], lambda _, damaged=damaged: bytes(damaged), head, trusted)  # type: ignore[misc]
        record += record < 64 and at >= starts[record]

        assert found.lost == (((record, record),) if record else ()), at
        assert [o for i, o in enumerate(found.segments[0].offsets) if i != record - 1] == [
            s for i, s in enumerate(starts[:-1]) if i != record - 1
        ]
    assert record == 64


def test_a_segment_cut_at_any_byte_keeps_the_records_before_and_names_the_rest(folder: Path) -> None:
    raw, starts = one_segment(folder)
    head, trusted = decode_head((folder / "head").read_bytes())
    for length in range(len(raw)):
        whole = sum(stop <= length for stop in starts[1:])
        found = recover([1], lambda _, length=length: raw[:length], head, trusted)  # type: ignore[misc]
        blind = recover([1], lambda _, length=length: raw[:length], None, False)  # type: ignore[misc]

        assert list(found.segments[0].offsets) == starts[:whole]
        assert found.lost == ((whole + 1, 64),)
        assert (blind.head.seq, blind.lost) == (whole, ())


@pytest.mark.parametrize("record", [1, 2, 33, 63, 64])
def test_a_damaged_record_is_quarantined_and_reported_once_and_stays_visible(folder: Path, record: int) -> None:
    raw, starts = one_segment(folder)
    start, stop = starts[record - 1], starts[record]
    damaged = raw[: start + 50] + b"\xff" + raw[start + 51 :]
    segments(folder)[0].write_bytes(damaged)
    others = [seq for seq in range(1, 65) if seq != record]

    outbox = Outbox(folder, boot="boot-2", limit_bytes=MB)
    report = outbox.open()
    assert report.lost == outbox.lost == ((record, record),)
    assert [(folder / "quarantine" / n).read_bytes() for n in report.damaged] == [damaged[start:stop]]
    assert_holds(outbox, others)
    assert (outbox.status().records, outbox.status().lost) == (63, 1)
    outbox.append(payload(65), 0)
    assert outbox.commit() == 65
    outbox.close()

    again = Outbox(folder, boot="boot-3", limit_bytes=MB)
    assert again.open().lost == ()
    assert again.lost == ((record, record),)
    assert_holds(again, [*others, 65])


def test_the_report_of_a_loss_outlives_the_damaged_segment(folder: Path) -> None:
    outbox = filled(folder, 40, segment_bytes=300)
    outbox.close()
    segments(folder)[1].unlink()
    again = opened(folder)
    lost = again.lost
    again.release(40)
    again.close()

    assert len(lost) == 1
    assert opened(folder).lost == lost


def test_any_missing_segment_is_named_exactly(folder: Path) -> None:
    filled(folder, 40, segment_bytes=300).close()
    before = folder.with_name("before")
    folder.rename(before)
    firsts = [*(int(path.stem) for path in segments(before)), 41]
    assert len(firsts) > 4
    for first, following in itertools.pairwise(firsts):
        shutil.copytree(before, folder)
        (folder / f"{first:020d}.seg").unlink()
        outbox = opened(folder)

        assert outbox.lost == (((first, following - 1),) if first < following else ())
        assert_holds(outbox, [seq for seq in range(1, 41) if not first <= seq < following])
        assert outbox.append(b"", 0) == 41
        outbox.close()
        shutil.rmtree(folder)


def test_without_any_segment_the_head_still_says_what_was_lost(folder: Path) -> None:
    outbox = filled(folder, 20)
    outbox.release(5)
    outbox.close()
    for path in segments(folder):
        path.unlink()

    again = opened(folder)
    assert again.lost == ((6, 20),)
    assert again.append(b"", 0) == 21


def test_what_was_released_is_never_reported_as_lost(folder: Path) -> None:
    outbox = filled(folder, 20)
    outbox.release(12)
    outbox.close()
    raw = segments(folder)[0].read_bytes()
    segments(folder)[0].write_bytes(bytes(len(raw)))

    assert opened(folder).lost == ((13, 20),)


def test_a_damaged_or_missing_head_loses_no_record(folder: Path) -> None:
    filled(folder, 20).close()
    raw = (folder / "head").read_bytes()
    places = [*range(80), *range(SLOT_BYTES, SLOT_BYTES + 80)]
    for at in places:
        (folder / "head").write_bytes(raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at + 1 :])
        outbox = opened(folder)
        assert_holds(outbox, list(range(1, 21)))
        assert outbox.lost == ()
        outbox.close()
    (folder / "head").unlink()
    outbox = Outbox(folder, boot="b", limit_bytes=MB)
    assert outbox.open().head == "missing"
    assert_holds(outbox, list(range(1, 21)))


def test_a_head_from_an_earlier_day_hides_nothing(folder: Path) -> None:
    outbox = filled(folder, 10, segment_bytes=300)
    outbox.close()
    old = (folder / "head").read_bytes()
    outbox = opened(folder, segment_bytes=300)
    for seq in range(11, 41):
        outbox.append(payload(seq), seq * 10**9)
        outbox.commit()
    outbox.close()
    (folder / "head").write_bytes(old)

    assert_holds(opened(folder), list(range(1, 41)))


def test_a_record_that_is_intact_but_another_one_does_not_pass(folder: Path) -> None:
    filled(folder, 5, group=1).close()
    ours = segments(folder)[0]
    other = opened(folder.with_name("other"))
    for seq in range(1, 6):
        other.append(payload(seq).upper(), seq)
    other.commit()
    other.close()
    ours.write_bytes(segments(folder.with_name("other"))[0].read_bytes())

    assert opened(folder).lost == (
        (5, 5),
    )  # the last one is what the head remembers; before it nothing is contradicted


def test_a_copy_of_a_record_inside_a_payload_is_not_taken_for_a_record(folder: Path) -> None:
    outbox = opened(folder)
    outbox.append(b"first", 0)
    outbox.commit()
    raw = segments(folder)[0].read_bytes()
    outbox.append(raw[SEGMENT_HEADER:] * 3, 0)
    outbox.append(b"third", 0)
    outbox.commit()
    outbox.close()
    found = bytearray(segments(folder)[0].read_bytes())
    found[len(raw) + 42] ^= 1  # the second record's length
    segments(folder)[0].write_bytes(found)

    again = opened(folder)
    assert again.lost == ((2, 2),)
    assert [r.payload for r in again.read(0, 9)] == [b"first", b"third"]


def test_damage_that_appears_while_running_is_left_out_and_reported(folder: Path) -> None:
    outbox = filled(folder, 10)
    path = segments(folder)[0]
    raw = bytearray(path.read_bytes())
    raw[raw.index(payload(4))] ^= 1
    path.write_bytes(raw)

    assert [r.seq for r in outbox.read(0, 99)] == [1, 2, 3, 5, 6, 7, 8, 9, 10]
    assert outbox.lost == ((4, 4),)
    outbox.close()
    assert opened(folder).lost == ((4, 4),)


def test_an_unreadable_block_costs_only_the_records_in_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(folder, 300).close()
    real = os.pread

    def failing(fd: int, length: int, at: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".seg") and at < 12_288 and at + length > 8_192:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, length, at)

    monkeypatch.setattr(os, "pread", failing)
    outbox = opened(folder)
    ((low, high),) = outbox.lost

    assert high - low < 60
    assert_holds(outbox, [seq for seq in range(1, 301) if not low <= seq <= high])


@pytest.mark.parametrize("name", ["head", "lost.json", "00000000000000000001.seg"])
def test_garbage_in_any_file_never_stops_the_outbox(folder: Path, name: str) -> None:
    filled(folder, 10).close()
    for garbage in (b"", b"\0" * 9000, random.Random(1).randbytes(9000)):
        (folder / name).write_bytes(garbage)
        outbox = opened(folder)
        assert outbox.append(b"next", 0) > 10
        assert outbox.commit() > 10
        outbox.close()


# ── a disk that refuses ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("restart", [False, True])
def test_a_failed_fsync_acknowledges_nothing_and_is_not_repeated(
    folder: Path, monkeypatch: pytest.MonkeyPatch, failing: int, restart: bool
) -> None:
    """The first sync of a commit is the segment's, the second the head's."""
    outbox = filled(folder, 4)
    real, synced = os.fdatasync, []

    def fdatasync(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        if len(synced) == failing:
            raise OSError(errno.EIO, "Input/output error")
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    outbox.append(payload(5), 10**9)
    with pytest.raises(StorageError, match="outbox cannot write 1 records: Input/output error"):
        outbox.commit()
    assert_holds(outbox, [1, 2, 3, 4])
    if restart:
        outbox.close()
        outbox = opened(folder)
        assert outbox.status().head_seq in (4, 5)
    else:
        assert outbox.append(payload(6), 10**9) == 6
        assert outbox.commit() == 6
        assert synced[failing - 1] not in synced[failing:]
        outbox.close()
        outbox = opened(folder)
    assert outbox.lost == ()
    assert_holds(outbox, list(range(1, outbox.status().head_seq + 1)))


def test_a_file_size_limit_leaves_no_half_record(folder: Path) -> None:
    outbox = filled(folder, 4)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (segments(folder)[0].stat().st_size + 150, limits[1]))
    try:
        for seq in range(5, 15):
            outbox.append(payload(seq), seq)
        with pytest.raises(StorageError) as refusal:
            outbox.commit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert refusal.value.reason == "disk-full"
    assert_holds(outbox, [1, 2, 3, 4])
    assert outbox.commit() == 14
    outbox.close()
    assert_holds(opened(folder), list(range(1, 15)))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this machine does not let root mount a tmpfs")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as f, suppress(OSError):
        while True:
            f.write(bytes(4096))


@pytest.mark.needs("root")
def test_a_full_disk_refuses_writes_but_reads_and_releases_and_recovers(small_disk: Path) -> None:
    folder, filler = small_disk / "outbox", small_disk / "filler"
    outbox = filled(folder, 100, segment_bytes=2_000)
    fill(filler)

    def append_forever() -> None:
        for seq in itertools.count(101):
            outbox.append(payload(seq), 0)
            outbox.commit()

    with pytest.raises(StorageError, match="free space on this disk") as refusal:
        append_forever()
    assert refusal.value.reason == "disk-full"
    head = outbox.status().head_seq
    assert_holds(outbox, list(range(1, head + 1)))
    with pytest.raises(StorageError):
        outbox.commit()
    outbox.release(30)
    outbox.close()

    again = Outbox(folder, boot="b", limit_bytes=MB, segment_bytes=2_000)
    report = again.open()
    assert (report.lost, report.head_seq) == ((), head)
    assert_holds(again, list(range(31, head + 1)))
    filler.unlink()
    assert again.append(payload(head + 1), 0) == head + 1
    assert again.commit() == head + 1
    again.close()
    assert_holds(opened(folder), list(range(31, head + 2)))


@pytest.mark.needs("root")
def test_a_group_waits_in_memory_until_the_disk_has_room(small_disk: Path) -> None:
    outbox = filled(small_disk / "outbox", 10)
    filler = small_disk / "filler"
    fill(filler)
    for seq in range(11, 211):
        outbox.append(payload(seq), 0)
    with pytest.raises(StorageError, match="outbox cannot write 200 records: No space left on device"):
        outbox.commit()
    filler.unlink()

    assert outbox.commit() == 210
    assert_holds(outbox, list(range(1, 211)))
