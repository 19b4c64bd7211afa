"""Categories → small integers that mean the same on every node, in training and after every restart.

The code of a text is 31 bits of its BLAKE2b hash, so there is no dictionary to bound, to snapshot or to hand over:
state that holds codes can move to another node, and no number of distinct values makes a new one unknown. Two texts
share a code with a probability of 2⁻³¹: among a stream's 1,000 values, some pair does in one stream of 4,300.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from edgectl_agent.core.batch import Batch, Int32
from edgectl_agent.core.bundle import FeatureSpec
from edgectl_agent.core.templates import Matcher

MISSING = -1
MAX_KEPT = 50_000
"""Codes remembered so that they need not be hashed again: at most about 12 MB."""
_MAX_KEPT_CHARS = 100
MAX_KEPT_MESSAGES = 10_000
"""Masked messages of which the template is remembered: at most about 10 MB."""


def code(text: str) -> int:
    """The code of one category's value, from 0 to 2³¹ - 1; `MISSING` for ``""``."""
    if not text:
        return MISSING
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).digest()
    return int.from_bytes(digest, "little") & 0x7FFFFFFF


def codes_of(batch: Batch, categories: int) -> Int32:
    """Its codes, all missing where it has none; shape (n, categories)."""
    return np.full((len(batch), categories), MISSING, np.int32) if batch.codes is None else batch.codes


class CodeTable(dict[str, int]):
    """A bounded memory of `code`: when it is full it begins anew, which costs time and changes no code.

    Attributes:
        refills: how often it was full.
    """

    def __init__(self, max_kept: int = MAX_KEPT, matchers: Mapping[int, Matcher] | None = None) -> None:
        """`matchers`, by the column's place, for categories whose values are messages: the code is their template's."""
        super().__init__()
        self._matched = {i: _Templates(matcher) for i, matcher in (matchers or {}).items()}
        self._max_kept = max_kept
        self.refills = 0

    def __missing__(self, text: str) -> int:
        found = code(text)
        if len(text) <= _MAX_KEPT_CHARS:
            if len(self) >= self._max_kept:
                self.clear()
                self.refills += 1
            self[text] = found
        return found

    def encode(self, columns: Sequence[Sequence[str] | None], n: int) -> Int32:
        """Codes of `columns`, each of `n` texts or None where all are missing; shape (n, len(columns))."""
        codes = np.full((n, len(columns)), MISSING, np.int32)
        for i, texts in enumerate(columns):
            if texts is not None:
                codes[:, i] = np.fromiter(map(self._matched.get(i, self).__getitem__, texts), np.int32, n)
        return codes


class _Templates(dict[str, int]):
    """A bounded memory of the codes of messages' templates."""

    def __init__(self, matcher: Matcher) -> None:
        super().__init__()
        self._matcher = matcher

    def __missing__(self, text: str) -> int:
        found = code(self._matcher.template(text))
        if len(self) >= MAX_KEPT_MESSAGES:
            self.clear()
        self[text] = found
        return found


def code_table(spec: FeatureSpec) -> CodeTable:
    """For the categories of `spec`."""
    found = {i: spec.templates_of(category) for i, category in enumerate(spec.categories)}
    return CodeTable(matchers={i: Matcher(one.texts) for i, one in found.items() if one})
