"""Generated data into files that were not there before."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgectl.core.errors import UsageError


def write_new(path: Path, lines: Iterable[str]) -> int:
    """Write `lines`, each with its line feed; returns how many.

    Raises:
        UsageError: the file is there already, or its folder is not.
    """
    count = 0
    try:
        with path.open("x", encoding="utf-8") as file:
            for line in lines:
                file.write(line)
                count += 1
    except FileExistsError:
        raise UsageError(f"{path}: expected a new file, found one", hint="choose another name") from None
    except FileNotFoundError:
        raise UsageError(f"{path}: its folder is not there") from None
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return count
