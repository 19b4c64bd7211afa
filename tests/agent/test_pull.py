"""A node that polls: what it fetches, what it spares, and what a bad web server can do to it (delay it, no more)."""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from edgectl_agent.core import listing
from edgectl_agent.core.errors import TrustError
from edgectl_agent.core.messages import UpdateResult
from edgectl_agent.uplink.interface import UplinkError
from edgectl_agent.uplink.pull import Poller
from edgectl_agent.uplink.web import Patience, Web
from hypothesis import given
from hypothesis import strategies as st

from tests.support.operators import NODE, NodeFolder, Operator
from tests.support.webserver import (
    Fault,
    StaticServer,
    body,
    dripping,
    endless,
    silent,
    truncated,
)

QUICK = Patience(connect_s=2.0, stall_s=0.5, body_s=1.0, slowest_bytes_s=1e6)


class World:
    """An operator, the web server in front of the repository, and a node that polls it."""

    def __init__(self, folder: Path, server: StaticServer, mona: Operator) -> None:
        self.mona, self.server = mona, server
        self.node = NodeFolder(folder / "n1", mona)
        self.updates = 0
        self.poller = self.restart()

    def restart(self) -> Poller:
        """A poller that remembers nothing but what is on disk."""
        web = Web(patience=QUICK, redirects=True)
        self.poller = Poller(self.server.url, web, self.node.folder, NODE, self.held, self.update)
        return self.poller

    def held(self) -> frozenset[str]:
        return frozenset(running.bundle for running in self.node.standing.running.values())

    def update(self) -> UpdateResult:
        """As the agent's, but without a process: the child's own verification judges."""
        self.updates += 1
        verdict = self.node.update(self.mona.now)
        state = "refused" if verdict.exit_code else "confirmed" if verdict.staged else "unchanged"
        return UpdateResult(
            state=state,  # type: ignore[arg-type]
            reason=verdict.reason,
            message=verdict.message,
            exit_code=verdict.exit_code,
        )

    def fails(self) -> UplinkError:
        with pytest.raises(UplinkError) as caught:
            self.poller.attempt()
        return caught.value

    def parts(self) -> list[str]:
        return [p.name for p in self.node.spool.rglob("*.part*")]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    mona = Operator(tmp_path / "mona")
    mona.release("1.0.0", seed=1)
    mona.deploy("1.0.0", epoch=1)
    with StaticServer(tmp_path / "mona" / "repo") as server:
        made = World(tmp_path, server, mona)
        yield made
        made.poller.close()


def test_a_poll_brings_what_the_node_is_placed_on_and_nothing_else(world: World) -> None:
    other = world.mona.release("9.0.0", seed=9, recipe="pump")
    assert world.poller.attempt() is False
    assert world.node.version == "1.0.0"
    assert not any(other.variants[0].sha256 in p.name for p in world.node.spool.rglob("*"))
    assert (world.updates, world.parts()) == (1, [])


def test_while_nothing_changes_a_poll_is_one_conditional_request(world: World) -> None:
    world.poller.attempt()
    world.server.requests.clear()
    for _ in range(3):
        world.poller.attempt()
    assert [(seen.path, seen.status) for seen in world.server.requests] == [("/metadata/timestamp.json", 304)] * 3
    assert world.updates == 1


def test_only_what_is_new_is_fetched_and_bundles_that_run_are_not(world: World) -> None:
    world.poller.attempt()
    release = world.mona.release("1.1.0", seed=2, fallbacks=(next(iter(world.held())),))
    world.mona.deploy("1.1.0", epoch=2)
    world.server.requests.clear()
    world.poller.attempt()
    assert world.node.version == "1.1.0"
    fetched = {seen.path.rpartition("/")[2] for seen in world.server.requests if seen.status == 200}
    assert "1.targets.json" not in fetched
    assert sum(name.endswith(".bundle") for name in fetched) == 1
    assert any(release.variants[0].sha256 in name for name in fetched)


def test_a_restarted_agent_looks_at_all_of_it_once_and_fetches_nothing_twice(world: World) -> None:
    world.poller.attempt()
    world.restart().attempt()
    world.server.requests.clear()
    world.restart().attempt()
    assert sorted({seen.path for seen in world.server.requests}) == [
        "/metadata/2.root.json",
        "/metadata/timestamp.json",
    ]
    assert world.updates == 3, "a kill between fetching and applying must not leave it unapplied"


def test_new_roots_are_followed_to_the_last(world: World) -> None:
    for _ in range(3):
        world.mona.later(days=300)
        world.mona.repository.refresh(world.mona.now)
    world.poller.attempt()
    assert sorted(p.name for p in (world.node.spool / "metadata").glob("*.root.json")) == [
        f"{n}.root.json" for n in (2, 3, 4)
    ]
    assert world.node.version == "1.0.0"


def test_a_store_that_says_403_of_what_is_missing_ends_the_chain_too(world: World) -> None:
    world.server.faults["2.root.json"] = body(b"<AccessDenied/>", 403)
    world.poller.attempt()
    assert world.node.version == "1.0.0"


def test_old_files_are_pruned_after_a_while_and_roots_stay(world: World) -> None:
    world.poller.attempt()
    old = {p for p in world.node.spool.rglob("*.json") if "snapshot" in p.name or "rollout" in p.name}
    past = time.time() - 7200
    for path in world.node.spool.rglob("*"):
        if path.is_file():
            os.utime(path, (past, past))
    world.mona.release("1.1.0", seed=2)
    world.mona.deploy("1.1.0", epoch=2)
    world.poller.attempt()
    assert not any(path.exists() for path in old)
    assert world.node.update(world.mona.now).exit_code == 0, "what is needed is still there"


def test_before_the_first_deployment_there_is_nothing_to_do(tmp_path: Path) -> None:
    mona = Operator(tmp_path / "mona")
    with StaticServer(tmp_path / "mona" / "repo") as server:
        World(tmp_path, server, mona).poller.attempt()


# ── what a bad web server can do ────────────────────────────────────────────────────────────────────────────────────

BAD: list[tuple[str, Fault, str]] = [
    ("timestamp.json", body(b"", 404), "answered 404"),
    ("timestamp.json", body(b"later", 503, Retry_After="120"), "answered 503"),
    ("timestamp.json", body(b"<html>welcome</html>"), "timestamp metadata is not as expected"),
    ("timestamp.json", body(b"[" * 16_000), "timestamp metadata is not as expected"),
    ("timestamp.json", endless, "more than 16384 bytes came"),
    ("timestamp.json", truncated(100), "broke off"),
    ("timestamp.json", dripping, "slower than"),
    ("timestamp.json", silent, "no answer in time"),
    ("timestamp.json", body(gzip.compress(b"[" * 10**7), Content_Encoding="gzip"), "came compressed"),
    ("timestamp.json", body(b"", 302, Location="/metadata/timestamp.json"), "which is not followed"),
    ("timestamp.json", body(b"", 302, Location="file:///etc/passwd"), "away from https"),
    ("2.root.json", body(b"<html>welcome</html>"), "root metadata is not as expected"),
    ("2.root.json", endless, "more than 512000 bytes came"),
    ("snapshot.json", body(b"{}"), "2 of "),
    ("snapshot.json", endless, "more than the"),
    ("targets.json", body(b"{}" * 10**6), "more than the"),
    ("rollout.json", truncated(50), "broke off"),
    ("fleet.json", body(b"x", 500), "answered 500"),
    ("fleet.json", silent, "no answer in time"),
    (".bundle", truncated(1000), "broke off"),
    (".bundle", endless, "more than the"),
    (".bundle", dripping, "slower than"),
    (".bundle", body(b"", 206), "answered 206"),
    ("1.0.0.json", body(b"", 410), "answered 410"),
]


@pytest.mark.parametrize(("ending", "fault", "says"), BAD)
def test_a_bad_answer_is_one_sentence_and_the_next_poll_mends_it(
    world: World, ending: str, fault: Fault, says: str
) -> None:
    world.server.faults[ending] = fault
    error = world.fails()
    assert says in str(error)
    assert world.updates == 0, "nothing half-fetched is shown to the agent"
    assert not (world.node.spool / "metadata" / "timestamp.json").exists()
    del world.server.faults[ending]
    world.poller.attempt()
    assert (world.node.version, world.parts()) == ("1.0.0", [])


@pytest.mark.parametrize("ending", ["snapshot.json", "rollout.json", "fleet.json", ".bundle"])
def test_what_was_missed_of_a_later_state_is_fetched_though_the_timestamp_is_known(world: World, ending: str) -> None:
    world.poller.attempt()
    world.mona.release("1.1.0", seed=2)
    world.mona.deploy("1.1.0", epoch=2)
    world.server.faults[ending] = truncated(100)
    for _ in range(2):
        world.fails()
    world.server.faults.clear()
    world.poller.attempt()
    assert world.node.version == "1.1.0"


def test_a_wrong_file_of_the_right_length_is_not_kept(world: World) -> None:
    (bundle,) = (world.mona.folder / "repo").rglob("*.bundle")
    world.server.faults[".bundle"] = body(b"x" * bundle.stat().st_size)
    assert "its SHA-256 differs" in str(world.fails())
    world.server.faults.clear()
    world.poller.attempt()
    assert world.node.version == "1.0.0"


@pytest.mark.parametrize("name", ["metadata", "targets"])
def test_a_poll_fetches_nothing_into_a_folder_that_is_a_link(world: World, tmp_path: Path, name: str) -> None:
    world.node.spool.mkdir(exist_ok=True)
    (tmp_path / "outside").mkdir()
    (world.node.spool / name).symlink_to(tmp_path / "outside")
    assert f"cannot be written: {name} is a link, expected a folder" in str(world.fails())
    assert not list((tmp_path / "outside").iterdir())


def test_retry_after_is_heard(world: World) -> None:
    world.server.faults["timestamp.json"] = body(b"", 429, Retry_After="120")
    assert world.fails().retry_after_s == 120


def test_a_download_that_breaks_off_is_resumed_where_it_ended(world: World) -> None:
    world.server.faults[".bundle"] = truncated(1000)
    world.fails()
    world.server.faults.clear()
    world.restart().attempt()
    last = [seen for seen in world.server.requests if seen.path.endswith(".bundle")][-1]
    assert (last.status, last.headers["Range"]) == (206, "bytes=1000-")
    assert world.node.version == "1.0.0"


def test_a_part_of_another_file_is_not_glued_to_this_one(world: World) -> None:
    world.server.faults[".bundle"] = truncated(1000)
    world.fails()
    (tag,) = world.node.spool.rglob("*.part.etag")
    tag.write_text('"of another file"')
    world.server.faults.clear()
    world.poller.attempt()
    assert world.server.asked(".bundle")[-1] == 200
    assert world.node.version == "1.0.0"


def test_a_refused_update_is_said_and_tried_again(world: World) -> None:
    world.mona.later(days=40)
    error = world.fails()
    assert "update refused: metadata/timestamp.json" in str(error)
    assert error.act
    world.mona.repository.refresh(world.mona.now)
    world.poller.attempt()
    assert world.node.version == "1.0.0"


def test_a_replay_of_an_old_state_is_fetched_and_refused_by_the_child(world: World, tmp_path: Path) -> None:
    import shutil

    old = tmp_path / "old"
    shutil.copytree(world.mona.folder / "repo", old)
    world.mona.release("1.1.0", seed=2)
    world.mona.deploy("1.1.0", epoch=2)
    world.poller.attempt()
    world.server.folder = old
    assert "update refused" in str(world.fails())
    assert world.node.version == "1.1.0"


def test_a_node_that_trusts_nobody_says_so(world: World) -> None:
    (world.node.folder / "trust" / "root.json").unlink()
    error = world.fails()
    assert "this node trusts nobody yet → enrol it" in str(error)
    assert error.act


def test_a_dead_server_is_one_sentence(tmp_path: Path, world: World) -> None:
    web = Web(patience=QUICK)
    dead = Poller("http://127.0.0.1:9", web, world.node.folder, NODE, world.held, world.update)
    with pytest.raises(UplinkError, match=r"http://127.0.0.1:9: cannot connect: Connection refused") as caught:
        dead.attempt()
    assert not caught.value.act


# ── names come from strangers ───────────────────────────────────────────────────────────────────────────────────────


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_name_in_metadata_leads_out_of_the_spool(recipe: str, version: str) -> None:
    info = listing.TargetInfo(length=1, hashes=listing._Hashes(sha256="a" * 64))
    signed = {f"releases/{recipe}/{version}.json": info}
    try:
        name = listing.release(signed, recipe, version).name
    except TrustError:
        return
    spool = Path("/spool")
    assert (spool / name).resolve().is_relative_to(spool / "targets" / "releases")
    assert len(name.split("/")) == 4


@pytest.mark.parametrize("recipe", ["../../..", "/etc", ".ssh", "a/b", "a\\b", "a\x00b", ""])
def test_a_name_that_leads_elsewhere_is_refused(recipe: str) -> None:
    info = listing.TargetInfo(length=1, hashes=listing._Hashes(sha256="a" * 64))
    with pytest.raises(TrustError):
        listing.release({f"releases/{recipe}/1.json": info}, recipe, "1")
