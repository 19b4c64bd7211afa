"""The actions of agent.yaml as typed values, and what their types alone cannot say."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import PurePosixPath
from posixpath import normpath
from typing import Annotated, Literal

import msgspec

from edgectl_agent.connection import ClientTls, Strict, check_mqtt, check_pair, loopback, parts
from edgectl_agent.core.allowed import Reach
from edgectl_agent.core.errors import ConfigError
from edgectl_agent.core.gate import Rule
from edgectl_agent.core.messages import Alert, Severity
from edgectl_agent.core.template import Payload, Template
from edgectl_agent.core.topics import MAX_TOPIC_BYTES
from edgectl_agent.core.units import duration_ns, size_bytes

MOST_PER_PERIOD = 10_000
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_SECRET_HEADERS = ("authorization", "proxy-authorization", "cookie", "x-api-key")
_FRAMING_HEADERS = ("host", "content-length", "transfer-encoding", "connection", "te", "trailer", "upgrade", "expect",
                    "x-original-url", "x-rewrite-url", "x-http-method-override")  # fmt: skip
"""They would have a server take the request for another one than the signed rule covers."""
_OWN = ("actions", "agent.lock", "api.json", "dead-letters", "ingest.token", "outbox", "recordings", "slots",
        "snapshots", "spool", "trust")  # fmt: skip
_SHELLS = ("sh", "ash", "bash", "dash", "ksh", "mksh", "zsh", "fish", "busybox")
_RATE = re.compile(r"(\d{1,5})/(\d*)([a-z]+)")


class When(Strict, frozen=True, kw_only=True):
    """Which alerts an action answers; ``*`` and ``?`` in `recipe` and `stream` stand for anything."""

    state: Literal["open", "cleared", "any"] = "open"
    severity: Severity | Literal["any"] = "any"
    recipe: str = "*"
    stream: str = "*"

    def takes(self, alert: Alert) -> bool:
        return (
            self.state in ("any", alert.state)
            and self.severity in ("any", alert.severity)
            and fnmatchcase(alert.recipe, self.recipe)
            and fnmatchcase(alert.stream, self.stream)
        )


On = Severity | Literal["any"] | When
PayloadText = str | dict[str, str]


class LogAction(Strict, frozen=True, kw_only=True, tag_field="type", tag="log"):
    """Append the alert to a file, one JSON object per line."""

    on: On = "any"
    """A severity alone means every state: an end is worth knowing too."""
    path: str = ""
    """Defaults to ``actions.jsonl`` in the data folder."""

    @property
    def when(self) -> When:
        return self.on if isinstance(self.on, When) else When(state="any", severity=self.on)


class Effect(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What every action has that reaches beyond the agent; it needs the operator's signed allowance."""

    name: Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,62})?$")] = ""
    """In status and metrics; default: its type, from the second one on with a number."""
    on: On = "any"
    """A severity alone means alerts that open, or rise to it."""
    cooldown: str = "0s"
    """Per stream."""
    rate: str = "10/1m"
    """Of all streams together: so many at once, and so many more per period."""
    max_age: str = "10m"
    """An alert whose event time is older by the node's clock does not act; ``none``: however old it is."""
    timeout: str = "5s"
    dry_run: bool = False
    payload: PayloadText = ""
    """A text, or a mapping that becomes a JSON object; default: all fields as a JSON object."""

    @property
    def when(self) -> When:
        return self.on if isinstance(self.on, When) else When(severity=self.on)

    @property
    def rule(self) -> Rule:
        burst, per_ns = _rate(self.rate)
        age_ns = 0 if self.max_age == "none" else duration_ns(self.max_age)
        return Rule(duration_ns(self.cooldown), burst, per_ns, age_ns)

    @property
    def timeout_s(self) -> float:
        return duration_ns(self.timeout) / 1e9


class MqttAction(Effect, frozen=True, kw_only=True, tag_field="type", tag="mqtt"):
    """Publish to a topic of an MQTT broker."""

    url: str
    topic: str
    qos: Literal[0, 1] = 1
    retain: bool = False
    protocol: Literal["3.1.1", "5"] = "5"
    user: str = ""
    password_file: str = ""
    tls: ClientTls = ClientTls()
    client_id: str = ""
    """Default: node and action, ``lyon-pi-0417.action.mqtt``."""

    @property
    def reach(self) -> Reach:
        topic = Template.parse(self.topic)
        return Reach(kind="mqtt", url=self.url, text=topic.fixed, constant=topic.constant)


class WebhookAction(Effect, frozen=True, kw_only=True, tag_field="type", tag="webhook"):
    """Call a URL. Redirects are not followed."""

    url: str
    method: Literal["POST", "PUT"] = "POST"
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    header_files: dict[str, str] = msgspec.field(default_factory=dict)
    """Header → file whose first line is its value: for secrets."""
    idempotency_header: str = "Idempotency-Key"
    tls: ClientTls = ClientTls()

    @property
    def reach(self) -> Reach:
        return Reach(kind="webhook", url=self.url)


class ExecAction(Effect, frozen=True, kw_only=True, tag_field="type", tag="exec"):
    """Run a program without a shell: the payload is its standard input, its environment is empty but for ``PATH``."""

    command: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    """An absolute path and arguments, in which fields may stand."""
    memory: str = "256M"
    """Address space that it may use."""

    @property
    def reach(self) -> Reach:
        return Reach(kind="exec", text=self.command[0], args=self.command[1:])


class FileAction(Effect, frozen=True, kw_only=True, tag_field="type", tag="file"):
    """Append the payload to a file as one line."""

    path: str

    @property
    def reach(self) -> Reach:
        return Reach(kind="file", text=self.path)


EffectConfig = MqttAction | WebhookAction | ExecAction | FileAction
ActionConfig = LogAction | EffectConfig


def names(actions: Sequence[ActionConfig]) -> tuple[str, ...]:
    """What each action is called, in order; ``log`` ones too."""
    found: list[str] = []
    for action in actions:
        kind = str(action.__struct_config__.tag)
        said = "" if isinstance(action, LogAction) else action.name
        count = sum(1 for name in found if name.partition("~")[0] == kind)
        found.append(said or (f"{kind}~{count + 1}" if count else kind))
    return tuple(name.replace("~", "-") for name in found)


def check_actions(actions: Sequence[ActionConfig]) -> None:
    """Raises `ConfigError` that begins with the key."""
    called = names(actions)
    for i, action in enumerate(actions):
        if called.index(called[i]) != i:
            raise ConfigError(f"actions[{i}].name: {called[i]!r} is there twice")
        if not isinstance(action, LogAction):
            _check_effect(f"actions[{i}]", action)


def check_beside(actions: Sequence[ActionConfig], folder: str) -> None:
    """A line in one of the agent's own files below its data folder would spoil what it trusts or remembers.

    Raises `ConfigError` that begins with the key.
    """
    for i, action in enumerate(actions):
        if not isinstance(action, LogAction | FileAction) or not action.path:
            continue
        path = PurePosixPath(normpath(action.path))
        if not path.is_relative_to(normpath(folder)):
            continue
        first = path.relative_to(normpath(folder)).parts[:1]
        if not first or first[0] in _OWN or first[0].startswith("agent.log"):
            raise ConfigError(f"actions[{i}].path: expected a file that is not the agent's own, found {str(path)!r}")


def _check_effect(key: str, action: EffectConfig) -> None:
    for name, least in (("cooldown", "0s"), ("timeout", "10ms")):
        check_quantity(f"{key}.{name}", getattr(action, name), duration_ns, least)
    _at(f"{key}.rate", lambda: _rate(action.rate))
    if action.max_age != "none":
        check_quantity(f"{key}.max_age", action.max_age, duration_ns, "1s")
    if action.timeout_s > 3600:
        raise ConfigError(f"{key}.timeout: expected at most 1h, found {action.timeout!r}")
    _at(f"{key}.payload", lambda: Payload.parse(action.payload))
    if isinstance(action, MqttAction):
        _check_mqtt(key, action)
    elif isinstance(action, WebhookAction):
        _check_webhook(key, action)
    elif isinstance(action, ExecAction):
        _absolute(f"{key}.command[0]", action.command[0])
        for i, word in enumerate(action.command[1:], 1):
            _at(f"{key}.command[{i}]", lambda word=word: Template.parse(word))  # type: ignore[misc]
        _check_script(key, action.command)
        check_quantity(f"{key}.memory", action.memory, size_bytes, "1M")
    else:
        _absolute(f"{key}.path", action.path)


def _check_script(key: str, command: tuple[str, ...]) -> None:
    """A field in a shell's script would let whoever names a stream write code."""
    if PurePosixPath(command[0]).name not in _SHELLS:
        return
    for i, (before, word) in enumerate(pairwise(command), 1):
        if re.fullmatch(r"-[A-Za-z]*c", before) and not Template.parse(word).constant:
            raise ConfigError(
                f"{key}.command[{i}]: expected a script without fields: a stream's name could be code in it",
                hint='hand it over as an argument: [/bin/sh, -c, \'echo "$1"\', sh, "{stream}"]',
            )


def _check_mqtt(key: str, action: MqttAction) -> None:
    found = parts(action.url, "mqtt", "mqtts")
    if found is None or found.path.strip("/") or found.query or found.fragment or found.username or found.password:
        raise ConfigError(f"{key}.url: expected a URL such as mqtts://broker.acme.example:8883, found {action.url!r}")
    check_mqtt(key, action.url, action.user, action.password_file, action.tls)
    check_pair(key, action.tls)
    _at(f"{key}.topic", lambda: Template.parse(action.topic))
    if not action.topic or any(c in action.topic for c in "+#\0") or len(action.topic.encode()) > MAX_TOPIC_BYTES:
        raise ConfigError(f"{key}.topic: expected a topic without wildcards, found {action.topic!r}")


def _check_webhook(key: str, action: WebhookAction) -> None:
    found = parts(action.url, "http", "https")
    if found is None or found.fragment or found.username or found.password or "/.." in found.path:
        raise ConfigError(f"{key}.url: expected a URL such as https://hooks.acme.example/edge, found {action.url!r}")
    if any(not "!" <= c <= "~" for c in action.url):
        raise ConfigError(f"{key}.url: expected letters of ASCII without spaces, found {action.url!r}")
    if found.scheme == "http" and not loopback(found.hostname or ""):
        raise ConfigError(f"{key}.url: expected https (http on loopback only), found {action.url!r}")
    for name in (*action.headers, *action.header_files, action.idempotency_header):
        if not _HEADER.fullmatch(name):
            raise ConfigError(f"{key}.headers: expected the name of a header, found {name!r}")
        if name.lower() in _FRAMING_HEADERS:
            raise ConfigError(f"{key}.headers: {name} is set by the agent alone: it says which request this is")
    for name, value in action.headers.items():
        if name.lower() in _SECRET_HEADERS:
            raise ConfigError(f"{key}.headers.{name}: expected it under header_files: agent.yaml holds no secrets")
        if any(not " " <= c <= "~" for c in value):
            raise ConfigError(f"{key}.headers.{name}: expected one line of ASCII, found {value!r}")
    check_pair(key, action.tls)


def _absolute(key: str, path: str) -> None:
    if (
        not path.startswith("/")
        or ".." in PurePosixPath(path).parts
        or path != str(PurePosixPath(path))
        or "\0" in path
    ):
        raise ConfigError(f"{key}: expected an absolute path without .., found {path!r}")


def _rate(text: str) -> tuple[int, int]:
    """``10/1m`` → (10, 60·10⁹). Raises `ConfigError`."""
    found = _RATE.fullmatch(text)
    burst = int(found[1]) if found else 0
    if found is None or not 0 < burst <= MOST_PER_PERIOD:
        raise ConfigError(f"expected a rate such as 10/1m (1 to {MOST_PER_PERIOD} per period), found {text!r}")
    per_ns = duration_ns(f"{found[2] or 1}{found[3]}")
    if not per_ns:
        raise ConfigError(f"expected a period above 0, found {text!r}")
    return burst, per_ns


def check_quantity(key: str, text: str, read: Callable[[str], int], least: str) -> None:
    """Raises `ConfigError` that begins with the key, unless `text` is a duration or size of at least that."""
    _at(key, lambda: read(text))
    if read(text) < read(least):
        raise ConfigError(f"{key}: expected at least {least}, found {text!r}")


def _at(key: str, check: Callable[[], object]) -> None:
    try:
        check()
    except ConfigError as e:
        raise ConfigError(f"{key}: {e.message}") from e
