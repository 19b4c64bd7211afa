"""Keeps a connection to an MQTT broker in a thread of its own; everything of paho happens in that thread.

A connection that is refused or lost is tried again after a while that grows, with jitter; `trouble` says why nothing
arrives meanwhile. The session at the broker stays (no clean start, one client id for ever), so that it keeps what comes
while nobody listens. Acknowledgements are sent here, and only on the connection that brought the messages.
"""

from __future__ import annotations

import random
import select
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgectl_agent.config import MqttConfig
from edgectl_agent.core.errors import EdgeError
from edgectl_agent.core.units import duration_ns
from edgectl_agent.logs import note, warn
from edgectl_agent.secretfile import first_line
from edgectl_agent.sources.decode import MAX_LINE_BYTES
from edgectl_agent.sources.mqtt_inbox import Inbox
from edgectl_agent.sources.mqtt_socket import Buffered, Message
from edgectl_agent.tls import calling
from edgectl_agent.uplink.pace import Pace
from edgectl_agent.wake import Wake

_PACE = Pace(0.5)
"""After failures: 1 s, then twice as long each time up to 30 s, each less a random half."""
_KEEPALIVE_S = 30
_CONNECT_S = 10.0
_TICK_S, _LONG_TICK_S = 0.1, 1.0
_GATHER_S = 0.02
"""A lone message is read at once; where they come one after the other, what comes within this after the first one is
read together."""
_FAREWELL_S = 2.0
_PACKET = MAX_LINE_BYTES + 128 * 1024
"""Packets up to this are handed on whole: the longest payload, topic and properties that are taken."""
_MOST_BLOCKS = 16
"""Read before acknowledgements are sent."""


class _Lost(EdgeError):
    """The connection ended, or never began."""

    exit_code, reason = 75, "source"


class Link:
    """`start` to `stop`; the parts in `trouble` may be read from anywhere."""

    def __init__(self, config: MqttConfig, client_id: str, inbox: Inbox, key: str, rng: random.Random) -> None:
        self._config, self._id, self._inbox, self._key, self._rng = config, client_id, inbox, key, rng
        self.trouble = ""
        self._stopping = threading.Event()
        self._wake = Wake()
        self._thread = threading.Thread(target=self._run, name=f"mqtt-{key}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Something may be acknowledged, or read again."""
        self._wake.set()

    def stop(self) -> None:
        """Acknowledge what is covered, say goodbye, keep the session."""
        self._stopping.set()
        self.wake()
        self._thread.join(_CONNECT_S + _FAREWELL_S)
        if not self._thread.is_alive():
            self._wake.close()

    # ── the thread ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        failing = 0
        while not self._stopping.is_set():
            session = _Session(self._config, self._id, self._inbox, self._key)
            try:
                session.open()
                while not self._stopping.is_set():
                    session.turn(self._wake)
                    failing, self.trouble = 0 if session.established else failing, session.refusals
                session.close()
                return
            except EdgeError as e:
                self.trouble = str(e)
            except OSError as e:
                self.trouble = f"{self._config.url}: the connection is lost: {e.strerror or e}"
            except Exception as e:  # whatever a library raises on hostile bytes must not end the thread in silence
                self.trouble = f"{self._config.url}: {type(e).__name__}: {e}"
            self._inbox.tell()
            session.abandon()
            self._inbox.lost()
            failing += 1
            self._stopping.wait(_PACE.failure(failing, self._rng.random()))


class _Client(Client):
    """paho's client on a socket that reads in blocks and keeps no payload that is too large."""

    buffered: Buffered
    trust: ssl.SSLContext | None = None

    def _create_socket(self) -> Any:
        connection = socket.create_connection((self.host, self.port), _CONNECT_S)
        if self.trust is not None:
            connection = self.trust.wrap_socket(connection, server_hostname=self.host)
        self.buffered = Buffered(connection, _PACKET, self.protocol == MQTTProtocolVersion.MQTTv5)
        return self.buffered


class _Session:
    """One connection, from `open` to `close` or to the first error."""

    def __init__(self, config: MqttConfig, client_id: str, inbox: Inbox, key: str) -> None:
        self._config, self._inbox, self._key = config, inbox, key
        self._five = config.protocol == "5"
        self._filters = config.filters
        self.established = False
        """Whether the broker has taken the client and answered its subscriptions."""
        self.refusals = ""
        self._why, self._told = "", False
        self._pollers: dict[int, select.poll] = {}
        """By what is wanted of the connection."""
        self._connect_by = time.monotonic() + _CONNECT_S
        self._misc_at = self._read_s = self._gather_until_s = 0.0
        more: dict[str, Any] = {} if self._five else {"clean_session": False}
        self._client = client = _Client(
            CallbackAPIVersion.VERSION2, client_id, protocol=_PROTOCOLS[config.protocol],
            reconnect_on_failure=False, manual_ack=True, **more,
        )  # fmt: skip
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_subscribe, client.on_message = self._on_subscribe, self._on_message
        client.on_socket_register_write = lambda *_: None  # so that paho leaves writing to `turn`

    def open(self) -> None:
        """Connect. Raises `EdgeError`."""
        config, client = self._config, self._client
        if config.user:
            key = f"sources.{self._key}.password_file"
            client.username_pw_set(config.user, first_line(config.password_file, key) or None)
        if config.secure:
            client.trust = calling(config.tls, f"sources.{self._key}.tls")
        more: dict[str, Any] = {}
        if self._five:
            properties: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = min(duration_ns(config.session) // 10**9, 0xFFFF_FFFF)
            properties.ReceiveMaximum = config.receive_maximum
            more = {"clean_start": False, "properties": properties}
        try:
            client.connect(config.host, config.port, keepalive=_KEEPALIVE_S, **more)
        except ssl.SSLCertVerificationError as e:
            raise _Lost(f"{config.url}: its certificate is not trusted: {e.verify_message}") from e
        except (OSError, ValueError) as e:
            raise _Lost(f"{config.url} cannot be reached: {getattr(e, 'strerror', None) or e}") from e

    def turn(self, wake: Wake) -> None:
        """Read what is there, acknowledge what is covered, and wait a moment for more. Raises `EdgeError`."""
        now_s = time.monotonic()
        gathering = now_s < self._gather_until_s and not self._inbox.urgent
        more = not gathering and self._read(now_s)
        self._inbox.tell()
        self._acknowledge()
        if gathering:
            self._wait(wake, self._gather_until_s - now_s, listen=False)
        elif self._wait(wake, 0.0 if more else _TICK_S if self._inbox.restless else _LONG_TICK_S) and not more:
            now_s = time.monotonic()
            if now_s - self._read_s < 2 * _GATHER_S:
                self._gather_until_s = now_s + _GATHER_S
        if now_s >= self._misc_at:
            self._misc_at = now_s + _LONG_TICK_S
            self._check(self._client.loop_misc())
        if not self.established and now_s > self._connect_by:
            raise _Lost(f"{self._config.url} does not answer within {_CONNECT_S:g} s")
        self._inbox.nudge()

    def close(self) -> None:
        """Send what may be acknowledged and disconnect; the broker keeps the session."""
        deadline = time.monotonic() + _FAREWELL_S
        self._client.buffered.linger_s = _FAREWELL_S
        with suppress(OSError, EdgeError):
            self._acknowledge()
            self._client.disconnect()
            while self._client.want_write() and time.monotonic() < deadline:
                self._client.loop_write()
        self.abandon()

    def abandon(self) -> None:
        """Close the socket, whatever state it is in."""
        connection = self._client.socket()
        if connection is not None:
            connection.close()

    def _read(self, now_s: float) -> bool:
        """Take in packets while there is room, but not for ever. Returns whether there may be more."""
        source, inbox = self._client.buffered, self._inbox
        for block in range(_MOST_BLOCKS):
            if inbox.full or not (source.messages or source.ready or source.fill()):
                return False
            while source.messages and not inbox.full:
                self._take(source.messages.popleft())
            while source.ready and not inbox.full:
                self._check(self._client.loop_read())
            if not block:
                self._read_s = now_s
            elif source.drained and not inbox.full:
                return False
            if not source.drained:
                inbox.tell()
        return True

    def _acknowledge(self) -> None:
        for identifier in self._inbox.due():
            self._client.ack(identifier, 1)
        if self._client.want_write():
            self._check(self._client.loop_write())

    def _wait(self, wake: Wake, timeout_s: float, listen: bool = True) -> bool:
        """Returns whether there is something to read."""
        readable = False
        wanted = (0 if self._inbox.full or not listen else select.POLLIN) | (
            select.POLLOUT if self._client.want_write() else 0
        )
        poller = self._pollers.get(wanted)
        if poller is None:
            poller = self._pollers[wanted] = select.poll()
            poller.register(self._client.buffered.fileno(), wanted)
            poller.register(wake.fileno(), select.POLLIN)
        for fd, event in poller.poll(timeout_s * 1000):
            if fd == wake.fileno():
                wake.clear()
            elif event & (select.POLLERR | select.POLLHUP) and not event & select.POLLIN:
                self._check(MQTTErrorCode.MQTT_ERR_CONN_LOST)
            else:
                readable |= bool(event & select.POLLIN)
        return readable

    def _check(self, code: int) -> None:
        if code or self._client.socket() is None:
            raise _Lost(f"{self._config.url}: {self._why or 'the connection is lost'}")

    # ── called by paho ──────────────────────────────────────────────────────────────────────────────────────────────

    def _on_connect(self, client: Client, _: Any, flags: ConnectFlags, reason: ReasonCode, __: Any) -> None:
        if reason.is_failure:
            self._why = f"the broker refuses this client: {reason}"
            return
        self._inbox.connected(flags.session_present)
        before = set(filter(None, self._inbox.topics.split("\n")))
        note("mqtt-connected", source=self._key, session="resumed" if flags.session_present else "new")
        if gone := sorted(before - set(self._filters)):
            client.unsubscribe(gone)
        if self._five or before != set(self._filters):
            client.subscribe(self._subscriptions())
        else:
            self.established = True  # subscribing anew would bring the retained messages again

    def _subscriptions(self) -> Any:
        if not self._five:
            return [(topic, 1) for topic in self._filters]
        options = SubscribeOptions(qos=1, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)
        return [(topic, options) for topic in self._filters]

    def _on_subscribe(self, _: Client, __: Any, ___: int, reasons: Sequence[ReasonCode], ____: Any) -> None:
        refused = [f"{t} ({r})" for t, r in zip(self._filters, reasons, strict=False) if r.is_failure]
        self.refusals = f"{self._config.url}: the broker refuses to deliver {', '.join(refused)}" if refused else ""
        taken = [t for t, r in zip(self._filters, reasons, strict=False) if not r.is_failure]
        self._inbox.subscribed("\n".join(taken))
        self.established = True

    def _on_disconnect(self, _: Client, __: Any, flags: DisconnectFlags, reason: ReasonCode, ___: Any) -> None:
        if flags.is_disconnect_packet_from_server:
            self._why = f"the broker ends the connection: {reason}"

    def _on_message(self, _: Client, __: Any, message: MQTTMessage) -> None:
        try:
            topic = message.topic.encode()
        except UnicodeDecodeError:
            topic = b""
        self._take(Message(topic, bytes(message.payload), message.mid if message.qos else 0))

    def _take(self, message: Message) -> None:
        try:
            topic = message.topic.decode()
        except UnicodeDecodeError:
            topic = ""
        if not message.identifier and not self._told:
            self._told = True
            warn("mqtt-qos-0", source=self._key, topic=topic, message="published with QoS 0: a kill may lose it")
        self._inbox.offer(topic, message.payload, message.identifier)


_PROTOCOLS = {"3.1.1": MQTTProtocolVersion.MQTTv311, "5": MQTTProtocolVersion.MQTTv5}
