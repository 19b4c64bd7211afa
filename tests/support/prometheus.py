"""A real Prometheus on the loopback, with the samples that a test wants.

with Prometheus(tmp_path, lines) as server: …  # lines as OpenMetrics has them, without ``# EOF``
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import bcrypt
import httpx

from tests.support.tls import free_port

USER, PASSWORD = "ops", "plant-secret"


def missing() -> str | None:
    """Why there is none here."""
    return None if shutil.which("prometheus") and shutil.which("promtool") else "needs prometheus (with promtool)"


class Prometheus:
    """Asks for `USER` and `PASSWORD`."""

    def __init__(self, folder: Path, lines: Iterable[str]) -> None:
        samples, self._data = folder / "samples", folder / "tsdb"
        samples.write_text("".join(f"{line}\n" for line in lines) + "# EOF\n")
        fill = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(samples), str(self._data)]
        subprocess.run(fill, check=True, capture_output=True, timeout=120)
        self._config, self._web = folder / "prometheus.yml", folder / "web.yml"
        self._config.write_text("global: {}\n")
        digest = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
        self._web.write_text(f"basic_auth_users: {{{USER}: '{digest}'}}\n")
        self.password_file = folder / "password"
        self.password_file.write_text(f"{PASSWORD}\n")
        self.port = free_port()
        self._log = folder / "log"

    @property
    def url(self) -> str:
        return f"prom+http://127.0.0.1:{self.port}"

    @property
    def environ(self) -> dict[str, str]:
        return {"EDGECTL_PROMETHEUS_USER": USER, "EDGECTL_PROMETHEUS_PASSWORD_FILE": str(self.password_file)}

    def __enter__(self) -> Prometheus:
        with self._log.open("wb") as log:
            command = [
                "prometheus", f"--config.file={self._config}", f"--web.config.file={self._web}",
                f"--storage.tsdb.path={self._data}", "--storage.tsdb.retention.time=100y",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ]  # fmt: skip
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not self._ready():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def _ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/-/ready", auth=(USER, PASSWORD), timeout=5).is_success
        except httpx.HTTPError:
            return False
