"""A PostgreSQL server of the tests' own, on a free port of this machine.

with Server() as server:
    url = server.database()      # a fresh, empty one
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

PASSWORD = "ops:of@acme"  # has to be quoted in a URL


def programs() -> Path | None:
    """Folder of the newest server's programs; Debian keeps them out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    path = shutil.which("initdb")
    return Path(path).parent if path else None


def missing() -> str | None:
    """Why there can be no server; None if there can."""
    if programs() is None:
        return "needs PostgreSQL's server programs (apt-get install postgresql)"
    if importlib.util.find_spec("psycopg") is None:
        return "needs psycopg (pip install 'edgectl[postgresql]')"
    return None


class Server:
    """Without fsync: what is tested is our code, not PostgreSQL's durability."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._folder = Path(tempfile.mkdtemp(prefix="edgectl-pg-"))
        self._user = "postgres" if os.geteuid() == 0 else None  # the server refuses to run as root
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]

    def __enter__(self) -> Server:
        secret = self._folder / "password"
        secret.write_text(PASSWORD)
        if self._user:
            entry = pwd.getpwnam(self._user)
            for path in (self._folder, secret):
                os.chown(path, entry.pw_uid, entry.pw_gid)
        self._run("initdb", "-D", self._data, "-A", "scram-sha-256", f"--pwfile={secret}", "-U", "ops", "-E", "UTF8")
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None) -> None:
        self.stop("immediate")
        shutil.rmtree(self._folder)

    def start(self) -> None:
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder}"
            " -c fsync=off -c max_connections=50"
        )
        self._run("pg_ctl", "-D", self._data, "-o", options, "-l", str(self._folder / "log"), "-w", "start")

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", self._data, "-m", mode, "-w", "stop")

    def database(self) -> str:
        """URL of an empty place, with the password: a schema of its own, which is made much faster than a database."""
        name = f"fleet{next(self._numbers)}"
        self.sql(f"CREATE SCHEMA {name}")
        return self.url("postgres", search_path=name)

    def url(self, name: str, user: str = "ops", password: str = PASSWORD, search_path: str = "") -> str:
        """URL of a database that may or may not be there."""
        from sqlalchemy.engine import URL

        query = {"options": f"-csearch_path={search_path}"} if search_path else {}
        made = URL.create("postgresql", user, password or None, "127.0.0.1", self.port, name, query)
        return made.render_as_string(hide_password=False)

    def sql(self, statement: str) -> None:
        """Run one statement as the superuser, outside of a transaction."""
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def _run(self, program: str, *args: str) -> None:
        folder = programs()
        assert folder is not None
        log = self._folder / "out"
        with log.open("ab") as out:  # a pipe would be inherited by the server and never end
            done = subprocess.run(
                [folder / program, *args], user=self._user, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/"
            )
        assert done.returncode == 0, log.read_text()
