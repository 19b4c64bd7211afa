"""Syslog messages of real senders become readings; whatever else arrives is counted and holds nothing up."""

from __future__ import annotations

import logging
import logging.handlers
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from edgectl_agent import yamlfile
from edgectl_agent.config import Config, SyslogConfig
from edgectl_agent.core.errors import ConfigError, SourceError
from edgectl_agent.core.syslog import Framer, Message, parameters, parse
from edgectl_agent.sources.syslog import SyslogSource
from hypothesis import given, settings
from hypothesis import strategies as st

DEADLINE_S = 60.0
SYSTEM_PATH = "/usr/sbin:/sbin:/usr/bin"
CATEGORIES = {"app": "app", "severity": "severity", "text": "msg"}


class Receiver:
    """A syslog source on a free port, and what it gave."""

    def __init__(self, **more: Any) -> None:
        config = {"listen": "127.0.0.1:0", "channels": {"severity": "severity"}, "categories": CATEGORIES} | more
        self.source = SyslogSource(SyslogConfig(**config))
        self.source.open(None)
        self.port = self.source.port
        self.streams: list[str] = []
        self.times: list[int] = []
        self.values: list[float] = []
        self.texts: list[tuple[str, ...]] = []
        self.rejected: Counter[str] = Counter()

    def close(self) -> None:
        self.source.close()

    def look(self, limit: int = 1000) -> None:
        chunk = self.source.poll(limit, 0.05)
        self.streams += chunk.streams
        self.times += chunk.event_time.tolist()
        self.values += chunk.values[:, 0].tolist() if chunk.values.shape[1] else []
        self.texts += zip(*chunk.texts, strict=True)
        self.rejected.update(chunk.rejected)

    def until(self, count: int, rejected: int = 0, limit: int = 1000) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while len(self.streams) < count or self.rejected.total() < rejected:
            assert time.monotonic() < deadline, (len(self.streams), self.rejected)
            self.look(limit)
        assert (len(self.streams), self.rejected.total()) == (count, rejected)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), DEADLINE_S)

    def send(self, data: bytes) -> None:
        with self.connect() as one:
            one.sendall(data)

    def datagram(self, data: bytes) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.sendto(data, ("127.0.0.1", self.port))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with closing(Receiver()) as one:
        yield one


# ── real senders ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.needs("logger")
@pytest.mark.parametrize("how", ["--tcp", "--tcp --octet-count", "--udp"])
def test_logger_sends_what_the_mapping_names(receiver: Receiver, how: str) -> None:
    before = time.time_ns()
    command = ["logger", "--server", "127.0.0.1", "--port", str(receiver.port), *how.split(), "--rfc5424"]
    command += ["--priority", "local3.err", "--tag", "press", "--msgid", "M7"]
    command += ["--sd-id", "plant@32473", "--sd-param", 'line="4"']
    subprocess.run([*command, "Druck zu hoch: 9 bär"], check=True, timeout=60)
    receiver.until(1)
    assert receiver.streams == [socket.gethostname()]
    assert receiver.texts == [("press", "err", "Druck zu hoch: 9 bär")]
    assert receiver.values == [3]
    assert before - 10**9 < receiver.times[0] < time.time_ns() + 10**9


@pytest.mark.needs("logger")
def test_logger_sends_a_number_in_structured_data_and_a_time_is_not_needed() -> None:
    with closing(Receiver(channels={"t": "sd.plant@32473.temp"}, categories={}, stream="sd.plant@32473.line")) as one:
        before = time.time_ns()
        command = ["logger", "-n", "127.0.0.1", "-P", str(one.port), "--tcp", "--rfc5424=notime"]
        command += ["--sd-id", "plant@32473", "--sd-param", 'temp="41.5"', "--sd-param", 'line="4"']
        subprocess.run([*command, "x"], check=True, timeout=60)
        one.until(1)
        assert (one.streams, one.values) == (["4"], [41.5])
        assert before <= one.times[0] <= time.time_ns()


@pytest.mark.needs("logger")
def test_logger_in_the_old_form_is_read_with_the_time_of_reception(receiver: Receiver) -> None:
    before = time.time_ns()
    command = ["logger", "-n", "127.0.0.1", "-P", str(receiver.port), "--udp", "--rfc3164", "-i", "--tag", "pump"]
    subprocess.run([*command, "-p", "daemon.warning", "dry run"], check=True, timeout=60)
    receiver.until(1)
    assert receiver.texts == [("pump", "warning", "dry run")]
    assert receiver.streams == [socket.gethostname().partition(".")[0]]
    assert before <= receiver.times[0] <= time.time_ns()


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["udp", "tcp"])
def test_pythons_handler_is_read_though_it_names_no_host_and_ends_messages_with_nul(
    receiver: Receiver, kind: socket.SocketKind
) -> None:
    handler = logging.handlers.SysLogHandler(("127.0.0.1", receiver.port), socktype=kind)
    handler.setFormatter(logging.Formatter("plc: %(message)s"))
    logger = logging.Logger("plc")
    logger.addHandler(handler)
    with closing(handler):
        for number in range(100):
            logger.warning("%d", number)
        receiver.until(100)
    assert receiver.texts == [("plc", "warning", str(number)) for number in range(100)]
    assert receiver.streams == ["127.0.0.1"] * 100
    assert sorted(set(receiver.times)) == receiver.times  # else the engine would take them for duplicates


RSYSLOG = """
global(workDirectory="{folder}")
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="{folder}/log" RateLimit.Interval="0")
action(type="omfwd" target="127.0.0.1" port="{port}" protocol="tcp" TCP_Framing="octet-counted"
       template="RSYSLOG_SyslogProtocol23Format" action.resumeRetryCount="-1")
"""


@pytest.mark.needs("rsyslogd")
def test_rsyslogd_forwards_what_local_programs_log(receiver: Receiver) -> None:
    with tempfile.TemporaryDirectory() as folder:  # a socket's path is short
        conf, where = Path(folder) / "conf", f"{folder}/log"
        conf.write_text(RSYSLOG.format(folder=folder, port=receiver.port))
        program = shutil.which("rsyslogd", path=SYSTEM_PATH)
        assert program
        command = [program, "-n", "-f", str(conf), "-i", f"{folder}/pid"]
        with ExitStack() as held:
            daemon = held.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            held.callback(daemon.terminate)
            deadline = time.monotonic() + DEADLINE_S
            while not Path(where).exists():
                assert time.monotonic() < deadline
                assert daemon.poll() is None
                time.sleep(0.02)
            local = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            local.connect(where)
            for number in range(300):
                local.send(b"<27>Mar 14 09:12:00 pump[7]: line %d" % number)
            receiver.until(300)
    assert receiver.texts == [("pump", "err", f"line {number}") for number in range(300)]


# ── bounds ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def message(number: int, pad: int = 0) -> bytes:
    return b"<13>1 2026-03-14T09:12:00.%06dZ h a - - - %d%s" % (number, number, b"x" * pad)


def test_a_sender_is_held_up_by_tcp_while_the_queue_is_full_and_loses_nothing() -> None:
    with closing(Receiver(buffer="64k", categories={"text": "msg"})) as one, one.connect() as sender:
        count, sent = 5000, 0
        data = b"".join(message(i, 100) + b"\n" for i in range(count))
        sender.settimeout(1)
        while sent < len(data):
            try:
                sent += sender.send(data[sent : sent + 65536])
            except TimeoutError:
                one.look(100)
        sender.shutdown(socket.SHUT_WR)
        one.until(count)
        assert [text.rstrip("x") for (text,) in one.texts] == [str(i) for i in range(count)]


def test_datagrams_that_find_the_queue_full_are_counted() -> None:
    with closing(Receiver(buffer="64k")) as one:
        for number in range(200):
            one.datagram(message(number, 900))
        deadline = time.monotonic() + DEADLINE_S
        while len(one.streams) + one.rejected.total() < 200 and time.monotonic() < deadline:
            time.sleep(0.05)
            one.look(5)
        assert set(one.rejected) <= {"queue-full"}
        assert len(one.streams) + one.rejected["queue-full"] == 200


def test_what_is_too_long_or_no_message_is_counted_and_what_follows_is_read() -> None:
    with closing(Receiver(max_message="1000", categories={"text": "msg"})) as one:
        long = message(1, 5000)
        one.send(b"%d %b%d %b" % (len(long), long, len(message(2)), message(2)))
        one.send(long + b"\n" + message(3) + b"\r\nhello\n<999>1 - - - - - - x\n\n" + message(4))
        one.datagram(long)
        one.datagram(b"\xff\xfe")
        one.until(3, rejected=6)
        assert sorted(one.texts) == [("2",), ("3",), ("4",)]
        assert one.rejected == {"too-long": 3, "unparsable": 3}


def test_more_connections_than_allowed_are_closed_and_the_first_ones_stay() -> None:
    with closing(Receiver(connections=2)) as one, ExitStack() as held:
        senders = [held.enter_context(one.connect()) for _ in range(2)]
        for sender in senders:
            sender.sendall(message(0) + b"\n")
        one.until(2)
        with one.connect() as third:
            assert third.recv(1) == b""
        senders[1].sendall(message(1) + b"\n")
        one.until(3, rejected=1)
        assert one.rejected == {"too-many-connections": 1}


def test_senders_from_elsewhere_are_not_heard() -> None:
    with closing(Receiver(allow=("10.0.0.0/8",))) as one:
        one.datagram(message(0))
        with one.connect() as sender:
            assert sender.recv(1) == b""
        one.until(0, rejected=2)
        assert one.rejected == {"not-allowed": 2}


def test_a_port_that_is_taken_is_said_and_free_after_close(receiver: Receiver) -> None:
    with pytest.raises(SourceError, match=rf"127\.0\.0\.1:{receiver.port} cannot be listened on by tcp: Address"):
        Receiver(listen=f"127.0.0.1:{receiver.port}")
    receiver.close()
    Receiver(listen=f"127.0.0.1:{receiver.port}").close()


# ── messages and frames ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_examples_of_rfc_5424_are_read() -> None:
    first = b"<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - \xef\xbb\xbf'su root' failed for lonvick"
    assert parse(first) == Message(
        2, 4, "2003-10-11T22:14:15.003Z", "mymachine.example.com", "su", "", "ID47", "", "'su root' failed for lonvick"
    )
    data = b'[exampleSDID@32473 iut="3" eventSource="App\\"li\\]cation"][examplePriority@32473 class="high"]'
    found = parse(b"<165>1 2003-10-11T22:14:15.003Z h evntslog - ID47 " + data)
    assert found is not None
    assert (found.text, parameters(found.data)) == (
        "",
        {
            "exampleSDID@32473.iut": "3",
            "exampleSDID@32473.eventSource": 'App"li]cation',
            "examplePriority@32473.class": "high",
        },
    )


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=300)
    | st.from_regex(r'<\d{1,3}>1 - - - - - \[[\]"\\= a\[]{0,200}', fullmatch=True).map(str.encode)
)
def test_no_bytes_raise_and_none_take_long(data: bytes) -> None:
    begin = time.process_time()
    found = parse(data)
    if found:
        parameters(found.data)
    assert time.process_time() - begin < 0.1


def test_quotes_that_never_end_take_no_time() -> None:
    begin = time.process_time()
    for body in (b'[a b="' + b'\\"' * 30_000, b"[" * 60_000, b'[a b="c"]' * 7000 + b"[", b'["' * 30_000):
        found = parse(b"<13>1 - - - - - " + body)
        assert found is not None
        parameters(body.decode())
    assert time.process_time() - begin < 5


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_messages_come_out_whole_however_the_bytes_arrive(data: st.DataObject) -> None:
    bodies = data.draw(st.lists(st.from_regex(rb"<[a-z ]{0,30}x", fullmatch=True), max_size=6))
    forms = [data.draw(st.sampled_from([b"%b\n", b"%b\0", b"%b\r\n", b"%d %b"])) for _ in bodies]
    stream = b"".join(
        form % ((len(body), body) if b"%d" in form else body) for form, body in zip(forms, bodies, strict=True)
    )
    framer, found, at = Framer(25), [], 0
    while at < len(stream):
        step = data.draw(st.integers(1, 20))
        found += framer.feed(stream[at : at + step])
        at += step
    assert found == [body for body in bodies if len(body) <= 25]
    assert framer.too_long == len(bodies) - len(found)


# ── agent.yaml ──────────────────────────────────────────────────────────────────────────────────────────────────────

GOOD = """
version: 1
node: n
data_dir: d
sources:
  plant: {type: syslog, listen: "127.0.0.1:5514", transport: [tcp], channels: {s: severity}, stream: host, time: time}
"""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "127.0.0.1",
            "0.0.0.0",
            "plant.listen: 0.0.0.0:5514 is not loopback: expected sources.plant.allow, the networks",
        ),
        ("127.0.0.1", "localhost", "plant.listen: expected an IP address and a port, found 'localhost:5514'"),
        ("5514", "99999", "plant.listen: expected a port of at most 65535, found '127.0.0.1:99999'"),
        ("time: time", "time: ts", "plant.time: expected time or received, found 'ts'"),
        ("stream: host", "stream: hots", "or sd.ID.NAME as a column, found 'hots'"),
        (
            "time: time",
            "time: time, allow: [10.2.0.1/16]",
            "plant.allow[0]: expected a network such as 10.2.0.0/16: 10",
        ),
        ("[tcp]", "[]", "plant.transport"),
        ("[tcp]", "[tls]", "plant.transport[0]: expected one of tcp, udp, found 'tls'"),
        ("time: time", "time: time, max_message: 2M", "plant.max_message: expected at most 1MiB, found '2M'"),
        ("time: time", "time: time, max_message: 100", "plant.max_message"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    yamlfile.parse(GOOD, Config, "agent.yaml")
    with pytest.raises(ConfigError, match=re.escape(says)):
        yamlfile.parse(GOOD.replace(old, new), Config, "agent.yaml")


@pytest.mark.parametrize("end", [b"\n", b"\0", b"a\n", b"1 a"])
def test_a_block_of_tiny_messages_takes_time_in_proportion_to_its_length(end: bytes) -> None:
    def cost_s(size: int) -> float:
        times = []
        for _ in range(5):
            began = time.process_time()
            Framer(65536).feed(end * (size // len(end)))
            times.append(time.process_time() - began)
        return min(times)

    assert cost_s(1 << 20) < 64 * cost_s(1 << 16)  # 16 times as long; the square of it would be 256
