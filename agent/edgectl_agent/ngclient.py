"""python-tuf's client without the HTTP library that it loads for a fetcher of its own.

Every verification runs in a new process, and compiling urllib3's regular expressions would be a third of its work. We
always hand in a fetcher over the spool (`edgectl_agent.spool`), so python-tuf's is never made.
"""

from __future__ import annotations

import sys
from types import ModuleType

_UNUSED = "tuf.ngclient.urllib3_fetcher"


class Urllib3Fetcher:
    """Stands where python-tuf looks for its default fetcher."""

    def __init__(self, *_: object, **__: object) -> None:
        raise AssertionError("the trust client fetches from the spool only")


if _UNUSED not in sys.modules:
    sys.modules[_UNUSED] = ModuleType(_UNUSED, __doc__)
    sys.modules[_UNUSED].__dict__["Urllib3Fetcher"] = Urllib3Fetcher

from tuf.ngclient import FetcherInterface, Updater  # noqa: E402 - after what it looks for

__all__ = ["FetcherInterface", "Updater"]
