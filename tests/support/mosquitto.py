"""A real Mosquitto on the loopback, a child of the test; and a publisher that waits for every acknowledgement."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

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
        lines += ["persistence true", "autosave_on_changes true", "autosave_interval 50"] if durable else []
        self._conf = folder / "mosquitto.conf"
        self._conf.write_text("\n".join([*lines, *settings, "user root", ""]))
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        program = executable()
        assert program is not None
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [program, "-c", str(self._conf)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.folder / "log").read_text()[-2000:]
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError(f"no broker within {START_S} s")

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
