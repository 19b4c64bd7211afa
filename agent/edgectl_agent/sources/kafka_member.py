"""A member of a Kafka consumer group, in a thread of its own: fetches, commits what is covered, hands partitions over.

It alone calls librdkafka's consumer. The rules for offsets are `core.offsets`; messages go into an `Inbox`.

A partition that is taken away is handed over in order: nothing more of it goes to the worker; the worker's next
snapshot, which is saved at once, covers what it had; that is committed; then the new owner may begin. Where that takes
longer than `_HANDOVER_S` the new owner begins at what was committed before.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from edgectl_agent.core.offsets import Committed, Partition, behind, lost, resume
from edgectl_agent.logs import note, warn
from edgectl_agent.sources.kafka_inbox import Inbox

_TICK_S = 0.25
_PAGE = 2000
"""Most messages fetched from librdkafka's queue in one call."""
_ASK_S = 10.0
"""How long a broker may take to answer about offsets."""
_HANDOVER_S = 10.0
_LOOK_S = 2.0
"""Between two looks whether the brokers answer again."""
_COMMIT_RETRY_S = 1.0
_UNREADABLE = (KafkaError._BAD_MSG, KafkaError._BAD_COMPRESSION, KafkaError._NOT_IMPLEMENTED)
_GONE = (KafkaError._ALL_BROKERS_DOWN, KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError._RESOLVE)
_DETAIL = re.compile(r"^\S+/\w+: |^GroupCoordinator: \S+: | \(after .*\)$")
"""What of librdkafka's sentences differs from one try to the next."""
_QUIET = logging.Logger("librdkafka")
_QUIET.addHandler(logging.NullHandler())


class Member:
    """Runs from `start` to `stop`.

    Args:
        settings: librdkafka's, see `kafka_settings`.
        topics: to subscribe to.
        from_end: where to begin in a partition that nobody has read.
        cluster: of which `inbox` knows offsets; those of another cluster mean nothing.
        wake: lets the worker look; called from this member's thread.
    """

    def __init__(
        self, settings: Mapping[str, Any], topics: Sequence[str], from_end: bool, cluster: str, inbox: Inbox,
        wake: Callable[[], None],
    ) -> None:  # fmt: skip
        self._settings = {**settings, "error_cb": self._on_error, "on_commit": self._on_commit}
        self._topics, self._from_end = list(topics), from_end
        self.cluster = cluster
        self.trouble = ""
        """Why nothing arrives, while it tries again by itself."""
        self.failure = ""
        """Why it has ended."""
        self.urgent = False
        """Whether a partition waits for `covered` to be handed over."""
        self._inbox, self._wake = inbox, wake
        self._changed = threading.Condition()
        self._covered: dict[Partition, int] = {}
        self._known: dict[Partition, int] = {}
        """What the group's coordinator has acknowledged."""
        self._assigned: set[Partition] = set()
        self._passed: dict[Partition, int] = {}
        """Where partitions went on after something that could not be read."""
        self._stopping = self._paused = self._committing = False
        self._look_at_s = self._commit_at_s = 0.0
        self._last_error = ""
        self._thread = threading.Thread(target=self._run, name="kafka", daemon=True)

    @property
    def member(self) -> str:
        return str(self._settings["group.instance.id"])

    @property
    def idle(self) -> bool:
        """Whether it has no partition."""
        return not self._assigned

    # ── for the worker ──────────────────────────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        self._thread.start()

    def covered(self, offsets: Mapping[Partition, int]) -> None:
        """A stored snapshot contains these; they may be committed."""
        with self._changed:
            self._covered.update(offsets)
            self._changed.notify_all()

    def stop(self, timeout_s: float) -> None:
        """End it; partitions stay its own until the session is over, so that a restart moves none."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._inbox.close()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    # ── the thread ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        try:
            consumer = Consumer(self._settings, logger=_QUIET)
        except (KafkaException, ValueError) as e:
            self._fail(e)
            return
        try:
            consumer.subscribe(
                self._topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            while not self._stopping:
                self._turn(consumer)
        except Exception as e:  # whatever it is, the worker must hear of it: the source is then opened again
            self._fail(e)
        finally:
            consumer.close()

    def _fail(self, error: Exception) -> None:
        self._stopping, self.failure = True, _sentence(error)
        self._wake()

    def _turn(self, consumer: Consumer) -> None:
        """Fetch what is there. While the inbox is full the partitions pause, and only the group's business is done."""
        if self._inbox.wait_for_room(_TICK_S):
            if self._paused:
                self._paused = False
                consumer.resume(consumer.assignment())
            self._receive(consumer, [consumer.poll(_TICK_S)])
            self._receive(consumer, consumer.consume(_PAGE, 0))
        else:
            if not self._paused:
                self._paused = True
                consumer.pause(consumer.assignment())
            self._receive(consumer, [consumer.poll(0)])
        self._commit_due(consumer)
        if self.trouble and time.monotonic() >= self._look_at_s:
            self._look(consumer)

    def _receive(self, consumer: Consumer, fetched: Sequence[Message | None]) -> None:
        messages = [message for message in fetched if message is not None]
        errors = list(map(Message.error, messages))
        if any(errors):  # not by comparing with None, which librdkafka's errors cannot
            rest: list[Message] = []
            for message, error in zip(messages, errors, strict=True):
                if error is None:
                    rest.append(message)
                else:
                    self._pass_on(rest)
                    rest = []
                    self._on_event(consumer, message, error)
            messages = rest
        self._pass_on(messages)

    def _pass_on(self, messages: Sequence[Message]) -> None:
        if not messages:
            return
        self.trouble = ""
        where: Any = zip(map(Message.topic, messages), map(Message.partition, messages), strict=True)
        offsets: Any = list(map(Message.offset, messages))
        keys, values = list(map(Message.key, messages)), list(map(Message.value, messages))
        if self._inbox.put(where, offsets, keys, values):
            self._wake()

    def _on_event(self, consumer: Consumer, message: Message, error: KafkaError) -> None:
        """Something came in a message's place."""
        code, topic, number, offset = error.code(), message.topic(), message.partition(), message.offset() or 0
        if error.fatal() or code == KafkaError._FATAL:
            raise KafkaException(error)
        if topic is not None and number is not None and code in (KafkaError._AUTO_OFFSET_RESET, *_UNREADABLE):
            partition = Partition(topic, number)
            if offset < self._passed.get(partition, -1):
                return  # said again before it was passed over
            if code == KafkaError._AUTO_OFFSET_RESET:
                self._reset(consumer, partition, offset)
            else:
                self._go_on(consumer, partition, offset + 1, "corrupt", 1)
        elif code != KafkaError._PARTITION_EOF:
            self._say(f"{topic}: {error.str()}" if topic else error.str())

    def _reset(self, consumer: Consumer, partition: Partition, wanted: int) -> None:
        """Go on where the partition begins, after counting what is lost."""
        low, high = consumer.get_watermark_offsets(TopicPartition(*partition), timeout=_ASK_S)
        count, why = lost(wanted, low, high)
        warn("kafka-offset-gone", topic=partition.topic, partition=partition.number, offset=wanted, low=low, high=high)
        with self._changed:  # both may be beyond the end of a topic that was made anew
            self._known.pop(partition, None)
            self._covered.pop(partition, None)
        self._go_on(consumer, partition, low, why, count)

    def _go_on(self, consumer: Consumer, partition: Partition, offset: int, why: str, count: int) -> None:
        """Read `partition` on at `offset`; what is passed over is counted."""
        self._passed[partition] = offset
        self._inbox.skip(partition, offset, why, count)
        place = [TopicPartition(*partition, offset)]
        consumer.incremental_unassign(place)  # a seek is refused in this state
        consumer.incremental_assign(place)
        if self._paused:
            consumer.pause(place)
        self._wake()

    # ── the group ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Begin with partitions; an error here ends the member, and the source opens another one after a while."""
        cluster = consumer.cluster_id(timeout=_ASK_S) or self.cluster
        if self.cluster not in ("", cluster):
            warn("kafka-another-cluster", found=cluster, expected=self.cluster)
            self._inbox.forget()
        self.cluster = cluster
        starts: dict[Partition, int | None] = {}
        for place, committed in self._committed(consumer, partitions).items():
            offset = resume(self._inbox.handed(place), committed, self.member)
            if committed is not None:
                self._known[place] = committed.offset
                if offset == committed.offset:
                    self.covered({place: offset})
            if offset is None and self._from_end:
                offset = consumer.get_watermark_offsets(TopicPartition(*place), timeout=_ASK_S)[1]
                self.covered({place: offset})  # to be committed: what comes while this node is down is then not missed
            starts[place] = offset
            self._passed.pop(place, None)
        self._inbox.own(starts)
        self._assigned |= set(starts)
        begin = [TopicPartition(*place, OFFSET_BEGINNING if at is None else at) for place, at in starts.items()]
        consumer.incremental_assign(begin)
        if self._paused:
            consumer.pause(begin)
        note("kafka-assigned", partitions=_names(starts))

    def _committed(self, consumer: Consumer, partitions: list[TopicPartition]) -> dict[Partition, Committed | None]:
        found: dict[Partition, Committed | None] = {}
        for held in consumer.committed(partitions, timeout=_ASK_S) if partitions else ():
            if held.error is not None:
                raise KafkaException(held.error)
            known = Committed(held.offset, held.metadata or "") if held.offset >= 0 else None
            found[Partition(held.topic, held.partition)] = known
        return found

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        places = _places(partitions)
        self._inbox.drop(places)
        if not self._stopping:
            self.urgent = True
            self._wake()
            with self._changed:
                done = self._changed.wait_for(lambda: self._stopping or self._all_covered(places), _HANDOVER_S)
            self.urgent = False
            note("kafka-revoked", partitions=_names(places), covered=done)
        self._commit_last(consumer, places)
        self._assigned -= set(places)
        consumer.incremental_unassign(partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """The group did not hear of this member for too long: others may be reading already; nothing is committed."""
        places = _places(partitions)
        self._inbox.drop(places)
        self._assigned -= set(places)
        warn("kafka-lost", partitions=_names(places))
        consumer.incremental_unassign(partitions)

    def _all_covered(self, places: Iterable[Partition]) -> bool:
        had = {place: self._inbox.handed(place) for place in places}
        return all(at is None or self._covered.get(place, -1) >= at for place, at in had.items())

    # ── commits ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _due(self, among: Iterable[Partition]) -> list[TopicPartition]:
        with self._changed:
            due = behind(self._covered, self._known, among)
        return [TopicPartition(*place, offset, metadata=self.member) for place, offset in due.items()]

    def _commit_due(self, consumer: Consumer) -> None:
        if self._committing or time.monotonic() < self._commit_at_s or self.trouble:
            return
        due = self._due(self._assigned)
        if due:
            self._committing = True
            consumer.commit(offsets=due, asynchronous=True)

    def _commit_last(self, consumer: Consumer, places: Iterable[Partition]) -> None:
        due = self._due(place for place in places if place in self._assigned)
        if not due or self.trouble:
            return
        try:
            consumer.commit(offsets=due, asynchronous=False)
        except KafkaException as e:
            warn("kafka-commit-failed", message=_sentence(e))

    def _on_commit(self, error: KafkaError | None, partitions: list[TopicPartition]) -> None:
        self._committing = False
        if error is not None:
            self._commit_at_s = time.monotonic() + _COMMIT_RETRY_S
            note("kafka-commit-failed", logging.DEBUG, message=error.str())
            return
        for place in partitions:
            if place.error is None:
                self._known[Partition(place.topic, place.partition)] = place.offset

    # ── what is wrong ───────────────────────────────────────────────────────────────────────────────────────────────

    def _on_error(self, error: KafkaError) -> None:
        """librdkafka's word on its connections; it goes on trying, later and later."""
        if error.code() == KafkaError._BAD_MSG and "response size" in error.str():
            self._last_error = (
                f"a batch is larger than {self._settings['receive.message.max.bytes'] >> 20} MiB: lower the topic's "
                "max.message.bytes, and move the group's offset past it"
            )
        elif error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._last_error = _DETAIL.sub("", error.str())
        if error.code() in _GONE:
            brokers = self._settings["bootstrap.servers"]
            self._say(f"no broker of {brokers} takes this node in: {self._last_error or 'the connection was closed'}")

    def _say(self, trouble: str) -> None:
        self.trouble = trouble
        self._look_at_s = time.monotonic() + _LOOK_S
        self._wake()

    def _look(self, consumer: Consumer) -> None:
        """Whether what was wrong still is."""
        self._look_at_s = time.monotonic() + _LOOK_S
        try:
            there = consumer.list_topics(timeout=1.0).topics
        except KafkaException:
            return
        missing = [topic for topic in self._topics if not topic.startswith("^") and topic not in there]
        self.trouble = f"there is no topic {missing[0]}" if missing else ""
        self._wake()


def _places(partitions: Iterable[TopicPartition]) -> list[Partition]:
    return [Partition(p.topic, p.partition) for p in partitions]


def _names(places: Iterable[Partition]) -> list[str]:
    return [f"{topic}:{number}" for topic, number in places]


def _sentence(error: Exception) -> str:
    """What librdkafka says, with the next step where we know one."""
    found = error.args[0] if error.args else error
    if not isinstance(found, KafkaError):
        return str(found)
    if found.code() in (KafkaError._FATAL, KafkaError.FENCED_INSTANCE_ID) and "fenced" in found.str().lower():
        return "another process is this member of the group: two agents have the same node name and source"
    return str(found.str())
