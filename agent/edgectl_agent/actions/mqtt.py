"""Publishes a message per alert on a connection that stays; a message that is not taken in time is not sent later."""

from __future__ import annotations

import ssl
import time
from contextlib import suppress
from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edgectl_agent.action_config import MqttAction
from edgectl_agent.actions.interface import EffectFailed, Effector, EffectUnknown
from edgectl_agent.connection import host_and_port
from edgectl_agent.core.errors import ConfigError
from edgectl_agent.core.template import Payload, Template, Values, control
from edgectl_agent.core.topics import MAX_TOPIC_BYTES
from edgectl_agent.secretfile import first_line
from edgectl_agent.tls import calling

_PROTOCOLS = {"3.1.1": MQTTProtocolVersion.MQTTv311, "5": MQTTProtocolVersion.MQTTv5}
_KEEPALIVE_S = 30
_LOOK_S = 0.001
_SHOWN = 80


class MqttEffector(Effector):
    """See the module."""

    def __init__(self, config: MqttAction, node: str, name: str, key: str) -> None:
        self._config, self._key = config, key
        self._id = config.client_id or f"{node}.action.{name}"
        self._topic, self._payload = Template.parse(config.topic), Payload.parse(config.payload)
        self._client: Client | None = None
        self._refused = ""
        self._denied = (0, "")
        """The message that the broker did not take last, and why."""

    def describe(self, values: Values) -> str:
        return f"publish to {self._config.url} {self._to(values)}: {self._payload.render(values).decode()}"

    def start(self) -> None:
        with suppress(EffectFailed):
            self._connected(time.monotonic())

    def run(self, values: Values, key: str, allowed: frozenset[str]) -> None:
        config, deadline = self._config, time.monotonic() + self._config.timeout_s
        topic = self._to(values)
        client, self._denied = self._connected(deadline), (0, "")
        try:
            sent = client.publish(topic, self._payload.render(values), config.qos, config.retain)
            while not sent.is_published() and client.is_connected() and time.monotonic() < deadline:
                time.sleep(_LOOK_S)
            done = sent.is_published()
        except (ValueError, RuntimeError) as e:
            self.abort()
            raise EffectUnknown(f"{config.url}: {e}") from e
        if not done:
            self.abort()  # else the library would send it again, whenever the broker comes back
            raise EffectUnknown(f"{config.url} did not acknowledge the message within {config.timeout_s:g} s")
        if self._denied[0] == sent.mid:
            raise EffectFailed(f"{config.url} does not take the message: {self._denied[1]}")

    def abort(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.disconnect()
            client.loop_stop()

    def _to(self, values: Values) -> str:
        """What a reading brought must not turn the topic into a filter, or into one that is the broker's own."""
        topic = self._topic.render(values)
        if any(c in topic for c in "+#"):
            raise EffectFailed(f"expected a topic without wildcards, found {topic!r}")
        if not topic or control(topic) or len(topic.encode()) > MAX_TOPIC_BYTES:  # brokers hang up at them
            found = f"{topic[:_SHOWN]!r}{'…' if len(topic) > _SHOWN else ''}"
            raise EffectFailed(f"expected a topic of at most {MAX_TOPIC_BYTES} printable bytes, found {found}")
        if topic.startswith("$") and not self._topic.fixed.startswith("$"):
            raise EffectFailed(f"expected a topic that is not the broker's own, found {topic!r}")
        return topic

    def _connected(self, deadline: float) -> Client:
        """A client that is connected, by `deadline`. Raises `EffectFailed`."""
        client = self._client or self._connect()
        while not client.is_connected():
            if self._refused or time.monotonic() >= deadline:
                why = self._refused or "it does not answer"
                if self._refused:
                    self.abort()
                raise EffectFailed(f"{self._config.url} cannot be reached: {why}")
            time.sleep(_LOOK_S)
        return client

    def _connect(self) -> Client:
        config, self._refused = self._config, ""
        host, port = host_and_port(config.url)
        client = Client(CallbackAPIVersion.VERSION2, self._id, protocol=_PROTOCOLS[config.protocol])
        client.on_connect, client.on_publish = self._on_connect, self._on_publish
        client.connect_timeout = max(0.1, config.timeout_s)
        try:
            if config.user:
                secret = first_line(config.password_file, f"{self._key}.password_file")
                client.username_pw_set(config.user, secret or None)
            if config.url.startswith("mqtts:"):
                client.tls_set_context(calling(config.tls, f"{self._key}.tls"))
            client.connect(host, port, keepalive=_KEEPALIVE_S)
        except ssl.SSLCertVerificationError as e:
            raise EffectFailed(f"{config.url}: its certificate is not trusted: {e.verify_message}") from e
        except (OSError, ValueError, ConfigError) as e:
            raise EffectFailed(f"{config.url} cannot be reached: {getattr(e, 'strerror', None) or e}") from e
        client.loop_start()
        self._client = client
        return client

    def _on_connect(self, client: Client, userdata: Any, flags: Any, code: Any, properties: Any) -> None:
        self._refused = str(code) if code.is_failure else ""

    def _on_publish(self, client: Client, userdata: Any, mid: int, code: Any, properties: Any) -> None:
        """Before `is_published`; an acknowledgement of MQTT 5 may say that the message went nowhere."""
        if code.is_failure:
            self._denied = (mid, str(code))
