"""A recording is read by the recipe's own names, and refused where its units are others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from edgectl_agent.core.recordings import Block, Delivered, RecordingStatus

from edgectl.core.errors import ConfigError, StorageError
from edgectl.history.parts import DAMAGED, Gap, Parts, Progress, Summary, summary, table
from edgectl.history.record import ended_with, merged
from edgectl.training.recipe import load
from edgectl.training.tables import read

RECIPE = """\
recipe: press
stream: machine
time: {column: ts}
channels: {vib: {column: v.rms, unit: mm/s}, temp: {}}
categories: {shop: {column: to.shop}}
features: [{of: vib, instant: [value]}, {of: shop, counts: 5m, values: [x]}]
model: {type: pca}
alerts: {budget: {warning: 1/day, critical: 1/30d}}
"""


def status(unit: str = "mm/s") -> RecordingStatus:
    return RecordingStatus(
        id="r", node="n1", source="s", started_ns=0, until_ns=10, channels=("vib", "temp"), units={"vib": unit},
        categories=("shop",),
    )  # fmt: skip


def block(seq: int, first: int, boot: str = "a") -> Block:
    values = np.array([[1.5, np.nan], [2.5, 20.0]])
    chunk = Delivered(("m1", "m2"), np.array([seq, seq + 1]).tobytes(), values.tobytes(), (("x", ""),))
    return Block(seq, first, 2, boot, 10 * seq, 10 * seq + 5, (chunk,))


def recording(folder: Path, unit: str = "mm/s") -> Path:
    parts = Parts(folder / "s.parquet")
    parts.folder.mkdir()
    reached = Progress()
    for one in (block(1, 0), block(2, 2)):
        reached = merged(reached, one, replayable=True)
        parts.add(table([one], status(unit)), reached)
    assert (parts.progress(), reached.gaps) == (reached, ())
    found = Summary(node="n1", source="s", started_ns=0, ended_ns=9, readings=4, channels={"vib": unit, "temp": ""})
    parts.join(status(unit), found)
    assert summary(parts.file) == found
    return parts.file


def test_channels_categories_time_and_stream_are_found_by_the_recipes_columns(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    found = read([recording(tmp_path)], load(tmp_path / "recipe.yaml"))
    assert (found.streams, found.event_time.tolist()) == (("m1", "m2"), [1, 2, 2, 3])
    np.testing.assert_array_equal(found.values[:2], [[1.5, np.nan], [2.5, 20.0]])
    assert found.codes is not None
    assert found.codes[0, 0] == found.codes[2, 0] != found.codes[1, 0]


def test_another_unit_than_the_recipes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    with pytest.raises(ConfigError, match=r"'v.rms' is in inch/s, press expects mm/s → convert it"):
        read([recording(tmp_path, "inch/s")], load(tmp_path / "recipe.yaml"))


def test_a_missing_block_is_a_gap_with_its_readings_and_times() -> None:
    one = merged(Progress(), block(1, 0), replayable=True)
    two = merged(one, block(4, 7), replayable=True)
    (gap,) = two.gaps
    assert (gap.after_ns, gap.before_ns, gap.readings, two.taken, two.readings) == (15, 40, 5, 9, 4)


def test_a_restart_is_a_gap_of_unknown_size_only_where_the_source_cannot_be_asked_again() -> None:
    one = merged(Progress(), block(1, 0), replayable=False)
    assert merged(one, block(2, 2, "b"), replayable=True).gaps == ()
    (gap,) = merged(one, block(2, 2, "b"), replayable=False).gaps
    assert (gap.readings, gap.after_ns, gap.before_ns) == (None, 15, 20)


def test_readings_that_never_came_are_a_gap_at_the_end() -> None:
    one = merged(Progress(), block(1, 0), replayable=True)
    ended = RecordingStatus(
        id="r", node="n", source="s", started_ns=0, until_ns=9, channels=(), head=2, readings=5, state="ended"
    )
    assert [(gap.readings, gap.after_ns) for gap in ended_with(one, ended).gaps] == [(3, 15)]
    assert ended_with(merged(one, block(2, 2), replayable=True), ended).gaps[0] == Gap(
        after_ns=25, before_ns=0, readings=1, why=ended_with(one, ended).gaps[0].why
    )


@pytest.mark.parametrize("cut", ["footer", "data"])
@pytest.mark.parametrize(("which", "reached"), [(1, 6), (2, 6), (3, 4)])
def test_a_damaged_part_is_a_gap_and_the_others_are_joined(tmp_path: Path, which: int, reached: int, cut: str) -> None:
    parts = Parts(tmp_path / "s.parquet")
    parts.folder.mkdir()
    progress = Progress()
    for one in (block(1, 0), block(2, 2), block(3, 4)):
        progress = merged(progress, one, replayable=True)
        parts.add(table([one], status()), progress)
    bad = parts.folder / f"{which:08}.parquet"
    content = bad.read_bytes()
    bad.write_bytes(content[:-9] if cut == "footer" else content[:4] + bytes(300) + content[304:])
    assert parts.fits(status())
    assert parts.progress().readings == (reached if cut == "footer" else 6)
    damaged, (gap,) = parts.damaged(6)
    assert (damaged, gap.readings) == ((bad,), 2)
    found = Summary(node="n1", source="s", started_ns=0, ended_ns=9, readings=4, gaps=(gap,), channels={"vib": "mm/s"})
    aside = tmp_path / f"s.parquet.{bad.name}.damaged"
    aside.mkdir()
    with pytest.raises(
        StorageError, match=r"complete, but its damaged part .* cannot become .*: is a directory → move"
    ):
        parts.join(status(), found)
    assert bad.exists()
    aside.rmdir()
    parts.join(status(), found)
    assert pq.read_table(parts.file).num_rows == 4
    assert aside.exists()
    assert not parts.folder.exists()


def test_a_damaged_newest_part_leaves_one_gap_when_the_recording_goes_on_behind_it(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "s.parquet")
    parts.folder.mkdir()
    first = merged(Progress(), block(1, 0), replayable=True)
    parts.add(table([block(1, 0)], status()), first)
    parts.add(table([block(2, 2)], status()), merged(first, block(2, 2), replayable=True))
    (parts.folder / "00000002.parquet").write_bytes(b"PAR1")
    resumed = merged(parts.progress(), block(3, 4), replayable=True)
    parts.add(table([block(3, 4)], status()), resumed)
    assert [(gap.readings, gap.why) for gap in resumed.gaps] == [(2, DAMAGED)]
    assert not resumed.torn
    assert parts.damaged(resumed.readings) == ((parts.folder / "00000002.parquet",), ())


def test_a_part_that_cannot_be_opened_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "s.parquet")
    parts.folder.mkdir()
    part = parts.folder / "00000001.parquet"
    part.symlink_to(part)  # root may read everything else
    message = rf"cannot read {part}: too many levels of symbolic links → make it readable"
    for look in (parts.progress, lambda: parts.damaged(0), lambda: parts.fits(status())):
        with pytest.raises(StorageError, match=message):
            look()


def test_parts_of_other_channels_are_told_from_those_of_the_source_as_it_is(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "s.parquet")
    assert parts.fits(status())
    parts.folder.mkdir()
    parts.add(table([block(1, 0)], status()), Progress())
    assert parts.fits(status())
    other = RecordingStatus(id="r", node="n1", source="s", started_ns=0, until_ns=9, channels=("vib",))
    assert not parts.fits(other)
