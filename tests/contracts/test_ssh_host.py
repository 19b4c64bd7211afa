"""`SshHost` and its connections against a real sshd: commands, files, links that are cut, and a bounded pool."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import paramiko
import psutil
import pytest

from edgectl.connectors.sftp import Upload, part
from edgectl.connectors.ssh import SshConnector
from edgectl.connectors.ssh_host import SshHost
from edgectl.connectors.ssh_pool import Pool
from edgectl.core.errors import NodeUnreachable, StorageError
from edgectl.machine.layout import Layout
from tests.scenarios.fleets import until
from tests.support.cut import Cut
from tests.support.sshd import Sshd, way

pytestmark = pytest.mark.needs("sshd")
BIG = os.urandom(1_500_000)


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool()
    yield made
    made.close()


@pytest.fixture
def host(ssh_server: Sshd, tmp_path: Path, pool: Pool) -> SshHost:
    (tmp_path / "known_hosts").write_text(ssh_server.pin)
    return SshHost(way(ssh_server, tmp_path, pool=pool))


@pytest.fixture
def cut(ssh_server: Sshd, tmp_path: Path) -> Iterator[Cut]:
    with Cut(ssh_server.port) as proxy:
        (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{proxy.port} {ssh_server.host_key}\n")
        yield proxy


# ── commands ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_command_gives_its_status_both_outputs_and_takes_input(host: SshHost) -> None:
    done = host.run("cat; echo oops >&2; exit 3", stdin=b"given\n")
    assert (done.status, done.out, done.err, done.complaint) == (3, b"given\n", b"oops\n", "oops")


def test_much_output_on_both_sides_does_not_block(host: SshHost) -> None:
    done = host.run("head -c 5000000 /dev/zero; head -c 5000000 /dev/zero >&2; cat > /dev/null", stdin=b"x" * 3_000_000)
    assert (len(done.out), len(done.err)) == (5_000_000, 5_000_000)


def test_an_end_of_input_that_crosses_the_end_of_the_command_harms_nobody_else_on_the_connection(
    host: SshHost, ssh_server: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = paramiko.Transport._send_user_message

    def slowly(transport: paramiko.Transport, message: paramiko.Message) -> None:
        if message.asbytes()[0] == 96 and threading.current_thread() is not transport:  # SSH_MSG_CHANNEL_EOF
            time.sleep(0.3)
        send(transport, message)

    monkeypatch.setattr(paramiko.Transport, "_send_user_message", slowly)
    before = len(ssh_server.log)
    for number in range(3):
        assert host.run(f"echo {number}").text == str(number)
    time.sleep(0.5)  # until what crossed is there
    assert "nonexistent channel" not in ssh_server.log[before:]


def test_a_signal_is_128_and_its_number(host: SshHost) -> None:
    assert host.run("sh -c 'kill -9 $$'").status == 137


def test_a_command_that_does_not_end_is_given_up_and_the_next_one_works(host: SshHost) -> None:
    with pytest.raises(NodeUnreachable, match=r"node pi-1: the command did not end within 0.5 s"):
        host.run("sleep 600", timeout_s=0.5)
    assert host.run("echo again").text == "again"


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("content", [b"small", BIG], ids=["small", "large"])
def test_a_file_is_written_once_with_its_mode_into_folders_that_are_made(
    host: SshHost, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "it's a" / "new $HOME" / "file"
    told: list[int] = []
    assert host.write(str(path), content, mode=0o640, told=told.append) is True
    assert (path.read_bytes(), path.stat().st_mode & 0o7777) == (content, 0o640)
    assert host.write(str(path), content, mode=0o640) is False
    assert host.write(str(path), content, mode=0o600) is True
    assert [found.name for found in path.parent.iterdir()] == ["file"]
    assert host.read(str(path)) == content
    assert len(content) == len(b"small") or sum(told) == len(content)


def test_what_is_not_there_reads_as_nothing_and_what_cannot_be_read_says_why(host: SshHost, tmp_path: Path) -> None:
    assert host.read(str(tmp_path / "nothing")) is None
    with pytest.raises(StorageError, match="is a directory"):
        host.read(str(tmp_path))


@pytest.mark.needs("root")
@pytest.mark.parametrize("size", [100_000, 3_000_000])
def test_a_full_disk_is_named_and_leaves_the_old_file(host: SshHost, small_disk: Path, size: int) -> None:
    path = small_disk / "file"
    path.write_bytes(b"old")
    (small_disk / "fill").write_bytes(b"x" * 950_000)
    with pytest.raises(StorageError, match=rf"cannot write {path}: no space left on device → make room on pi-1"):
        host.write(str(path), os.urandom(size))
    assert path.read_bytes() == b"old"


# ── a link that is cut ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.999])
def test_a_link_cut_at_any_byte_leaves_the_old_file_or_the_new_one_and_a_rerun_completes_it(
    ssh_server: Sshd, cut: Cut, tmp_path: Path, share: float
) -> None:
    path, source = tmp_path / "target", tmp_path / "source"
    path.write_bytes(b"old")
    source.write_bytes(BIG)
    with_pool = Pool()
    host = SshHost(way(ssh_server, tmp_path, pool=with_pool, port=cut.port))
    host.run("true")
    cut.after(int(share * len(BIG)) + 1)
    with suppress(NodeUnreachable):
        host.write(str(path), source)
    assert path.read_bytes() in (b"old", BIG)
    cut.mend()
    host.write(str(path), source)
    assert path.read_bytes() == BIG
    assert sorted(found.name for found in tmp_path.iterdir()) == ["known_hosts", "source", "target"]
    with_pool.close()


def test_an_upload_that_was_cut_sends_only_the_rest(ssh_server: Sshd, cut: Cut, tmp_path: Path) -> None:
    path, upload = tmp_path / "target", Upload.of(BIG)
    Path(part(str(path), upload)).write_bytes(BIG[:1_400_000])
    with_pool = Pool()
    host = SshHost(way(ssh_server, tmp_path, pool=with_pool, port=cut.port))
    cut.mend()
    host.write(str(path), BIG)
    assert path.read_bytes() == BIG
    assert cut.sent < 200_000
    with_pool.close()


def test_a_leftover_with_other_bytes_is_not_built_on(host: SshHost, tmp_path: Path) -> None:
    path, upload = tmp_path / "target", Upload.of(BIG)
    Path(part(str(path), upload)).write_bytes(b"\0" * 1_000_000)
    Path(part(str(path), Upload.of(b"older"))).write_bytes(b"left by another upload")
    host.write(str(path), BIG)
    assert path.read_bytes() == BIG
    assert sorted(found.name for found in tmp_path.iterdir()) == ["known_hosts", "target"]


@pytest.mark.parametrize("work", ["waits for a command", "uploads"])
def test_a_machine_behind_a_jump_host_that_is_gone_is_noticed_before_the_commands_own_limit(
    ssh_server: Sshd, tmp_path: Path, pool: Pool, work: str
) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(64_000_000)  # more than all buffers on the way take
    (tmp_path / "ssh_config").write_text("Host *\n  ServerAliveInterval 1\n  ServerAliveCountMax 2\n")
    with Sshd(tmp_path / "bastion", key=ssh_server.key) as bastion:
        (tmp_path / "known_hosts").write_text(f"{bastion.pin}pi-1 {ssh_server.host_key}\n")
        jump = f"{bastion.user}@127.0.0.1:{bastion.port}"
        host = SshHost(way(ssh_server, tmp_path, pool=pool, jump=jump))
        assert host.run("sleep 4; echo there").text == "there", "a command that says nothing for long is not given up"
        began = time.monotonic()
        with ThreadPoolExecutor(1) as threads:
            if work == "uploads":
                busy = threads.submit(host.write, str(tmp_path / "target"), big)
                until(lambda: any(tmp_path.glob(".target.*.part")))
            else:
                busy = threads.submit(lambda: host.run("sleep 600", timeout_s=600).status == 0)
            with ssh_server.frozen(), pytest.raises(NodeUnreachable, match=r":\d+ has not answered for 3 s"):
                busy.result(60)
        assert time.monotonic() - began < 30, "not the 60 s of an answer by SFTP, nor the command's 600 s"
        assert host.run("echo back").text == "back"


# ── the pool ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_one_way_is_one_connection_for_any_number_of_threads(host: SshHost, pool: Pool, tmp_path: Path) -> None:
    def work(number: int) -> None:
        for _ in range(5):
            host.write(str(tmp_path / f"f{number}"), os.urandom(300_000))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert pool.open_links == 1


def test_uploads_of_the_same_files_at_once_all_succeed_and_leave_no_litter(
    ssh_server: Sshd, tmp_path: Path, pool: Pool
) -> None:
    (tmp_path / "known_hosts").write_text(ssh_server.pin)
    reach, layout = way(ssh_server, tmp_path, pool=pool), Layout.within(str(tmp_path / "pi"))
    files = {f"metadata/{number}.json": b"{}" * 500 for number in range(5)} | {"targets/deep/bundle": BIG}
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda _: SshConnector(reach, layout).upload(dict(files)), range(12)))
    spool = Path(layout.spool)
    found = {str(path.relative_to(spool)): path.read_bytes() for path in spool.rglob("*") if path.is_file()}
    assert found == files


def test_idle_connections_are_bounded_and_the_longest_unused_is_closed(ssh_server: Sshd, tmp_path: Path) -> None:
    (tmp_path / "known_hosts").write_text(ssh_server.pin)
    pool, me = Pool(idle=3), psutil.Process()
    before = me.num_fds()
    for number in range(8):  # another timeout is another way
        (tmp_path / "ssh_config").write_text(f"Host *\n  ConnectTimeout {10 + number}\n")
        SshHost(way(ssh_server, tmp_path, pool=pool)).run("true")
        assert pool.open_links <= 3
    assert me.num_fds() <= before + 3 + 1
    pool.close()
    assert pool.open_links == 0


def test_a_connection_that_gave_way_has_no_thread_any_more(ssh_server: Sshd, tmp_path: Path) -> None:
    (tmp_path / "known_hosts").write_text(ssh_server.pin)
    pool = Pool(idle=0)
    for number in range(20):
        before = set(threading.enumerate())
        SshHost(way(ssh_server, tmp_path, pool=pool)).run(f"echo {number}")
        left = [one for one in threading.enumerate() if isinstance(one, paramiko.Transport) and one not in before]
        assert left == []


def test_a_connection_that_died_while_idle_is_made_anew(ssh_server: Sshd, cut: Cut, tmp_path: Path) -> None:
    pool = Pool()
    host = SshHost(way(ssh_server, tmp_path, pool=pool, port=cut.port))
    host.run("true")
    cut.after(0)
    with pytest.raises(NodeUnreachable, match=r"node pi-1: the connection to 127\.0\.0\.1:\d+ broke"):
        host.run("true")
    cut.mend()
    assert host.run("echo back").text == "back"
    pool.close()
