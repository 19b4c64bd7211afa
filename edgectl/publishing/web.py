"""A web server that takes files by HTTP ``PUT``, as WebDAV servers do.

Whether a reader may see half a file while it is replaced is the server's matter; the usual ones write beside it and
rename. A client that does read half a ``timestamp.json`` refuses it and asks again later.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import httpx

from edgectl.core.errors import ConfigError, LockHeld
from edgectl.publishing.interface import Place, PlaceError

ANSWER_S = 60.0
_NO_FOLDER = (404, 409)
"""How servers say that a folder must be made first: RFC 4918 wants 409, some say 404."""


class WebPlace(Place):
    """Below `url`. With a user in the URL the secret is its password (Basic), else a bearer token."""

    def __init__(self, url: str, secret: str = "", verify: bool | str = True) -> None:
        parsed = httpx.URL(url)
        if parsed.password:
            raise ConfigError(f"{_shown(parsed)}: a password in a URL ends up in logs", hint="say --token-file")
        self.where = _shown(parsed)
        self._base = parsed.copy_with(userinfo=b"", path=parsed.path.rstrip("/") + "/", query=None, fragment=None)
        auth = (parsed.username, secret) if parsed.username else None
        headers = {"Authorization": f"Bearer {secret}"} if secret and auth is None else {}
        self._client = httpx.Client(timeout=ANSWER_S, auth=auth, headers=headers, verify=verify)
        self._made: set[str] = set()
        self._tags: dict[str, str] = {}

    def sizes(self) -> Mapping[str, int] | None:
        return None  # PROPFIND is not everywhere; what the last publication needed is known without asking

    def size(self, name: str) -> int | None:
        answer = self._ask("HEAD", name, "read", missing=True)
        return None if answer is None else int(answer.headers.get("content-length", -1))

    def read(self, name: str) -> bytes | None:
        answer = self._ask("GET", name, "read", missing=True, headers={"Cache-Control": "no-cache"})
        if answer is None:
            return None
        self._tags[name] = answer.headers.get("etag", "")
        return answer.content

    def write(self, name: str, content: Path, after: bytes | None = None) -> None:
        headers = {"If-Match": self._tags[name]} if after is not None and self._tags.get(name) else {}
        raw = content.read_bytes()
        answer = self._send("PUT", name, raw, headers)
        if answer.status_code in _NO_FOLDER:
            self._make_folders(name)
            answer = self._send("PUT", name, raw, headers)
        if answer.status_code == 412:
            raise LockHeld(f"{self.where}: {name} was replaced meanwhile: somebody else publishes there")
        self._check(answer, name, "written")

    def delete(self, name: str) -> None:
        self._ask("DELETE", name, "removed", missing=True)

    def close(self) -> None:
        self._client.close()

    def _make_folders(self, name: str) -> None:
        for folder in [str(p) for p in reversed(PurePosixPath(name).parents) if str(p) != "."]:
            if folder not in self._made:
                self._send("MKCOL", f"{folder}/")  # 405: it is there; anything else shows at the PUT that follows
                self._made.add(folder)

    def _ask(self, method: str, name: str, doing: str, *, missing: bool, **more: Any) -> httpx.Response | None:
        answer = self._send(method, name, **more)
        if missing and answer.status_code in (404, 410):
            return None
        self._check(answer, name, doing)
        return answer

    def _send(
        self, method: str, name: str, raw: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        content = raw if method == "PUT" else None
        try:
            return self._client.request(method, self._base.join(name), content=content, headers=headers)
        except httpx.HTTPError as e:
            said = str(e) or type(e).__name__
            raise PlaceError(f"{self.where}: does not answer: {said}", hint="publish again when it does") from e

    def _check(self, answer: httpx.Response, name: str, doing: str) -> None:
        status = answer.status_code
        if status in (401, 403):
            raise ConfigError(
                f"{self.where}: refuses our credential: {name} cannot be {doing} ({status})",
                hint="say --token-file, or set EDGECTL_PUBLISH_TOKEN",
            )
        if status in (405, 501):
            raise ConfigError(f"{self.where}: takes no {answer.request.method} ({status})", hint="publish to a folder")
        if not answer.is_success:
            raise PlaceError(f"{self.where}: {name} cannot be {doing}: {status} {answer.reason_phrase}".rstrip())


def _shown(url: httpx.URL) -> str:
    return str(url.copy_with(userinfo=url.username.encode()))
