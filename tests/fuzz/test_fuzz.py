"""A share of ``make fuzz`` on every run, for documents; and whether the fuzzer sees what it is for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz import share

_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("group", ["documents", "operators"])
def test_no_document_crashes_hangs_or_grows_its_reader(group: str, tmp_path: Path) -> None:
    share.run(group, tmp_path)


def _outcome(code: str, tmp_path: Path) -> str:
    """What the fuzzer says of a decoder that misbehaves as `code` does."""
    script = (
        "from tests.fuzz.engine import Target, fuzz\nimport os, time\nkept = []\n"
        f"def run(data):\n    if b'7' in data:\n        {code}\n"
        "found = fuzz(Target('bad', run, [b'1,2,3,4']), 1, 4000, 2)\n"
        "print([(f.kind, f.data) for f in found.failures])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=_ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("raise KeyError('x')", "exception"),
        ("assert not data", "exception"),
        ("os.kill(os.getpid(), 11)", "crash (SIGSEGV)"),
        ("end = time.process_time() + 0.15\n        while time.process_time() < end: pass", "slow"),
        ("kept.append(bytes(range(256)) * 4 * 4096)", "memory"),
    ],
)
def test_the_fuzzer_itself_sees_every_way_to_fail_and_names_the_input(code: str, kind: str, tmp_path: Path) -> None:
    said = _outcome(code, tmp_path)

    assert kind in said
    assert kind == "memory" or "7" in said  # of memory only the batch is known in which it was taken


def test_the_same_seed_gives_the_same_inputs() -> None:
    script = (
        "from tests.fuzz.engine import Target, fuzz\nimport zlib\n"
        "seen = [0]\ndef run(data):\n    seen[0] = zlib.crc32(data, seen[0])\n    assert len(data) < 40, seen[0]\n"
        "print(fuzz(Target('t', run, [b'1,2,3,4']), 5, 500, 20).failures[0].detail[-60:])\n"
    )
    command = [sys.executable, "-c", script]
    twice = {subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=True).stdout for _ in range(2)}

    assert len(twice) == 1


def test_every_seed_but_a_zip_bomb_is_valid() -> None:
    """Else a decoder would be tried with noise alone."""
    command = [sys.executable, "-m", "tests.fuzz", "--seeds"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)

    assert done.stdout == "http bodies 6: the body has more than 65536 bytes when it is unpacked\n", done.stderr
