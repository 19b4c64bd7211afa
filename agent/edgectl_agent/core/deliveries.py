"""What of a broker's at-least-once deliveries is acknowledged, when, and what is a redelivery. Pure.

A message gets a number when it arrives. It is acknowledged, in the order of arrival, when a stored snapshot covers its
number. After a lost connection or a kill the broker delivers again what it has no acknowledgement of, before anything
new, under identifiers of its own choice: such a message is told by its content among the last `limit` that arrived, and
only until a message that is new has been covered. Laws: no message is acknowledged before it is covered; every message
of the connection that is covered is acknowledged once; what is told as a redelivery has arrived before.
"""

from __future__ import annotations

from collections import deque

KEY_BYTES = 8
FEWEST_STALLED = 8
"""No broker in use lets fewer messages be unacknowledged (RabbitMQ: 10, Mosquitto: 20, EMQX: 32)."""
_FIRST_PATIENCE_S = 0.25
_ANSWER_S = 0.1
"""A broker that had waited for an acknowledgement sends its next message within this."""


class Deliveries:
    """Of one session; numbers go on from `taken`.

    Args:
        limit: how many messages may be unacknowledged.
        taken: the number up to which an earlier life's snapshot covers.
        held: keys of the last messages up to `taken`, of which acknowledgements may not have arrived.
    """

    def __init__(self, limit: int, taken: int = 0, held: bytes = b"") -> None:
        self.newest = taken
        """The number of the message that arrived last."""
        self._limit = limit
        self._keys: deque[tuple[bytes, int]] = deque()
        self._known: dict[bytes, int] = {}
        self._unacknowledged: deque[tuple[int, int]] = deque()
        self._redelivering, self._first_new = True, 0
        self._covered = taken
        self._held = bytearray(held)
        self._fresh: deque[tuple[bytes, int]] = deque()
        """Of messages that are not in `_held` yet."""
        for at in range(0, len(held), KEY_BYTES):
            self._remember(held[at : at + KEY_BYTES], taken)

    @property
    def unacknowledged(self) -> int:
        return len(self._unacknowledged)

    def arrived(self, identifier: int, key: bytes) -> int:
        """Note a message under the broker's `identifier` (0: it wants no acknowledgement).

        Returns:
            its number; 0 if it is a redelivery, which is acknowledged with the first delivery.
        """
        number = self._known.get(key, -1) if self._redelivering and identifier else -1
        again = number >= 0 and not 0 < self._first_new <= number
        if not again:
            self.newest = number = self.newest + 1
        if identifier:
            if not again:
                self._first_new = self._first_new or number
                self._remember(key, number)
                self._fresh.append((key, number))
            self._unacknowledged.append((number, identifier))
        return 0 if again else number

    def held(self, taken: int) -> bytes:
        """Keys of the last `limit` messages up to number `taken`, oldest first."""
        while self._fresh and self._fresh[0][1] <= taken:
            self._held += self._fresh.popleft()[0]
        del self._held[: -KEY_BYTES * self._limit]
        return bytes(self._held)

    def covered(self, taken: int) -> None:
        """A stored snapshot holds every message up to number `taken`."""
        self._covered = max(self._covered, taken)
        if 0 < self._first_new <= self._covered:
            self._redelivering = False

    def due(self) -> list[int]:
        """Identifiers to acknowledge now, each once."""
        due = []
        while self._unacknowledged and self._unacknowledged[0][0] <= self._covered:
            due.append(self._unacknowledged.popleft()[1])
        return due

    def lost(self) -> None:
        """The connection is gone: the broker delivers again what is not acknowledged."""
        self._unacknowledged.clear()
        self._redelivering, self._first_new = True, 0

    def renewed(self) -> None:
        """The broker knows nothing of the session: it delivers nothing again."""
        self._redelivering = False

    def _remember(self, key: bytes, number: int) -> None:
        self._keys.append((key, number))
        self._known[key] = number
        if len(self._keys) > self._limit:
            old, at = self._keys.popleft()
            if self._known.get(old) == at:
                del self._known[old]


class Window:
    """When an acknowledgement is urgent: before the broker stops sending for want of it.

    A broker lets so many messages be unacknowledged, and need not say how many. It is told by its silence, which an
    acknowledgement ends at once.

    Args:
        limit: what this side allows.
        longest_s: acknowledgements come at least this often anyway.
    """

    def __init__(self, limit: int, longest_s: float) -> None:
        self._most, self._longest_s = limit, longest_s
        self.limit = limit
        """How many messages the broker sends ahead, as far as is known."""
        self._patience_s = min(_FIRST_PATIENCE_S, longest_s)
        self._arrived_s = 0.0
        self._stalled, self._freed_s, self._suspected = 0, 0.0, 0

    def arrived(self, unacknowledged: int, now_s: float) -> None:
        if self._stalled:
            if now_s - self._freed_s >= _ANSWER_S:
                self._patience_s, self._suspected = min(2 * self._patience_s, self._longest_s), 0
            elif self._stalled == self._suspected:  # it stopped at the same number twice: no chance
                self.limit, self._patience_s = self._stalled, min(_FIRST_PATIENCE_S, self._longest_s)
            else:
                self._suspected = self._stalled
            self._stalled = 0
        if unacknowledged > self.limit:
            self.limit = self._most
        self._arrived_s = now_s

    def acknowledged(self, before: int, now_s: float) -> None:
        """`before` messages were unacknowledged until now."""
        self._stalled = before if self._silent(before, now_s, _FIRST_PATIENCE_S) else 0
        self._freed_s = now_s

    def urgent(self, unacknowledged: int, now_s: float) -> bool:
        if unacknowledged >= max(1, self.limit // 2):
            return True
        return self._silent(unacknowledged, now_s, self._patience_s)

    def reset(self) -> None:
        """Another connection, perhaps another broker."""
        self.limit, self._stalled, self._suspected = self._most, 0, 0

    def _silent(self, unacknowledged: int, now_s: float, patience_s: float) -> bool:
        return unacknowledged >= FEWEST_STALLED and now_s - self._arrived_s >= patience_s
