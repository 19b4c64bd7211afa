"""Messages of a history → the templates that a bundle carries, mined by drain3.

Drain joins messages of equally many words, word by word, as long as they are similar enough. It learns as it reads, so
its answer depends on what came before; what a bundle carries is the result, and `Matcher` alone says afterwards what a
message's template is, here and on the node. Equal messages in equal order give equal templates.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from edgectl_agent.core.bundle import Templates
from edgectl_agent.core.templates import PARAMETER, UNSEEN, Matcher, masked_one

from edgectl.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Mining:
    """How like each other messages of one template are, as a share of their words, and how many templates are kept."""

    similarity: float = 0.6
    most: int = 500


def mine(category: str, messages: Iterable[str], how: Mining) -> Templates:
    """The templates of messages, masked or not, the commonest first. Raises `ConfigError` if there are no messages."""
    try:
        from drain3.drain import Drain
    except ImportError:
        raise ConfigError(
            "mining templates of a log needs drain3, which is not installed", hint="pip install 'edgectl[logs]'"
        ) from None
    counts = Counter(map(masked_one, filter(None, messages)))
    if not counts:
        raise ConfigError(f"category {category!r} has no message, so there are no templates to mine")
    drain = Drain(sim_th=how.similarity, max_clusters=how.most, param_str=PARAMETER)
    for message in counts:  # each once, in order of appearance: telling Drain again changes its counts alone
        drain.add_log_message(message)
    matcher = Matcher(sorted(cluster.get_template() for cluster in drain.clusters))
    seen: Counter[str] = Counter()
    for message, count in counts.items():
        seen[matcher.template(message)] += count
    known = [(text, n) for text, n in seen.items() if not text.startswith(f"{UNSEEN} ")]
    known.sort(key=lambda one: (-one[1], one[0]))
    total = sum(n for _, n in known)
    return Templates(
        category=category,
        texts=tuple(text for text, _ in known),
        bits=tuple(round(math.log2(total / n), 4) for _, n in known),
        unseen_bits=round(math.log2(total + 1) + 1, 4),
    )
