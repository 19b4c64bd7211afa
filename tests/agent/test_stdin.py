"""Standard input is read to its end, held up when too much waits, and its end stops nothing else."""

from __future__ import annotations

import os
import subprocess
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from edgectl_agent.config import Config, StdinConfig
from edgectl_agent.core.bundle import encode
from edgectl_agent.core.errors import ConfigError, SourceError
from edgectl_agent.sources.intake import Intake
from edgectl_agent.sources.stdin import StdinSource

from tests.support.agents import AgentProcess, stage
from tests.support.bundles import make_bundle, make_release

TURNS = 600


def record(i: int) -> bytes:
    return b'{"ts":%d,"m":"a","v":%d}\n' % (1_000_000 + i, i)


class Pipe:
    """A source at one end of a pipe; what is written goes in by a thread, as it may block."""

    def __init__(self, **more: Any) -> None:
        self.reading, self.writing = os.pipe()
        config = {"stream": "m", "time": "ts", "channels": {"v": "v"}} | more
        self.source = StdinSource(StdinConfig(**config), descriptor=self.reading)
        self.source.open(None)
        self.values: list[float] = []
        self.rejected: Counter[str] = Counter()

    def write(self, *parts: bytes) -> threading.Thread:
        def run() -> None:
            with suppress(BrokenPipeError), os.fdopen(self.writing, "wb") as out:
                for part in parts:
                    out.write(part)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def to_the_end(self, limit: int = 1000) -> None:
        for _ in range(TURNS):
            chunk = self.source.poll(limit, 0.1)
            self.values += chunk.values[:, 0].tolist()
            self.rejected.update(chunk.rejected)
            if chunk.ended:
                return
        raise AssertionError("it does not end")


def test_every_line_is_read_also_the_last_one_without_a_line_feed() -> None:
    pipe = Pipe()
    pipe.write(record(0), b"no json\n\n", b"x" * 3_000_000 + b"\n", record(1), record(2)[:-1])
    pipe.to_the_end(limit=1)
    assert pipe.values == [0, 1, 2]
    assert pipe.rejected == {"unparsable": 1, "too-long": 1}


def test_a_pipe_that_is_written_faster_than_it_is_read_waits_and_loses_nothing() -> None:
    pipe = Pipe(buffer="64k")
    count = 20_000
    writer = pipe.write(*map(record, range(count)))
    writer.join(0.3)
    assert writer.is_alive()
    pipe.to_the_end()
    writer.join()
    assert pipe.values == list(range(count))


def test_after_seal_what_waits_is_given_and_nothing_more_is_taken() -> None:
    pipe = Pipe(buffer="64k")
    writer = pipe.write(*map(record, range(20_000)))
    got = pipe.source.poll(10, 60).values[:, 0].tolist()
    pipe.source.seal()
    while pipe.source.pending:
        got += pipe.source.poll(1000, 0).values[:, 0].tolist()
    assert got == list(range(len(got)))
    assert len(got) < 20_000
    pipe.source._thread.join(60)  # it must not read once more, from what the number of the descriptor means by then
    os.close(pipe.reading)
    writer.join()


def test_csv_comes_with_a_header_and_one_that_does_not_fit_is_said_again_and_again() -> None:
    pipe = Pipe(format="csv")
    pipe.write(b"ts,m,v\n1,a,1\n2,a,2\n")
    pipe.to_the_end()
    assert pipe.values == [1, 2]
    pipe = Pipe(format="csv")
    pipe.write(b"ts,m\n1,a\n")
    for _ in range(2):
        with pytest.raises(SourceError, match="standard input: column 'v' is missing"):
            pipe.to_the_end()


def test_the_queue_takes_any_record_when_it_is_empty_and_the_first_that_fit_otherwise() -> None:
    intake: Intake[bytes] = Intake(1000, lambda: None)
    assert intake.offer([b"x" * 5000, b"y"]) == 1
    assert intake.full
    assert intake.offer([b"y"], {"queue-full": 1}) == 0
    taken = intake.take(10, 0)
    assert (taken.records, taken.rejected, taken.ended) == ([b"x" * 5000], {"queue-full": 1}, False)
    assert intake.offer([b"z" * 300] * 5) == 2
    intake.end()
    assert not intake.take(1, 0).ended
    assert intake.take(1, 0).ended


def test_two_sources_cannot_share_standard_input() -> None:
    one = StdinConfig(stream="m", time="ts", channels={"v": "v"})
    with pytest.raises(ConfigError, match=r"sources\.b: expected one source of type stdin, found a and b"):
        Config(version=1, node="n", data_dir="/tmp/n", sources={"a": one, "b": one})


def test_an_agent_scores_what_is_piped_into_it_and_stays_when_the_pipe_ends(tmp_path: Path) -> None:
    raw = encode(make_bundle())
    source = {"type": "stdin", "stream": "machine", "time": "ts", "channels": {"value": "value"}, "live": False}
    agent = AgentProcess(tmp_path, sources={"piped": source}, models={"press": ["piped"]})
    stage(agent.data_dir, raw, make_release("press", "1.0.0", 1, raw))
    (tmp_path / "lines").write_bytes(
        b"".join(b'{"ts":%d,"machine":"m","value":1}\n' % (1_700_000_000 + i) for i in range(5000))
    )
    with subprocess.Popen(["cat", tmp_path / "lines"], stdout=subprocess.PIPE) as feeder:
        agent.stdin = feeder.stdout
        agent.start()
        agent.wait(agent.answers)
        agent.wait(lambda: agent.status().sources[0].state == "ended")
        status = agent.status()
        agent.kill()
    assert status.sources[0].accepted == 5000
    assert status.models[0].inferences > 0
    assert status.state == "healthy"
