"""Fetching from a real web server on the loopback."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from edgectl.core.errors import DownloadFailed, NothingMatched, TrustError
from edgectl.evaluation.datasets.catalogue import Dataset, File, datasets, named, numbers_digest
from edgectl.evaluation.datasets.fetching import PART, Fetched, fetch

CONTENT = {"data/a b.csv": b"timestamp,value\n" + b"1,2\n" * 5000, "labels/c.json": b"{}"}


class Server(ThreadingHTTPServer):
    """Serves `content` with ranges and writes down what was asked for."""

    content: dict[str, bytes]
    asked: list[tuple[str, str]]


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path, span = self.path.lstrip("/").replace("%20", " "), self.headers.get("Range", "")
        self.server.asked.append((path, span))
        body = self.server.content.get(path)
        if body is None:
            self.send_error(404)
            return
        begin = int(span.removeprefix("bytes=").rstrip("-") or 0)
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(body) - begin))
        self.end_headers()
        self.wfile.write(body[begin:])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library calls it so
        del format, args


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), _Handler) as found:
        found.content, found.asked = dict(CONTENT), []
        thread = threading.Thread(target=found.serve_forever, args=(0.02,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
def tiny(server: Server) -> Dataset:
    files = tuple(File(path, hashlib.sha256(body).hexdigest()) for path, body in CONTENT.items())
    url = f"http://127.0.0.1:{server.server_port}"
    return Dataset(name="tiny", title="", licence="", url=url, files=files)


def test_every_file_is_fetched_once_and_checked(tiny: Dataset, server: Server, tmp_path: Path) -> None:
    told: list[str] = []
    size = sum(map(len, CONTENT.values()))
    assert fetch(tiny, tmp_path, tick=told.append) == Fetched(2, 2, size)
    assert told == list(CONTENT)
    assert {path: (tmp_path / path).read_bytes() for path in CONTENT} == CONTENT
    assert fetch(tiny, tmp_path) == Fetched(2, 0, size)
    assert len(server.asked) == 2


def test_what_was_begun_goes_on_where_it_stopped(tiny: Dataset, server: Server, tmp_path: Path) -> None:
    path = "data/a b.csv"
    part = tmp_path / (path + PART)
    part.parent.mkdir()
    part.write_bytes(CONTENT[path][:7000])
    fetch(tiny, tmp_path)
    assert server.asked[0] == (path, "bytes=7000-")
    assert (tmp_path / path).read_bytes() == CONTENT[path]
    assert not part.exists()


def test_a_file_that_is_not_what_it_must_be_is_refused_and_deleted(
    tiny: Dataset, server: Server, tmp_path: Path
) -> None:
    server.content["labels/c.json"] = b"[]"
    with pytest.raises(TrustError, match=r"labels/c.json of tiny: expected the SHA-256 .*, found .*; it was deleted"):
        fetch(tiny, tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a b.csv"]
    server.content["labels/c.json"] = b"{}"
    assert fetch(tiny, tmp_path).new == 1


def test_a_file_that_was_changed_on_disk_is_fetched_again(tiny: Dataset, server: Server, tmp_path: Path) -> None:
    fetch(tiny, tmp_path)
    (tmp_path / "labels/c.json").write_text("{ }")
    assert fetch(tiny, tmp_path).new == 1
    assert (tmp_path / "labels/c.json").read_bytes() == b"{}"


def test_an_address_that_has_no_such_file_or_does_not_answer_is_told(
    tiny: Dataset, server: Server, tmp_path: Path
) -> None:
    with pytest.raises(DownloadFailed, match=r"expected the file, found HTTP status 404"):
        fetch(tiny, tmp_path, url=f"{tiny.url}/elsewhere/")
    server.server_close()
    with pytest.raises(DownloadFailed, match="cannot be fetched"):
        fetch(replace(tiny, url="http://127.0.0.1:9"), tmp_path)


def test_the_catalogue_names_files_that_no_path_leads_out_of() -> None:
    for dataset in datasets():
        assert dataset.files
        for file in dataset.files:
            assert len(file.sha256) == 64
            assert not file.path.startswith("/")
            assert ".." not in file.path
    with pytest.raises(NothingMatched, match="unknown dataset 'nap' → did you mean 'nab'"):
        named("nap")


@pytest.mark.needs("shared")
def test_the_pinned_digests_are_those_of_the_corpora(shared: Path, tmp_path: Path) -> None:
    nab, smd = named("nab"), named("smd")
    assert {file.path: nab.digest(shared / "nab" / file.path) for file in nab.files} == {
        file.path: file.sha256 for file in nab.files
    }
    arrays = np.load(shared / "smd" / "machine-1-6.npz")
    label = tmp_path / "machine-1-6.txt"
    np.savetxt(label, arrays["label"], fmt="%d")
    assert File("test_label/machine-1-6.txt", numbers_digest(label)) in smd.files
    np.savetxt(label, arrays["test"], fmt="%.6f", delimiter=",")
    assert File("test/machine-1-6.txt", numbers_digest(label)) in smd.files
