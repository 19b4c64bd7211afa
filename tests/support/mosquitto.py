"""A real Mosquitto on the loopback, a child of the test; and a publisher that waits for every acknowledgement."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from paho.mqtt.client import Client, MQTTMessageInfo, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from tests.support.ports import wait_until_it_listens

START_S = 60.0


def missing() -> str | None:
    """Why there is no broker here."""
    return None if executable() else "needs mosquitto"


def executable() -> str | None:
    """Debian puts it where only root's path leads."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Broker:
    """Settings and data of one broker, which keeps its port when it is started again.

    With `durable` each change is on disk within a moment, so that a SIGKILL costs what was accepted just before it; a
    sender sends that again.
    """

    def __init__(self, folder: Path, *settings: str, durable: bool = False, version: int = 4) -> None:
        self.folder, self.port = folder, free_port()
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"listener {self.port} 127.0.0.1", "max_queued_messages 0", "log_type error", "log_type warning"]
        lines += ["allow_anonymous true"] if not any("password_file" in s for s in settings) else []
        lines += [f"persistence_location {folder}/"] if durable else []
        lines += ["persistence true", "autosave_on_changes true", "autosave_interval 500"] if durable else []
        self._conf = folder / "mosquitto.conf"
        self._conf.write_text("\n".join([*lines, *settings, "user root", ""]))
        self.process: subprocess.Popen[bytes] | None = None
        self.lives = 0

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def __enter__(self) -> Broker:
        if self.process is None:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        program = executable()
        assert program is not None
        self.lives += 1
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [program, "-c", str(self._conf)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until_it_listens(self.process, self.port, self.folder / "log", START_S)

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """SIGTERM: it saves what it has."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(START_S)
        self.process = None

    def publish(self, messages: Iterable[tuple[str, bytes]], qos: int = 1, retain: bool = False) -> None:
        """Publish (topic, payload) in order and wait until every one is acknowledged."""
        client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        client.max_inflight_messages_set(500)
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        sent = [client.publish(topic, payload, qos, retain) for topic, payload in messages]
        for one in sent:
            one.wait_for_publish(START_S)
            assert one.is_published()
        client.disconnect()
        client.loop_stop()


class Device:
    """A sensor that keeps its last `kept` messages and sends them again when the broker comes back: a broker that is
    killed may have accepted what is not yet on its disk."""

    def __init__(self, broker: Broker, kept: int = 3000) -> None:
        self._recent: deque[tuple[str, bytes]] = deque(maxlen=kept)
        self._waiting: deque[MQTTMessageInfo] = deque()
        self._broker = broker
        self._client: Client | None = None
        self._life = 0

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self._hang_up()

    def send(self, messages: Iterable[tuple[str, bytes]]) -> None:
        """Publish in order and wait for every acknowledgement, however often the broker goes."""
        for message in messages:
            self._recent.append(message)
            self._publish(message)
        while self._waiting:
            self._await_oldest()

    def remind(self) -> None:
        """Send the recent messages again if the broker was killed since: also what it had acknowledged may be gone."""
        if self._life != self._broker.lives:
            self._hang_up()
            self._connect()
            self.send([])

    def _publish(self, message: tuple[str, bytes]) -> None:
        if self._client is None:
            self._connect()
            return  # it was among the recent ones
        self._waiting.append(self._client.publish(*message, qos=1))
        while len(self._waiting) > 200:
            self._await_oldest()

    def _await_oldest(self) -> None:
        """Wait for one acknowledgement; after a lost connection connect anew and send the recent messages again."""
        while self._waiting:
            try:
                if self._waiting[0].is_published():
                    self._waiting.popleft()
                    return
            except RuntimeError:  # it was handed over when the connection was gone
                self._hang_up()
            if self._client is None or not self._client.is_connected():
                self._hang_up()
                self._connect()
            time.sleep(0.001)

    def _connect(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5, reconnect_on_failure=False)
            try:
                client.connect("127.0.0.1", self._broker.port)
            except OSError:
                assert time.monotonic() < deadline, "the broker does not come back"
                time.sleep(0.05)
                continue
            client.loop_start()
            while not client.is_connected() and time.monotonic() < deadline:
                time.sleep(0.005)
            self._client, self._life = client, self._broker.lives
            self._waiting.clear()
            self._waiting.extend(client.publish(topic, payload, qos=1) for topic, payload in list(self._recent))
            return

    def _hang_up(self) -> None:
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None
