"""What a sliding window has of a category whose templates training mined: counts, unseen ones, rarity.

``count`` has a column for each of the commonest templates, ``unseen`` is how many values training did not see, and
``rarity`` the mean of the values' -log2 share in training: it rises when the mix shifts towards what was rare.
Rarities are kept in 16ths of a bit, so that sums are exact in any order. A window without values gives 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgectl_agent.core.batch import Float64
from edgectl_agent.core.bundle import FeatureSpec, TemplateFeatures
from edgectl_agent.core.categories import code
from edgectl_agent.core.groups.interface import Group, Rows, category_columns
from edgectl_agent.core.groups.panes import Panes
from edgectl_agent.core.units import format_duration

_PER_BIT = 16
"""A pane then has room for 12 million values before its sum would not fit 32 bits."""


class TemplateMix(Group):
    """Counters per pane: all values, unseen ones, their rarity, and each of the commonest templates."""

    def __init__(self, group: TemplateFeatures, spec: FeatureSpec) -> None:
        self._kinds, self._top = group.kinds, group.top
        self._columns = category_columns(spec, group.categories)
        self._known = [_Known(spec, category) for category in group.categories]
        self.width = len(template_names(group, spec))
        shape = (len(group.categories), 3 + group.top)
        self._panes = Panes(group.window_ns, group.panes, shape, np.uint32, np.add)
        self.state = self._panes.state

    def push(self, rows: Rows) -> Float64:
        given = np.zeros((len(rows), len(self._columns), 3 + self._top), np.uint32)
        for k, (column, known) in enumerate(zip(self._columns, self._known, strict=True)):
            codes = rows.codes[:, column]
            place = known.places(codes)
            there = codes >= 0
            given[:, k, 0] = there
            given[:, k, 1] = there & (place < 0)
            given[:, k, 2] = np.where(there, known.bits[place], 0)  # the last is that of what is unseen
            common = np.flatnonzero((place >= 0) & (place < self._top))
            given[common, k, 3 + place[common]] = 1
        total = self._panes.push(rows.stream, rows.event_time, given).astype(np.float64)
        return np.concatenate([self._of(total[:, k], known) for k, known in enumerate(self._known)], axis=1)

    def _of(self, total: Float64, known: _Known) -> Float64:
        values = np.maximum(total[:, :1], 1)
        parts = {
            "count": total[:, 3 : 3 + min(self._top, known.size)],
            "unseen": total[:, 1:2],
            "rarity": total[:, 2:3] / _PER_BIT / values,
        }
        return np.concatenate([parts[kind] for kind in self._kinds], axis=1)


class _Known:
    """A category's templates by their codes."""

    def __init__(self, spec: FeatureSpec, category: str) -> None:
        found = spec.templates_of(category)
        texts, bits = (found.texts, found.bits) if found else ((), ())
        codes = np.array([code(text) for text in texts], np.int64)
        self.size = len(texts)
        self._order = np.argsort(codes, kind="stable")
        self._sorted = codes[self._order]
        every = [*bits, found.unseen_bits if found else 0.0]
        self.bits = np.rint(np.array(every) * _PER_BIT).astype(np.uint32)

    def places(self, codes: NDArray[np.int32]) -> NDArray[np.int64]:
        """Rank of each code's template, -1 where there is none."""
        if not self.size:
            return np.full(len(codes), -1, np.int64)
        at = np.minimum(np.searchsorted(self._sorted, codes), self.size - 1)
        found: NDArray[np.int64] = np.where(self._sorted[at] == codes, self._order[at], -1)
        return found


_SHOWN = 60


def template_names(group: TemplateFeatures, spec: FeatureSpec) -> list[str]:
    """What its columns are called; a count by its template's beginning and rank."""
    span, names = format_duration(group.window_ns), []
    for category in group.categories:
        known = spec.templates_of(category)
        texts = known.texts[: group.top] if known else ()
        for kind in group.kinds:
            if kind == "count":
                names += [f"{category} #{i} {text[:_SHOWN]!r}.count.{span}" for i, text in enumerate(texts, 1)]
            else:
                names.append(f"{category}.{kind}.{span}")
    return names
