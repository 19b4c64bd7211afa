"""What of ``make fuzz`` runs with the tests: `EDGECTL_FUZZ_INPUTS` over all decoders, about a minute of CPU time.

Counted in inputs, so that one seed means the same inputs on every machine that is not very slow.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_INPUTS = int(os.environ.get("EDGECTL_FUZZ_INPUTS", "100000"))
_SECONDS = 180.0
_SEED = os.environ.get("EDGECTL_FUZZ_SEED", "1")
_SHARE = {"readings": 0.45, "wires": 0.1, "documents": 0.25, "operators": 0.2}


def run(group: str, failures: Path) -> None:
    """Its share for one group of decoders, in a process of its own, which has one thread and can be forked."""
    command = [sys.executable, "-m", "tests.fuzz", "--group", group, "--seed", _SEED]
    command += [
        "--inputs",
        str(int(_INPUTS * _SHARE[group])),
        "--seconds",
        str(_SECONDS * _SHARE[group]),
        "--failures",
        str(failures),
    ]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False, timeout=600)
    print(done.stdout)

    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.findall(r"([\d,]+) inputs, 0 failures", done.stdout)[0].replace(",", "")) > 1000
