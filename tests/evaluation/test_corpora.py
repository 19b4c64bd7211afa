from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgectl.core.errors import ConfigError, UsageError
from edgectl.evaluation.corpora.opening import Choice, read
from edgectl.evaluation.series import Corpus, Window
from edgectl.training.recipe import Recipe, find, load

SENSOR = find("sensor", None)


def nab(folder: Path, rows: int = 100, labels: object = None) -> Path:
    """A corpus of NAB's shape with one labelled file and one without."""
    (folder / "labels").mkdir(parents=True)
    times = [f"2014-04-01 {i // 60:02d}:{i % 60:02d}:00" for i in range(rows)]
    found = labels or {"g/a.csv": [[f"{times[40]}.000000", f"{times[49]}.000000"]], "g/b.csv": []}
    (folder / "labels" / "combined_windows.json").write_text(json.dumps(found))
    (folder / "data" / "g").mkdir(parents=True)
    for name in "ab":
        lines = "".join(f"{time},{i % 7}\n" for i, time in enumerate(times))
        (folder / "data" / "g" / f"{name}.csv").write_text("timestamp,value\n" + lines)
    return folder


def refused(paths: list[Path], recipe: Recipe | None = SENSOR, **choice: object) -> str:
    with pytest.raises((ConfigError, UsageError)) as caught:
        read(paths, recipe, Choice(**choice))  # type: ignore[arg-type]
    return str(caught.value)


def test_nab_is_read_by_its_labels_with_its_probation(tmp_path: Path) -> None:
    corpus = read([nab(tmp_path)], None, Choice())
    a, b = corpus.series
    assert (a.name, a.begin, a.windows, b.windows) == ("g/a.csv", 15, (Window(40, 49),), ())
    assert corpus.centred
    assert not corpus.together


def test_a_time_in_nabs_labels_means_the_first_reading_that_has_it(tmp_path: Path) -> None:
    folder = nab(tmp_path)
    path = folder / "data" / "g" / "a.csv"
    lines = path.read_text().splitlines()
    lines.insert(42, lines[41].replace(",5", ",9"))  # row 40 twice
    path.write_text("\n".join(lines) + "\n")
    assert read([folder], None, Choice()).series[0].windows == (Window(40, 50),)


def test_what_is_wrong_with_nab_is_told_in_a_sentence(tmp_path: Path) -> None:
    bad = nab(tmp_path / "1", labels={"g/a.csv": [["2015-01-01 00:00:00.000000", "2015-01-01 01:00:00.000000"]]})
    assert "of g/a.csv: expected a time of that file, found '2015-01-01 00:00:00.000000'" in refused([bad])
    assert "no such file" in refused([nab(tmp_path / "2", labels={"g/c.csv": []})])
    broken = nab(tmp_path / "3")
    (broken / "labels" / "combined_windows.json").write_text("[1]")
    assert "expected file → list of [start, end]" in refused([broken])
    assert "no series of NAB is called x*" in refused([nab(tmp_path / "4")], only=("x*",))
    assert "expected it alone, without others" in refused([tmp_path / "4"], label_column="y")


def test_smd_is_read_from_arrays_and_from_the_published_folder(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    train, test = random.random((50, 3)).round(6), random.random((60, 3)).round(6)
    label = np.zeros(60, np.uint8)
    label[[5, 6, 7, 59]] = 1
    packed, published = tmp_path / "packed", tmp_path / "published"
    packed.mkdir()
    np.savez(packed / "machine-1-1.npz", train=train.astype(np.float32), test=test.astype(np.float32), label=label)
    for part, values in (("train", train), ("test", test), ("test_label", label[:, None])):
        (published / part).mkdir(parents=True)
        np.savetxt(published / part / "machine-1-1.txt", values, delimiter=",", fmt="%.6f")
    found: list[Corpus] = [read([path], None, Choice()) for path in (packed, packed / "machine-1-1.npz", published)]
    for corpus in found:
        (one,) = corpus.series
        assert (one.begin, len(one), one.channels) == (50, 110, ("m00", "m01", "m02"))
        assert one.windows == (Window(55, 57), Window(109, 109))
        assert one.interval_ns == 60 * 10**9
        assert one.values == pytest.approx(np.concatenate([train, test]), abs=1e-6)


def test_what_is_wrong_with_smd_is_told_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "machine.npz"
    np.savez(path, train=np.zeros((5, 2)), test=np.zeros((6, 3)), label=np.zeros(6))
    assert "expected train and test of the same width" in refused([path])
    np.savez(path, train=np.zeros((5, 2)), test=np.zeros((6, 2)))
    assert "label is missing" in refused([path])
    path.write_bytes(b"PK not really")
    assert "cannot be read" in refused([path])
    assert "only NAB has halves" in refused([path], half="A")


def own(path: Path, rows: int = 200) -> Path:
    """A user's own file, its label column set from row 150 to 159."""
    lines = (f"2024-01-01T{i // 60:02d}:{i % 60:02d}:00Z,{i % 5},{int(150 <= i < 160)}\n" for i in range(rows))
    path.write_text("timestamp,value,bad\n" + "".join(lines))
    return path


def test_own_files_are_labelled_by_a_column_or_by_intervals(tmp_path: Path) -> None:
    data, labels = own(tmp_path / "a.csv"), tmp_path / "labels.csv"
    labels.write_text(
        "start,end\n2024-01-01T02:30:00Z,2024-01-01T02:39:30Z\n2024-01-01T00:01:00Z,2024-01-01T00:02:00Z\n"
    )
    by_column = read([data], SENSOR, Choice(label_column="bad"))
    by_file = read([data], SENSOR, Choice(labels=labels))
    for corpus in (by_column, by_file):
        assert corpus.series[0].windows == (Window(150, 159),)  # what lies in the history is not scored
        assert corpus.series[0].begin == 30
        assert corpus.together
    assert read([data], SENSOR, Choice(share=0.5)).series[0].begin == 100
    assert read([data], SENSOR, Choice()).windows == 0


def test_history_may_lie_in_files_of_its_own(tmp_path: Path) -> None:
    data, before = own(tmp_path / "a.csv"), tmp_path / "before.csv"
    before.write_text("timestamp,value\n" + "".join(f"2023-12-31T{i:02d}:00:00Z,{i % 5}\n" for i in range(24)))
    corpus = read([data], SENSOR, Choice(train=(before,), label_column="bad"))
    assert (corpus.series[0].begin, len(corpus.series[0])) == (24, 224)
    assert corpus.series[0].windows == (Window(174, 183),)
    assert "expected --train to end before the data begins at 2023-12-31T00:00:00Z" in refused([before], train=(data,))


def test_what_is_wrong_with_own_files_is_told_in_a_sentence(tmp_path: Path) -> None:
    data, labels = own(tmp_path / "a.csv"), tmp_path / "labels.csv"
    labels.write_text("start,end,stream\n2024-01-01T02:30:00Z,2024-01-01T02:39:00Z,other\n")
    assert "a label is of stream 'other', the data has sensor" in refused([data], labels=labels)
    assert "the label column 'worse' is missing" in refused([data], label_column="worse")
    assert "no such file or folder" in refused([tmp_path / "none"])
    assert "expected NAB's or SMD's folder, or data files" in refused([tmp_path])
    assert "expected a recipe that names the columns" in refused([data], recipe=None)


def test_a_label_column_marks_each_stream_by_itself(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "recipe: two\nstream: host\ntime: {column: ts}\nchannels: {value: {}}\nmodel: {type: online}\n"
        "alerts: {budget: {warning: 1/day, critical: 1/10d}}\n"
    )
    lines = ["ts,host,value,bad"]
    for i in range(60):
        lines += [f"2024-01-01T00:{i:02d}:00Z,{host},{i},{int(i in marked)}"
                  for host, marked in (("b", (20, 21, 40)), ("a", (21, 22)))]  # fmt: skip
    (tmp_path / "two.csv").write_text("\n".join(lines) + "\n")
    corpus = read([tmp_path / "two.csv"], load(tmp_path / "recipe.yaml"), Choice(label_column="bad"))
    assert {one.name: one.windows for one in corpus.series} == {
        "b": (Window(20, 21), Window(40, 40)),
        "a": (Window(21, 22),),
    }
    assert [one.values[:3, 0].tolist() for one in corpus.series] == [[0, 1, 2], [0, 1, 2]]
