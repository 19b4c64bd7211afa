"""Card payments that never were: cards with habits of their own, and frauds that are known.

A card has a usual amount and spread, a set of merchants, hours at which it pays, a home country and now and then a
journey. Everything depends on the seed, the card's name and the day alone, so that any stretch can be made again, with
frauds or without.

Frauds of a card: ``testing`` (many small online payments within minutes), ``amount`` (one payment far above the habit,
at a known shop), ``abroad`` (a new country and a new merchant), ``velocity`` (usual amounts at many merchants within an
hour). Of a merchant: ``compromise`` (charges of one size on many cards that were never there, within two hours).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from edgectl_agent.core.batch import Float64
from edgectl_agent.core.units import DAY_NS, SECOND_NS, iso

from edgectl.core.evaluation import WATCHED, Period

CardFraud = Literal["testing", "amount", "abroad", "velocity"]
Key = Literal["card", "merchant"]
KINDS: tuple[CardFraud, ...] = get_args(CardFraud)
MERCHANT_KINDS = ("compromise", "testing")
"""Frauds that show at a merchant."""
COUNTRIES = ("FR", "DE", "IT", "ES", "NL", "BE", "GB", "PL", "PT", "AT", "US", "BR", "TH", "NG", "ID", "TR")
_HOME, _TRAVEL = 10, 14
"""Cards live in the first so many countries, travel to the first so many; frauds abroad come from any."""
_MERCHANTS = 600
_HOUR_NS, _MINUTE_NS = 3600 * SECOND_NS, 60 * SECOND_NS
_APART_DAYS = 4
"""Between two frauds of one card."""


@dataclass(frozen=True, slots=True, order=True)
class Payment:
    """One record."""

    time_ns: int
    card: str
    amount: float
    merchant: str
    country: str
    channel: str

    def record(self) -> dict[str, Any]:
        return {
            "ts": iso(self.time_ns), "card": self.card, "amount": self.amount, "merchant": self.merchant,
            "country": self.country, "channel": self.channel,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fraud:
    """What was done to a card, or through a merchant."""

    kind: str
    stream: str
    payments: tuple[Payment, ...]

    @property
    def label(self) -> Period:
        times = [payment.time_ns for payment in self.payments]
        return Period(min(times), max(times), self.stream, self.kind)


@dataclass(frozen=True)
class Bank:
    """All cards of one seed; day 0 begins at `start_ns`."""

    seed: int
    cards: int
    start_ns: int

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"card-{i:05d}" for i in range(self.cards))

    def day(self, number: int, frauds: Sequence[Fraud] = ()) -> list[Payment]:
        """The payments of one day in order of time."""
        start = self.start_ns + number * DAY_NS
        found = [payment for card in self.names for payment in self._habitual(card, number)]
        found += [p for fraud in frauds for p in fraud.payments if start <= p.time_ns < start + DAY_NS]
        return sorted(found)

    def records(
        self, first: int, days: int, frauds: Sequence[Fraud] = (), tick: Callable[[], None] = lambda: None
    ) -> Iterator[dict[str, Any]]:
        """Records ``{ts, card, amount, merchant, country, channel}`` of `days` days, by time; `tick` after each day."""
        for number in range(first, first + days):
            for payment in self.day(number, frauds):
                yield payment.record()
            tick()

    def frauds(self, first: int, days: int, each: int) -> tuple[Fraud, ...]:
        """`each` frauds of every kind in these days, on cards and merchants chosen by the seed."""
        random = self._random("frauds", first, days)
        found: list[Fraud] = []
        taken: dict[str, list[int]] = {}
        for kind in KINDS * each:
            while True:
                card, day = self.names[int(random.integers(self.cards))], first + int(random.integers(days))
                if all(abs(day - other) >= _APART_DAYS for other in taken.get(card, [])):
                    break
                if sum(map(len, taken.values())) * _APART_DAYS * 4 > self.cards * days:
                    raise ValueError(f"expected fewer frauds for {self.cards} cards and {days} days, found {each} each")
            taken.setdefault(card, []).append(day)
            found.append(self._fraud(kind, card, day, random))
        for _ in range(max(1, each // 5)):
            found.append(self._compromise(first + int(random.integers(days)), random))
        return tuple(sorted(found, key=lambda fraud: fraud.label.start_ns))

    def labels(self, first: int, days: int, frauds: Sequence[Fraud], key: Key) -> list[Period]:
        """What to judge alerts by: frauds of the ``card`` or ``merchant`` key, and which streams were watched.

        A compromised merchant is the merchant's fraud alone: no single card of it shows more than a new shop. A card
        that is tested shows at the merchant too.
        """
        start = self.start_ns + first * DAY_NS
        if key == "card":
            found = [fraud.label for fraud in frauds if fraud.kind != "compromise"]
        else:
            found = [replace(f.label, stream=f.payments[0].merchant) for f in frauds if f.kind in MERCHANT_KINDS]
        streams = self.names if key == "card" else tuple(_merchant(i) for i in range(_MERCHANTS))
        return [*found, *(Period(start, start + days * DAY_NS - 1, stream, WATCHED) for stream in streams)]

    # ── a card's life ───────────────────────────────────────────────────────────────────────────────────────────────

    def _habitual(self, card: str, number: int) -> list[Payment]:
        trait, random = self._trait(card), self._random(card, number)
        week = self._random(card, "week", number // 7)
        abroad = COUNTRIES[int(week.integers(_TRAVEL))] if week.random() < 0.04 else ""
        start = self.start_ns + number * DAY_NS
        found = []
        for _ in range(int(random.poisson(trait.per_day))):
            country = abroad or trait.home
            online = random.random() < trait.online
            known = random.random() < (0.25 if abroad and not online else 0.93)
            merchant = int(random.choice(trait.merchants)) if known else int(random.integers(_MERCHANTS))
            if abroad and not online:
                merchant = int(self._random(card, "abroad", number // 7, random.integers(6)).integers(_MERCHANTS))
            hour = float(random.normal(trait.hour, 3.0)) % 24
            factor = self._random(merchant, "price").normal(0.0, 0.4)
            amount = round(float(np.exp(random.normal(trait.level + factor, trait.spread))), 2)
            found.append(
                Payment(
                    _whole(start + hour * _HOUR_NS),
                    card,
                    max(amount, 0.5),
                    _merchant(merchant),
                    trait.home if online else country,
                    "online" if online else "chip",
                )
            )
        return found

    def _trait(self, card: str) -> _Trait:
        random = self._random(card)
        return _Trait(
            per_day=float(random.uniform(1.0, 4.0)),
            level=float(random.normal(3.2, 0.5)),
            spread=float(random.uniform(0.3, 0.7)),
            hour=float(random.uniform(10, 19)),
            online=float(random.uniform(0.05, 0.4)),
            home=COUNTRIES[int(random.integers(_HOME))],
            merchants=tuple(map(int, random.integers(0, _MERCHANTS, int(random.integers(6, 20))))),
        )

    # ── frauds ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _fraud(self, kind: CardFraud, card: str, day: int, random: np.random.Generator) -> Fraud:
        trait = self._trait(card)
        at = self.start_ns + day * DAY_NS + int(random.uniform(1, 22) * _HOUR_NS)
        usual = float(np.exp(trait.level))

        def payment(after_ns: float, amount: float, merchant: int, country: str, channel: str) -> Payment:
            return Payment(_whole(at + after_ns), card, round(amount, 2), _merchant(merchant), country, channel)

        waits: Float64
        if kind == "testing":
            merchant = int(random.integers(_MERCHANTS))
            waits = np.asarray(np.cumsum(random.uniform(5, 60, int(random.integers(8, 20)))) * SECOND_NS, np.float64)
            paid = tuple(payment(w, random.uniform(0.5, 3), merchant, trait.home, "online") for w in waits)
        elif kind == "amount":
            merchant, amount = int(random.choice(trait.merchants)), usual * float(random.uniform(12, 40))
            paid = (payment(0, min(amount, 9000), merchant, trait.home, "chip"),)
        elif kind == "abroad":
            others = [c for c in COUNTRIES if c != trait.home]
            country, merchant = str(random.choice(others)), int(random.integers(_MERCHANTS))
            waits = np.arange(int(random.integers(2, 5)), dtype=np.float64) * 10 * _MINUTE_NS
            paid = tuple(payment(w, usual * random.uniform(2, 8), merchant, country, "stripe") for w in waits)
        else:
            waits = np.sort(random.uniform(0, 50, int(random.integers(8, 14)))) * float(_MINUTE_NS)
            paid = tuple(
                payment(w, usual * random.uniform(0.7, 2), int(random.integers(_MERCHANTS)), trait.home, "chip")
                for w in waits
            )
        return Fraud(kind, card, paid)

    def _compromise(self, day: int, random: np.random.Generator) -> Fraud:
        merchant = int(random.integers(_MERCHANTS))
        at = self.start_ns + day * DAY_NS + int(random.uniform(1, 21) * _HOUR_NS)
        amount, cards = float(random.uniform(40, 90)), random.permutation(self.cards)[: int(random.integers(15, 30))]
        paid = []
        for card in (self.names[int(number)] for number in cards):
            time_ns = _whole(at + random.uniform(0, 2) * _HOUR_NS)
            charged, home = round(amount * random.uniform(0.95, 1.05), 2), self._trait(card).home
            paid.append(Payment(time_ns, card, charged, _merchant(merchant), home, "online"))
        return Fraud("compromise", _merchant(merchant), tuple(paid))

    def _random(self, *parts: object) -> np.random.Generator:
        text = "\x1f".join(map(str, (self.seed, *parts)))
        return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.blake2b(text.encode()).digest()[:8], "big")))


@dataclass(frozen=True, slots=True)
class _Trait:
    """What is usual for a card; `level` and `spread` are of the amount's logarithm, `hour` of UTC."""

    per_day: float
    level: float
    spread: float
    hour: float
    online: float
    home: str
    merchants: tuple[int, ...]


def _whole(time_ns: float) -> int:
    """To the second, as the records have it, so that labels begin with their first record."""
    return int(time_ns // SECOND_NS) * SECOND_NS


def _merchant(number: int) -> str:
    return f"merchant-{number:04d}"
