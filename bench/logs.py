"""Log lines per second of one core: what a node does with a line, and its templates beside plain drain3.

Two logs: that of `edgectl generate logs` (few templates), and one with 300 templates of which each message has words
that vary. drain3 gets the messages alone, already parted from time and level, and the same masks; we are measured with
the same, and for the whole way from lines of bytes to columns with codes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from drain3.masking import MaskingInstruction
from drain3.template_miner import TemplateMiner
from drain3.template_miner_config import TemplateMinerConfig
from edgectl_agent.config import LogLines, TailConfig
from edgectl_agent.core import templates
from edgectl_agent.core.categories import CodeTable
from edgectl_agent.core.templates import Matcher, masked
from edgectl_agent.sources.log_lines import LogDecoder, joiner

from bench._clock import best
from bench._report import record
from edgectl.generate.weblog import Service
from edgectl.training.mining import Mining, mine

BATCH = 4096
SAID = LogLines(pattern=r"^\S+ (?P<host>[\w.-]+) (?P<level>[A-Z]+) (?P<message>.*)")
SOURCE = TailConfig(path="x", format="log", log=SAID, stream="host", time="time",
                    categories={"level": "level", "template": "message"})  # fmt: skip


def main() -> int:
    """Measure and record; 0 if the goals are met."""
    met = True
    for name, lines in (("service", few()), ("wide", many())):
        text = [line.decode().split(" ", 3)[3] for line in lines if line.startswith(b"2026-")]
        table = CodeTable(matchers={0: Matcher(mine("m", masked(text[: len(text) // 2]), Mining()).texts)})
        whole, ours, peer = (
            best(lambda lines=lines, table=table: way(lines, table), 3),
            best(lambda text=text, table=table: coded(text, table), 3),
            best(lambda text=text: plain(text), 3),
        )
        print(f"{name}: {whole:,.0f} lines/s from bytes to codes; messages to templates {ours:,.0f}/s, "
              f"drain3 {peer:,.0f}/s: {ours / peer:.1f}×")  # fmt: skip
        met &= record(f"logs.{name}.lines", whole, "lines/s", better="higher", goal=50_000)
        met &= record(f"logs.{name}.templates", ours / peer, "times drain3's messages/s", better="higher",
                      peer="drain3 with the same masks", goal=2.0)  # fmt: skip
    return 0 if met else 1


def few() -> list[bytes]:
    log = "".join(Service(seed=1, hosts=("web-1", "web-2", "web-3")).lines(0, 400))
    return log.encode().split(b"\n")[:-1]


def many() -> list[bytes]:
    rng = random.Random(1)
    words = [f"{a}{b}" for a in ("ka", "lo", "mi", "nu", "pe", "ra", "so", "ti") for b in ("ber", "dan", "fel", "gor")]
    shapes = [[rng.choice(words) for _ in range(rng.randint(4, 14))] for _ in range(300)]
    lines = []
    for i in range(20_000):
        shape = list(rng.choice(shapes))
        shape[-1] = rng.choice(words)
        shape[-2] = f"id={rng.randrange(10**6)}"
        lines.append(f"2026-03-14T09:{i // 600 % 60:02}:{i // 10 % 60:02}.{i % 10}Z web-1 INFO {' '.join(shape)}")
    return [line.encode() for line in lines]


def way(lines: Sequence[bytes], table: CodeTable) -> int:
    decoder, joining = LogDecoder(SOURCE, SAID), joiner(SAID)
    for at in range(0, len(lines), BATCH):
        part = lines[at : at + BATCH]
        events, _ = joining.push(part, np.arange(len(part)))
        found = decoder.decode(events)
        table.encode([found.texts[1]], len(found))
    return len(lines)


def coded(messages: Sequence[str], table: CodeTable) -> int:
    for at in range(0, len(messages), BATCH):
        part = masked(messages[at : at + BATCH])
        table.encode([part], len(part))
    return len(messages)


def plain(messages: Sequence[str]) -> int:
    config = TemplateMinerConfig()
    config.drain_sim_th, config.drain_max_clusters = Mining().similarity, Mining().most
    config.masking_instructions = [MaskingInstruction(templates._MASK.pattern, "*")]
    miner = TemplateMiner(config=config)
    for message in messages:
        miner.add_log_message(message)
    return len(messages)


if __name__ == "__main__":
    raise SystemExit(main())
