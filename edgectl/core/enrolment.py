"""What a machine that enrols by itself is called. No I/O."""

from __future__ import annotations

import re
from collections.abc import Collection

_GENERIC = re.compile(
    r"(localhost|raspberrypi|raspberry|ubuntu|debian|fedora|linux|armbian|dietpi|jetson|nvidia|tegra|beaglebone|edge|node"
    r"|gateway|host|pi|server|machine|template|default|none|unknown|vagrant|docker|[0-9a-f]{12})([-._]?\d*)"
)
"""Host names that say nothing: what an image, a board or a container engine has by default."""


def name_for(hostname: str, site: str, taken: Collection[str]) -> str:
    """The machine's own name if it is one and free, else the site with the next free number.

    Args:
        hostname: as the machine says it; everything after its first dot does not count.
        site: of the invite.
        taken: names of all nodes that there are.
    """
    own = re.sub(r"[^a-z0-9_-]+", "-", hostname.split(".")[0].lower()).strip("-_")[:63]
    if own and not _GENERIC.fullmatch(own) and own not in taken:
        return own
    number = 1
    while (name := f"{site}-{number:02d}") in taken:
        number += 1
    return name
