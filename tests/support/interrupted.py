"""The real command, with Ctrl-C at one exact point of its work.

done = ctrl_c(shell, "edgectl.trust.publication:write_file", 2, "models", "sign", "press")

runs `edgectl models sign press` in a process that sends SIGINT to itself at the second call of that function.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.cli import Shell

ROOT = Path(__file__).parents[2]


def ctrl_c(
    shell: Shell, place: str, at: int | str, *args: str, after: bool = False
) -> subprocess.CompletedProcess[str]:
    """The finished command.

    Args:
        place: ``module:function`` or ``module:Class.method``.
        at: which call of it: the so-manieth, or the first one that has this word (or an entry of this event) among
            its arguments.
        after: interrupt when that call has returned, instead of before it begins.
    """
    return subprocess.run(
        [sys.executable, "-m", __name__, place, str(at), "after" if after else "before", *args],
        cwd=shell.folder,
        env={**shell.environ(), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _patch(place: str, at: str, when: str) -> None:
    module, _, path = place.partition(":")
    owner: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for step in outer:
        owner = getattr(owner, step)
    real = getattr(owner, name)
    calls, sent = 0, False

    def interrupting(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls, sent
        calls += 1
        words = {a if isinstance(a, str) else getattr(a, "event", None) for a in args}
        here = not sent and (at == str(calls) or at in words)
        sent = sent or here
        if here and when == "before":
            os.kill(os.getpid(), signal.SIGINT)
        result = real(*args, **kwargs)
        if here and when == "after":
            os.kill(os.getpid(), signal.SIGINT)
        return result

    setattr(owner, name, interrupting)


if __name__ == "__main__":
    from edgectl.cli.app import main

    _patch(*sys.argv[1:4])
    main(sys.argv[4:])
