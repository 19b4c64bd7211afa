"""Publishing the repository: what clients see at every moment, what is refused, what is written again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from edgectl.core.errors import ConfigError, LockHeld, TrustError, UsageError
from edgectl.publishing.folder import FolderPlace
from edgectl.publishing.interface import Place, PlaceError
from edgectl.publishing.places import place
from edgectl.publishing.publish import Changes, carry_out, plan
from edgectl.publishing.state import TIMESTAMP, read
from edgectl.publishing.web import WebPlace
from edgectl.trust import chain as chains
from edgectl.trust.keys import KeyStore
from edgectl.trust.repository import Repository
from tests.support.operators import NODE, NodeFolder, Operator, copied, deployed
from tests.support.webdav import WebDav


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return deployed(tmp_path_factory.mktemp("template") / "mona").folder


@pytest.fixture
def mona(tmp_path: Path, template: Path) -> Operator:
    """Has signed and deployed 1.0.0."""
    return copied(template, tmp_path / "mona")


@pytest.fixture
def www(tmp_path: Path) -> Path:
    """What a web server serves; nothing yet."""
    return tmp_path / "www"


class Watched(Place):
    """A folder whose visitors come after every single write; from write number `ends_at` on it does not answer."""

    def __init__(self, folder: Path, ends_at: int = 10**6) -> None:
        self._folder, self._inner, self.where = folder, FolderPlace(folder), str(folder)
        self.writes: list[str] = []
        self._ends_at = ends_at

    def sizes(self) -> Mapping[str, int] | None:
        return self._inner.sizes()

    def size(self, name: str) -> int | None:
        return self._inner.size(name)

    def read(self, name: str) -> bytes | None:
        return self._inner.read(name)

    def write(self, name: str, content: Path, after: bytes | None = None) -> None:
        if len(self.writes) >= self._ends_at:
            raise PlaceError("the line is cut")
        self._inner.write(name, content, after)
        self.writes.append(name)
        if (self._folder / TIMESTAMP).exists():
            complete(self._folder)

    def delete(self, name: str) -> None:
        self._inner.delete(name)
        complete(self._folder)


def complete(folder: Path) -> None:
    """Everything that a client who comes now may ask for is there, with its digest. Raises `TrustError`."""
    chain = chains.load(folder / "metadata")
    for role in (chain.models, chain.rollout):
        for path in role.targets:
            chains.read_target(folder / "targets", path, role)


def publish(operator: Operator, to: Place, *, prune: bool = False, verify: bool = False) -> Changes:
    state = read(operator.folder / "repo")
    changes = plan(state, to, prune=prune, verify=verify)
    carry_out(changes, state, to)
    return changes


def next_release(operator: Operator, version: str = "1.1.0", seed: int = 2, epoch: int = 2) -> None:
    operator.release(version, seed=seed)
    operator.deploy(version, epoch=epoch)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_node_that_fetches_from_what_was_published_runs_the_release(
    mona: Operator, www: Path, tmp_path: Path
) -> None:
    publish(mona, FolderPlace(www))
    node = NodeFolder(tmp_path / NODE, mona)
    shutil.copytree(www, node.spool)
    assert node.update(mona.now).exit_code == 0
    assert node.version == "1.0.0"


def test_clients_see_a_complete_state_after_every_single_write(mona: Operator, www: Path) -> None:
    publish(mona, Watched(www))
    next_release(mona)
    watched = Watched(www)
    changes = publish(mona, watched, prune=True)
    assert watched.writes == list(changes.write)
    assert watched.writes[-1] == TIMESTAMP
    names = [name.split(".", 1)[1] for name in watched.writes if name.startswith("metadata/")]
    assert names == ["models.json", "rollout.json", "snapshot.json", "json"]


def test_publishing_again_writes_nothing(mona: Operator, www: Path) -> None:
    publish(mona, FolderPlace(www))
    before = files(www)
    again = publish(mona, FolderPlace(www))
    assert (again.write, again.bytes, again.before) == ((), 0, again.version)
    assert files(www) == before


def test_a_publication_cut_short_anywhere_is_completed_by_the_next(mona: Operator, tmp_path: Path) -> None:
    first = tmp_path / "first"
    publish(mona, FolderPlace(first))
    next_release(mona)
    count = len(plan(read(mona.folder / "repo"), FolderPlace(first)).write)
    assert count > 4
    for ends_at in range(count):
        www = tmp_path / f"cut-{ends_at}"
        shutil.copytree(first, www)
        with pytest.raises(PlaceError, match="the line is cut"):
            publish(mona, Watched(www, ends_at))
        complete(www)
        changes = publish(mona, Watched(www))
        assert len(changes.write) == count - ends_at
        assert chains.load(www / "metadata").timestamp.version == mona.repository.versions().timestamp


def test_pruning_keeps_what_the_current_and_the_previous_metadata_need(mona: Operator, www: Path) -> None:
    publish(mona, FolderPlace(www))
    for number in (1, 2, 3):
        next_release(mona, f"1.{number}.0", seed=number + 1, epoch=number + 1)
        publish(mona, FolderPlace(www))
    (www / "index.html").write_text("models")
    (www / "targets" / "notes.txt").write_text("ours, not yours")
    everything = set(files(www))
    publish(mona, Watched(www), prune=True)
    left = set(files(www))
    assert {"index.html", "targets/notes.txt", "metadata/1.root.json"} <= left
    gone = everything - left
    assert gone
    chain = chains.load(www / "metadata")
    previous = f"metadata/{chain.snapshot.version - 2}.snapshot.json"  # a release and a deployment are one each
    assert previous in left
    assert all(name.startswith(("metadata/", "targets/assignments/")) for name in gone)
    assert publish(mona, FolderPlace(www), prune=True).delete == ()


def test_a_damaged_bundle_is_found_and_written_again_with_verify(mona: Operator, www: Path) -> None:
    publish(mona, FolderPlace(www))
    (bundle,) = www.rglob("*.bundle")
    bundle.write_bytes(b"x" * bundle.stat().st_size)
    assert publish(mona, FolderPlace(www)).write == ()
    assert publish(mona, FolderPlace(www), verify=True).write == (str(bundle.relative_to(www)),)
    complete(www)


# ── somebody else has published ─────────────────────────────────────────────────────────────────────────────────────


def other_operator(mona: Operator, tmp_path: Path) -> Operator:
    """A copy of the whole repository with its keys, on another laptop."""
    shutil.copytree(mona.folder, tmp_path / "raj")
    raj = Operator(tmp_path / "raj")
    raj.raw, raj.now = dict(mona.raw), mona.now
    return raj


def test_a_newer_publication_is_never_overwritten(mona: Operator, www: Path, tmp_path: Path) -> None:
    raj = other_operator(mona, tmp_path)
    next_release(raj)
    publish(raj, FolderPlace(www))
    before = files(www)
    with pytest.raises(LockHeld, match=r"this repository is at 3: somebody else has published") as caught:
        publish(mona, FolderPlace(www))
    assert caught.value.exit_code == 50
    assert files(www) == before


def test_two_operators_who_signed_the_same_version_are_told_apart(mona: Operator, www: Path, tmp_path: Path) -> None:
    raj = other_operator(mona, tmp_path)
    next_release(raj, seed=3)
    next_release(mona, seed=2)
    publish(raj, FolderPlace(www))
    with pytest.raises(LockHeld, match="was not signed in this repository: two operators have signed"):
        publish(mona, FolderPlace(www))


def test_a_fork_is_still_seen_when_ours_has_gone_further(mona: Operator, www: Path, tmp_path: Path) -> None:
    raj = other_operator(mona, tmp_path)
    next_release(raj, seed=3)
    publish(raj, FolderPlace(www))
    next_release(mona, seed=2)
    next_release(mona, "1.2.0", seed=4, epoch=3)
    with pytest.raises(LockHeld, match="was not signed in this repository"):
        publish(mona, FolderPlace(www))


def test_the_place_of_another_fleet_is_refused(mona: Operator, www: Path, tmp_path: Path) -> None:
    publish(Operator(tmp_path / "other"), FolderPlace(www))
    with pytest.raises(TrustError, match="holds the repository of another fleet → publish elsewhere"):
        publish(mona, FolderPlace(www))


def test_a_timestamp_that_nobody_signed_is_refused(mona: Operator, www: Path) -> None:
    publish(mona, FolderPlace(www))
    (www / TIMESTAMP).write_text("{}")
    with pytest.raises(TrustError, match=r"its timestamp\.json is no signed metadata"):
        publish(mona, FolderPlace(www))


def test_a_publication_between_plan_and_timestamp_is_not_overwritten(mona: Operator, www: Path, tmp_path: Path) -> None:
    publish(mona, FolderPlace(www))
    raj = other_operator(mona, tmp_path)
    next_release(mona)
    state = read(mona.folder / "repo")
    changes = plan(state, FolderPlace(www))
    next_release(raj, seed=3)
    publish(raj, FolderPlace(www))
    with pytest.raises(LockHeld, match="somebody else has just published there"):
        carry_out(changes, state, FolderPlace(www))
    complete(www)


# ── over HTTP ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def server(www: Path) -> Iterator[WebDav]:
    with WebDav(www, token="secret") as server:
        yield server


def test_a_web_server_gets_only_what_changed_and_the_timestamp_last(mona: Operator, server: WebDav, www: Path) -> None:
    web = WebPlace(server.url, "secret")
    publish(mona, web)
    complete(www)
    next_release(mona)
    server.log.clear()
    changes = publish(mona, web)
    complete(www)
    assert list(dict.fromkeys(server.puts())) == list(changes.write)
    assert len(server.puts()) == len(changes.write)
    assert server.puts()[-1] == TIMESTAMP
    assert len([line for line in server.log if line.startswith("HEAD")]) == 1  # of the one root
    web.close()


def test_a_wrong_token_is_one_sentence_that_names_the_option(mona: Operator, server: WebDav) -> None:
    web = WebPlace(server.url, "wrong")
    with pytest.raises(ConfigError, match=r"refuses our credential: metadata/timestamp.json .*--token-file"):
        publish(mona, web)
    web.close()


def test_a_server_that_keeps_half_a_file_is_found_out_before_the_timestamp(
    mona: Operator, server: WebDav, www: Path
) -> None:
    web = WebPlace(server.url, "secret")
    state = read(mona.folder / "repo")
    server.torn.add(next(name for name in state.files if name.endswith(".bundle")))
    with pytest.raises(PlaceError, match=r"\.bundle reads back otherwise than it was written"):
        publish(mona, web)
    assert not (www / TIMESTAMP).exists()
    server.torn.clear()
    publish(mona, web)
    complete(www)
    web.close()


def test_a_timestamp_replaced_in_the_last_moment_is_seen_by_its_etag(mona: Operator, server: WebDav, www: Path) -> None:
    web = WebPlace(server.url, "secret")
    publish(mona, web)
    seen = web.read(TIMESTAMP)
    (www / TIMESTAMP).write_bytes(b"another operator's")
    with pytest.raises(LockHeld, match=r"timestamp\.json was replaced meanwhile"):
        web.write(TIMESTAMP, mona.folder / "repo" / TIMESTAMP, after=seen)
    web.close()


def test_a_server_that_does_not_answer_or_takes_nothing_is_one_sentence(mona: Operator) -> None:
    gone = WebPlace("http://127.0.0.1:9/models")
    with pytest.raises(PlaceError, match="does not answer"):
        publish(mona, gone)
    gone.close()
    with pytest.raises(ConfigError, match=r"http://ops@example/x: a password in a URL ends up in logs"):
        WebPlace("http://ops:secret@example/x")
    with pytest.raises(UsageError, match="expected a folder or"):
        place("ftp://example/x", Path, str)


def test_keys_that_are_not_here_are_not_needed_to_publish(mona: Operator, www: Path, tmp_path: Path) -> None:
    assert Repository(mona.folder / "repo", KeyStore(tmp_path / "none")).exists()
    shutil.rmtree(mona.folder / "keys")
    publish(mona, FolderPlace(www))
    complete(www)
