"""Posts the node's report and alerts to its receiver, and brings back what the operator left there.

The outbox alone knows what the receiver has: a page is what is not released, and it is released when the receiver says
that it is on stable storage. So an answer that got lost, a kill and a receiver that was down for a week all end in the
same page being sent again, which changes nothing there.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgectl_agent.core.errors import StorageError, UsageError
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.core.messages import MAX_SYNC_BYTES, Answer, Report, SyncResult
from edgectl_agent.outbox import Outbox
from edgectl_agent.uplink.interface import Errand, UplinkError
from edgectl_agent.uplink.orders import Orders
from edgectl_agent.uplink.web import Web, retry_after_s

PAGE = 500
_MAX_RESULT_BYTES = 2 * 1024 * 1024


class Reporter(Errand):
    """One receiver."""

    name = "receiver"

    def __init__(
        self,
        url: str,
        web: Web,
        token_file: Path,
        node: str,
        outbox: Outbox,
        report: Callable[[], Report],
        orders: Orders,
    ) -> None:
        self._url = f"{url.rstrip('/')}/v1/nodes/{node}/sync"
        self._web, self._token_file, self._node = web, token_file, node
        self._outbox, self._report, self._orders = outbox, report, orders

    def attempt(self) -> bool:
        """Send one page. Returns whether there are further alerts."""
        answers = self._orders.answers()
        body, last = self._page(answers)
        result = self._post(body)
        self._orders.sent(answers)
        self._release(result, last)
        self._orders.take(result.orders)
        return bool(last) and self._outbox.status().records > 0

    def close(self) -> None:
        self._web.close()

    def _page(self, answers: tuple[Answer, ...]) -> tuple[bytes, int]:
        """The body, compressed, and the highest sequence in it (0: no alerts)."""
        log_id = self._outbox.log_id
        records = self._outbox.read(0, PAGE)
        last = records[-1].seq if records else 0
        page = {
            "node": self._node,
            "records": [{"boot": r.boot, "seq": r.seq, "alert": msgspec.Raw(r.payload)} for r in records],
            "next_after": last,
            "lost": self._outbox.lost,
            "log_id": log_id,
        }
        raw = msgspec.json.encode({"report": self._report(), "alerts": page, "answers": answers})
        if len(raw) > MAX_SYNC_BYTES:
            raise UplinkError(f"a sync of {len(raw)} bytes is larger than a receiver takes", act=True)
        return gzip.compress(raw, 6, mtime=0), last

    def _post(self, body: bytes) -> SyncResult:
        headers = {
            "Authorization": f"Bearer {self._token()}",
            "Content-Type": "application/json",
            "Content-Encoding": "gzip",
        }
        status, raw, later = self._web.post(self._url, body, headers, _MAX_RESULT_BYTES)
        if status != 200:
            raise self._refused(status, raw, retry_after_s(later, time.time()))
        try:
            return msgspec.json.decode(raw, type=SyncResult)
        except UNREADABLE as e:
            raise UplinkError(f"{self._url}: its answer is not a receiver's: {e}", act=True) from e

    def _refused(self, status: int, raw: bytes, retry_s: float) -> UplinkError:
        try:
            said = msgspec.json.decode(raw, type=dict[str, str]).get("error", "")
        except UNREADABLE:
            said = ""
        act = 400 <= status < 500 and status not in (408, 425, 429)
        sentence = f"{self._url}: answered {status}" + (f": {said[:300]}" if said else "")
        return UplinkError(sentence, act=act, retry_after_s=retry_s, status=status)

    def _release(self, result: SyncResult, last: int) -> None:
        released = result.released
        if released.log_id != self._outbox.log_id or released.through < last:
            raise UplinkError(f"{self._url}: did not take what was sent: it has {released.through}, not {last}")
        try:
            self._outbox.release(min(released.through, self._outbox.status().head_seq), released.log_id)
        except (StorageError, UsageError) as e:
            raise UplinkError(str(e), act=True) from e

    def _token(self) -> str:
        """Read anew each time, so that a changed token needs no restart."""
        try:
            token = self._token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as e:
            why = getattr(e, "strerror", None) or "is not a token"
            raise UplinkError(f"token_file {self._token_file}: {why}", act=True) from e
        if not token or not token.isprintable():
            raise UplinkError(f"token_file {self._token_file}: expected a token, found nothing of the kind", act=True)
        return token
