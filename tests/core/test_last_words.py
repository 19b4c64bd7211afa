"""What an agent said last, in a sentence for people."""

from __future__ import annotations

from edgectl.core.last_words import ending, retold

STOPPED = '{"time":"2026-11-24T10:58:58Z","level":"info","event":"stopped","node":"two","boot":"90a52","signal":15}'


def test_a_log_line_is_told_without_what_the_sentence_says_already_and_once() -> None:
    assert ending([STOPPED, "no disk", "no disk"]) == "; its log ends: stopped signal=15 | no disk"
    assert ending([]) == ""


def test_a_sentence_that_a_machine_wrote_is_told_the_same_way() -> None:
    assert (
        retold(f"no agent runs ; its log ends: {STOPPED} | x") == "no agent runs; its log ends: stopped signal=15 | x"
    )
    assert retold("it is well") == "it is well"
