"""``python -m tests.fuzz.guided TARGET SECONDS``: one decoder under atheris, whose inputs follow the code's branches.

It needs ``pip install atheris``, which nothing else here does. Coverage is seen of code in Python alone. New inputs go
to ``fuzz-failures/corpus-TARGET``, an input that fails beside it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """See the module."""
    try:
        import atheris  # type: ignore[import-not-found,unused-ignore]
    except ModuleNotFoundError:
        sys.exit("guided fuzzing needs atheris, which is not installed → pip install atheris")
    with atheris.instrument_imports(include=["edgectl_agent", "edgectl"]):
        from tests.fuzz.__main__ import GROUPS
    known = {target.name: target for make in GROUPS.values() for target in make()}
    if len(sys.argv) != 3 or sys.argv[1] not in known:
        sys.exit(f"expected a target and seconds; targets are: {', '.join(known)}")
    target = known[sys.argv[1]]
    folder = Path("fuzz-failures") / f"corpus-{target.name.replace(' ', '-')}"
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (folder / f"seed-{number}").write_bytes(seed[: target.longest])

    def run(data: bytes) -> Any:
        try:
            target.run(data)
        except target.raises:
            return -1  # not into the corpus
        return 0

    options = [f"-max_total_time={sys.argv[2]}", f"-max_len={target.longest}", "-timeout=5", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], str(folder), *options, f"-artifact_prefix={folder.parent}/"], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
