"""Actions that reach beyond the agent, against a real broker, a real web server and real processes."""

from __future__ import annotations

import http.server
import os
import shutil
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from edgectl_agent import actions
from edgectl_agent.actions.journal import BEGUN, INTENT, Journal, Line
from edgectl_agent.actions.responder import Responder, close_all
from edgectl_agent.config import Config
from edgectl_agent.core.allowed import read
from edgectl_agent.core.errors import ConfigError, StorageError
from edgectl_agent.core.messages import Alert
from paho.mqtt.client import Client, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from tests.support.mosquitto import Broker, free_port

NOW = 1_800_000_000 * 10**9
EVERYTHING = [
    {"type": "exec", "path": "/bin/sh"},
    {"type": "file", "path": "/"},
    {"type": "webhook", "url": "http://127.0.0.1:{port}"},
]


def alert(n: int, stream: str = "s", at_ns: int = NOW, severity: str = "critical", state: str = "open") -> Alert:
    return Alert(
        id=f"a-{n}", node="n1", stream=stream, recipe="r", version="1", bundle="b", variant="fp32",
        severity=severity, state=state, onset_ns=at_ns, changed_ns=at_ns, score=1.5, threshold=0.5, surprise=3.0,  # type: ignore[arg-type]
        raised_ns=at_ns,
    )  # fmt: skip


class Acting:
    """One action on real files; `now_ns` is its clock."""

    def __init__(self, folder: Path, rules: list[dict[str, Any]], **action: Any) -> None:
        self.folder, self.rules, self.action, self.now_ns = folder, rules, action, NOW
        self.start()

    def start(self) -> None:
        document = {"version": 1, "node": "n1", "data_dir": str(self.folder), "actions": [self.action]}
        (self.responder,) = actions.effects(msgspec.convert(document, Config), lambda: self.now_ns)
        self.responder.allow(read(self.rules))
        self.responder.open()

    def __enter__(self) -> Acting:
        return self

    def __exit__(self, *_: object) -> None:
        self.responder.close()

    def submit(self, *alerts: Alert) -> dict[str, int]:
        """The outcomes, when all is done."""
        before = sum(self.outcomes.values())
        for one in alerts:
            self.responder.submit(one)
        wait(lambda: sum(self.outcomes.values()) >= before + len(alerts))
        return self.outcomes

    @property
    def outcomes(self) -> dict[str, int]:
        return self.responder.status().outcomes

    @property
    def detail(self) -> str:
        return self.responder.status().detail


def wait(done: Callable[[], object], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)


# ── at most once, and not too often ─────────────────────────────────────────────────────────────────────────────────


def file_action(tmp_path: Path, rules: list[dict[str, Any]] | None = None, **more: Any) -> Acting:
    given = EVERYTHING if rules is None else rules
    return Acting(tmp_path, given, type="file", path=str(tmp_path / "out"), payload="{id} {stream}", **more)


def lines(tmp_path: Path) -> list[str]:
    return (tmp_path / "out").read_text().splitlines() if (tmp_path / "out").exists() else []


def test_an_alert_acts_once_also_when_a_restarted_agent_finds_it_again(tmp_path: Path) -> None:
    with file_action(tmp_path) as acting:
        assert acting.submit(alert(1), alert(2)) == {"ok": 2}
        acting.responder.submit(alert(1))
    with file_action(tmp_path) as acting:
        assert acting.submit(alert(3)) == {"ok": 1}
        acting.responder.submit(alert(2))
        acting.submit(alert(4))
    assert lines(tmp_path) == ["a-1 s", "a-2 s", "a-3 s", "a-4 s"]


def test_cooldown_is_per_stream_and_rate_for_all_and_both_hold_across_a_restart(tmp_path: Path) -> None:
    more = {"cooldown": "1m", "rate": "3/1h"}
    with file_action(tmp_path, **more) as acting:
        found = acting.submit(alert(1, "x"), alert(2, "x"), alert(3, "y"), alert(4, "z"), alert(5, "w"))
        assert found == {"ok": 3, "cooldown": 1, "rate": 1}
    with file_action(tmp_path, **more) as acting:
        assert acting.submit(alert(6, "x"), alert(7, "v")) == {"cooldown": 1, "rate": 1}
        acting.now_ns += 3600 * 10**9
        assert acting.submit(alert(8, "x", acting.now_ns))["ok"] == 1


def test_a_backlog_and_what_does_not_match_do_not_act(tmp_path: Path) -> None:
    when = {"severity": "critical", "stream": "press-*"}
    with file_action(tmp_path, on=when) as acting:
        acting.responder.submit(alert(1, "oven-1"))
        acting.responder.submit(alert(2, "press-1", severity="warning"))
        acting.responder.submit(alert(3, "press-1", state="cleared"))
        assert acting.submit(alert(4, "press-1", NOW - 3600 * 10**9), alert(5, "press-1")) == {"late": 1, "ok": 1}
    assert lines(tmp_path) == ["a-5 press-1"]


def test_without_a_signed_rule_nothing_fires_and_the_status_says_why(tmp_path: Path) -> None:
    with file_action(tmp_path, rules=[{"type": "file", "path": "/elsewhere"}]) as acting:
        assert acting.submit(alert(1)) == {"not-allowed": 1}
        assert acting.responder.status().refused == f"not allowed: no signed rule covers file {tmp_path}/out"
        acting.responder.allow(read(EVERYTHING))
        acting.responder.submit(alert(1))
        assert acting.submit(alert(2)) == {"not-allowed": 1, "ok": 1}
    assert lines(tmp_path) == ["a-2 s"]


def test_a_dry_run_says_what_it_would_have_done(tmp_path: Path) -> None:
    with file_action(tmp_path, rules=[], dry_run=True) as acting:
        assert acting.submit(alert(1)) == {"dry-run": 1}
        assert acting.detail == f"would append to {tmp_path}/out: a-1 s"
    assert lines(tmp_path) == []


def test_a_stream_whose_name_has_line_ends_stays_one_line(tmp_path: Path) -> None:
    with file_action(tmp_path) as acting:
        acting.submit(alert(1, "a\nb"))
        acting.submit(alert(2, "\x1b[2Ja\0"))
    assert lines(tmp_path) == ["a-1 a b", "a-2  [2Ja "]


def test_a_link_on_the_way_leads_no_line_out_of_the_folder_that_is_allowed(tmp_path: Path) -> None:
    allowed, outside = tmp_path / "allowed", tmp_path / "outside"
    (allowed / "day").mkdir(parents=True)
    outside.mkdir()
    rule, path = {"type": "file", "path": str(allowed)}, allowed / "day" / "out"
    with Acting(tmp_path, [rule], type="file", path=str(path)) as acting:
        assert acting.submit(alert(1)) == {"ok": 1}
        path.unlink()
        (allowed / "day").rmdir()
        (allowed / "day").symlink_to(outside)
        assert acting.submit(alert(2)) == {"ok": 1, "failed": 1}
        assert acting.detail.endswith(
            f"{path} cannot be written: a symbolic link stands in its way → name the real path, under allow: too"
        )
    assert list(outside.iterdir()) == []


def test_a_line_goes_into_no_file_of_another_name_and_waits_for_no_reader_of_a_pipe(tmp_path: Path) -> None:
    other, out = tmp_path / "other", tmp_path / "out"
    other.touch()
    with file_action(tmp_path) as acting:
        out.symlink_to(other)
        acting.submit(alert(1))
        assert "a symbolic link stands in its way" in acting.detail
        out.unlink()
        out.hardlink_to(other)
        acting.submit(alert(2))
        assert "found a pipe, a device or a hard link" in acting.detail
        out.unlink()
        os.mkfifo(out)
        assert acting.submit(alert(3)) == {"failed": 3}
    assert other.read_bytes() == b""


# ── programs ────────────────────────────────────────────────────────────────────────────────────────────────────────


def run_shell(tmp_path: Path, script: str, *arguments: str, **more: Any) -> Acting:
    return Acting(tmp_path, EVERYTHING, type="exec", command=["/bin/sh", "-c", script, "sh", *arguments], **more)


def test_a_program_gets_its_arguments_and_payload_and_nothing_of_the_agents_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "s3cret")
    script = f'echo "$1 ${{{{SECRET-none}}}} $(cat)" > {tmp_path}/out; ulimit -c >> {tmp_path}/out'
    with run_shell(tmp_path, script, "{stream}", payload="score {score}") as acting:
        assert acting.submit(alert(1, "a; touch /tmp/x $(id)")) == {"ok": 1}
    assert lines(tmp_path) == ["a; touch /tmp/x $(id) none score 1.5", "0"]


def test_a_failing_program_is_said_with_its_last_words_and_one_argument_is_no_option(tmp_path: Path) -> None:
    with run_shell(tmp_path, "printf '\\033[2J' >&2; exit 3") as acting:
        acting.submit(alert(1))
        assert acting.detail == "failed: /bin/sh ended with exit code 3: ?[2J"
    with run_shell(tmp_path / "2", "echo out of paper >&2; exit 3", "{stream}") as acting:
        assert acting.submit(alert(1)) == {"failed": 1}
        assert acting.detail == "failed: /bin/sh ended with exit code 3: out of paper"
        acting.submit(alert(2, "--delete"))
        assert acting.detail == "failed: the argument '--delete' would be an option of /bin/sh"


def test_a_hung_program_is_killed_at_its_timeout_with_its_children_wherever_they_went(tmp_path: Path) -> None:
    script = f"setsid sleep 1000 & echo $! > {tmp_path}/a; sleep 1000 & echo $! > {tmp_path}/b; wait"
    with run_shell(tmp_path, script, timeout="500ms") as acting:
        assert acting.submit(alert(1)) == {"failed": 1}
        assert acting.detail == "failed: /bin/sh was killed: it ran for 0.5 s"
    for name in "ab":
        wait(lambda name=name: not alive(int((tmp_path / name).read_text())))  # type: ignore[misc]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_program_with_another_content_than_was_signed_does_not_run(tmp_path: Path) -> None:
    program = tmp_path / "slow-feed"
    program.write_text(f"#!/bin/sh\necho ran >> {tmp_path}/out\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    rule = {"type": "exec", "path": str(program), "sha256": sha256(program.read_bytes()).hexdigest()}
    with Acting(tmp_path, [rule], type="exec", command=[str(program)]) as acting:
        assert acting.submit(alert(1)) == {"ok": 1}
        program.write_text("#!/bin/sh\nrm -rf /\n".replace("rm -rf /", f"echo evil >> {tmp_path}/out"))
        assert acting.submit(alert(2)) == {"ok": 1, "failed": 1}
        assert "is not the program that is allowed" in acting.detail
    assert lines(tmp_path) == ["ran"]


def pinned(tmp_path: Path, program: Path, *words: str, **more: Any) -> Acting:
    rule = {"type": "exec", "path": str(program), "sha256": sha256(program.read_bytes()).hexdigest()}
    return Acting(tmp_path, [rule], type="exec", command=[str(program), *words], **more)


def test_what_is_executed_are_the_bytes_that_were_checked_also_if_the_file_changes_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "slow-feed"
    program.write_text(f"#!/bin/sh\necho good $1 $(cat) >> {tmp_path}/out\n")
    program.chmod(0o755)
    started = subprocess.Popen

    def swapped(*args: Any, **more: Any) -> Any:
        program.write_text(f"#!/bin/sh\necho evil >> {tmp_path}/out\n")  # the same inode
        return started(*args, **more)

    monkeypatch.setattr(subprocess, "Popen", swapped)
    with pinned(tmp_path, program, "{stream}", payload="{id}") as acting:
        assert acting.submit(alert(1, "press")) == {"ok": 1}
    assert lines(tmp_path) == ["good press a-1"]


def test_a_checked_binary_runs_under_its_name_and_one_that_may_not_be_executed_does_not(tmp_path: Path) -> None:
    shell = tmp_path / "sh"
    shutil.copy("/bin/sh", shell)
    with pinned(tmp_path, shell, "-c", f"echo $0 >> {tmp_path}/out") as acting:
        assert acting.submit(alert(1)) == {"ok": 1}
        shell.chmod(0o644)
        assert acting.submit(alert(2)) == {"ok": 1, "failed": 1}
        assert acting.detail == f"failed: {shell} cannot be run: it is no executable file"
    assert lines(tmp_path) == [str(shell)]


def test_without_room_for_its_payload_a_program_is_not_run_and_that_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_shell(tmp_path, "true") as acting:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
        assert acting.submit(alert(1)) == {"failed": 1}
        assert acting.detail == "failed: /bin/sh cannot be given the alert: No such file or directory"


def test_a_hung_action_holds_up_nobody_and_what_is_too_much_is_dropped(tmp_path: Path) -> None:
    with run_shell(tmp_path, "sleep 1000", timeout="2s", rate="1000/1s") as acting:
        began_s = time.monotonic()
        for n in range(300):
            acting.responder.submit(alert(n))
        assert time.monotonic() - began_s < 1.5
        assert acting.outcomes["dropped"] >= 198


@pytest.mark.parametrize(
    ("word", "stream", "said"),
    [
        ("{stream}", "a\nb", "would have control characters"),
        ("{stream}", "a\0b", "would have control characters"),
        ("{stream}", "a\u2028b", "would have control characters"),
        ("/var/spool/{stream}", "../../etc/passwd", "would lead out of its folder"),
        ("/var/spool/{stream}/x", "..", "would lead out of its folder"),
    ],
)
def test_what_a_stream_is_called_leads_an_argument_nowhere_else(
    tmp_path: Path, word: str, stream: str, said: str
) -> None:
    with run_shell(tmp_path, f"echo ran > {tmp_path}/out", word) as acting:
        assert acting.submit(alert(1, stream)) == {"failed": 1}
        assert said in acting.detail
    assert lines(tmp_path) == []


# ── a web server ────────────────────────────────────────────────────────────────────────────────────────────────────


class Hooks(http.server.BaseHTTPRequestHandler):
    """Answers as its path says: a status, or ``drip`` for a byte now and then."""

    seen: list[tuple[str, dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        if self.path == "/drip":
            try:
                for _ in range(600):
                    self.wfile.write(b"H")
                    time.sleep(0.1)
            except (BrokenPipeError, ConnectionResetError):
                return
        status = int(self.path.strip("/"))
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/200")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hooks() -> Iterator[tuple[str, list[tuple[str, dict[str, str], bytes]]]]:
    handler: Any = type("Handler", (Hooks,), {"seen": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler.seen
    server.shutdown()
    server.server_close()


def hook(tmp_path: Path, url: str, **more: Any) -> Acting:
    rule = {"type": "webhook", "url": url.rpartition("/")[0]}
    return Acting(tmp_path, [rule], type="webhook", url=url, **more)


def test_a_webhook_carries_payload_key_and_the_secret_from_its_file(tmp_path: Path, hooks: Any) -> None:
    url, seen = hooks
    (tmp_path / "secret").write_text("Bearer t0ken\n")
    more = {"header_files": {"Authorization": str(tmp_path / "secret")}, "payload": {"text": "{stream}"}}
    with hook(tmp_path, f"{url}/200", **more) as acting:
        assert acting.submit(alert(1, 'a"b')) == {"ok": 1}
    ((_, headers, body),) = seen
    assert body == b'{"text":"a\\"b"}'
    assert (headers["authorization"], headers["idempotency-key"]) == ("Bearer t0ken", "a-1-open-critical")


def test_a_secret_that_is_no_header_is_not_shown_and_nothing_is_sent(tmp_path: Path, hooks: Any) -> None:
    url, seen = hooks
    (tmp_path / "secret").write_text("Bearer t0ken€\n")
    with hook(tmp_path, f"{url}/200", header_files={"Authorization": str(tmp_path / "secret")}) as acting:
        assert acting.submit(alert(1)) == {"failed": 1}
        assert "header_files.Authorization" in acting.detail
        assert "t0ken" not in acting.detail
    assert seen == []


def test_a_header_that_is_written_otherwise_takes_the_place_of_the_agents_own(tmp_path: Path, hooks: Any) -> None:
    url, seen = hooks
    with hook(tmp_path, f"{url}/200", headers={"content-TYPE": "application/x-plant"}) as acting:
        acting.submit(alert(1))
    ((_, headers, _),) = seen
    assert headers["content-type"] == "application/x-plant"


@pytest.mark.parametrize(("path", "said"), [("429", "429 Too Many Requests"), ("500", "500"), ("302", "302 Found")])
def test_a_server_that_refuses_is_a_failure_that_is_not_tried_again(
    tmp_path: Path, hooks: Any, path: str, said: str
) -> None:
    url, seen = hooks
    with hook(tmp_path, f"{url}/{path}") as acting:
        assert acting.submit(alert(1)) == {"failed": 1}
        assert f"answered {said}" in acting.detail
    assert len(seen) == 1


def test_a_server_that_hangs_makes_the_outcome_unknown_and_one_that_is_not_there_a_failure(
    tmp_path: Path, hooks: Any
) -> None:
    url, _ = hooks
    with hook(tmp_path, f"{url}/drip", timeout="300ms") as acting:
        assert acting.submit(alert(1)) == {"unknown": 1}
        assert "gave no answer within 0.3 s" in acting.detail
    with hook(tmp_path / "gone", f"http://127.0.0.1:{free_port()}/x") as acting:
        assert acting.submit(alert(1)) == {"failed": 1}


# ── a broker ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.needs("mosquitto")
def test_messages_reach_a_broker_and_one_that_was_away_does_not_get_them_later(tmp_path: Path) -> None:
    with Broker(tmp_path / "broker") as broker:
        got: list[tuple[str, bytes]] = []
        listener = listen(broker, got)
        rule = {"type": "mqtt", "url": broker.url, "topic": "plant/alarms"}
        action = {"type": "mqtt", "url": broker.url, "topic": "plant/alarms/{stream}", "timeout": "2s"}
        with Acting(tmp_path, [rule], **action, payload="{severity}") as acting:
            assert acting.submit(alert(1, "press")) == {"ok": 1}
            assert acting.submit(alert(2, "a/#")) == {"ok": 1, "failed": 1}
            broker.kill()
            assert acting.submit(alert(3)).get("ok") == 1
            broker.start()
            listener = listen(broker, got)
            acting.submit(alert(4, "oven"))
            wait(lambda: ("plant/alarms/oven", b"critical") in got)
        listener.disconnect()
        listener.loop_stop()
    assert got == [("plant/alarms/press", b"critical"), ("plant/alarms/oven", b"critical")]


@pytest.mark.needs("mosquitto")
def test_a_message_that_the_broker_does_not_take_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "acl").write_text("topic write plant/open/#\n")
    with Broker(tmp_path / "broker", f"acl_file {tmp_path}/acl") as broker:
        rule = {"type": "mqtt", "url": broker.url, "topic": "plant"}
        action = {"type": "mqtt", "url": broker.url, "topic": "plant/{stream}"}
        with Acting(tmp_path, [rule], **action) as acting:
            assert acting.submit(alert(1, "open/a"), alert(2, "closed/a")) == {"ok": 1, "failed": 1}
            assert "does not take the message: Not authorized" in acting.detail


def listen(broker: Broker, got: list[tuple[str, bytes]]) -> Client:
    client, ready = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5), threading.Event()
    client.on_message = lambda c, u, m: got.append((m.topic, m.payload))
    client.on_subscribe = lambda *_: ready.set()
    client.connect("127.0.0.1", broker.port)
    client.subscribe("#", 1)
    client.loop_start()
    assert ready.wait(60)
    return client


# ── what agent.yaml may say ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ({"type": "exec", "command": ["slow-feed"]}, r"actions\[0\].command\[0\]: expected an absolute path"),
        ({"type": "exec", "command": ["/x", "{strem}"]}, r"actions\[0\].command\[1\]: expected one of the fields"),
        ({"type": "file", "path": "/var/../etc/x"}, r"actions\[0\].path: expected an absolute path without"),
        (
            {"type": "file", "path": "/d/trust/floor.json"},
            r"actions\[0\].path: expected a file that is not the agent's",
        ),
        (
            {"type": "log", "path": "/d/x/../actions/exec.jsonl"},
            r"actions\[0\].path: expected a file that is not the agent's",
        ),
        ({"type": "file", "path": "/x", "rate": "10"}, r"actions\[0\].rate: expected a rate such as 10/1m"),
        ({"type": "file", "path": "/x", "cooldown": "soon"}, r"actions\[0\].cooldown: expected a duration"),
        ({"type": "webhook", "url": "http://h.x/a"}, r"actions\[0\].url: expected https"),
        ({"type": "webhook", "url": "https://u:p@h.x/a"}, r"actions\[0\].url: expected a URL such as"),
        (
            {"type": "webhook", "url": "https://h.x", "headers": {"Authorization": "x"}},
            r"headers.Authorization: expected it under header_files",
        ),
        (
            {"type": "webhook", "url": "https://h.x", "headers": {"Host": "internal.x"}},
            r"headers: Host is set by the agent alone",
        ),
        (
            {"type": "exec", "command": ["/bin/bash", "-lc", "echo {stream}"]},
            r"actions\[0\].command\[2\]: expected a script without fields",
        ),
        (
            {"type": "mqtt", "url": "mqtt://b", "topic": "a/#"},
            r"\[0\].topic: expected a topic without wildcards",
        ),
        (
            {"type": "mqtt", "url": "mqtt://b.x", "topic": "a", "user": "u", "password_file": "/p"},
            r"actions\[0\].url: expected mqtts",
        ),
    ],
)
def test_a_wrong_action_is_refused_with_its_key(action: dict[str, Any], said: str) -> None:
    document = {"version": 1, "node": "n1", "data_dir": "/d", "actions": [action]}
    with pytest.raises(ConfigError, match=said):
        msgspec.convert(document, Config)


def test_a_journal_that_was_taken_away_is_written_anew_and_stops_no_snapshot(tmp_path: Path) -> None:
    with file_action(tmp_path) as acting:
        acting.submit(alert(1))
        (tmp_path / "actions" / "file.jsonl").unlink()
        acting.responder.sync()
    with file_action(tmp_path) as acting:
        acting.submit(alert(2))
        acting.responder.submit(alert(1))
        acting.submit(alert(3))
    assert lines(tmp_path) == ["a-1 s", "a-2 s", "a-3 s"]


def test_the_journal_keeps_what_fired_when_it_is_made_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgectl_agent.actions.journal.MOST_KEPT", 10)
    monkeypatch.setattr("edgectl_agent.actions.journal._MOST_LINES", 50)
    with file_action(tmp_path, rate="5/1h") as acting:
        acting.submit(*(alert(n) for n in range(200)))
        journal = tmp_path / "actions" / "file.jsonl"
        assert len(journal.read_bytes().splitlines()) <= 51
        for n in range(5):
            acting.responder.submit(alert(n))
    assert lines(tmp_path) == [f"a-{n} s" for n in range(5)]
    assert isinstance(acting.responder, Responder)
    assert os.path.getsize(journal) < 20_000


def test_an_action_whose_intent_could_not_be_written_failed_and_is_not_tried_by_a_later_life(tmp_path: Path) -> None:
    journal = tmp_path / "actions" / "file.jsonl"
    with file_action(tmp_path) as acting:
        journal.unlink()
        journal.mkdir()  # as a disk that refuses to be written to
        assert acting.submit(alert(1)) == {"failed": 1}
        journal.rmdir()
        assert acting.submit(alert(2)) == {"failed": 1, "ok": 1}
    with file_action(tmp_path) as acting:
        acting.responder.submit(alert(1))
        assert acting.submit(alert(3)) == {"ok": 1}
    assert lines(tmp_path) == ["a-2 s", "a-3 s"]


def test_a_journal_that_cannot_be_written_takes_no_more_memory_than_one_that_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgectl_agent.actions.journal.MOST_KEPT", 10)
    monkeypatch.setattr("edgectl_agent.actions.journal._MOST_LINES", 50)
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.open()
    path.unlink()
    path.mkdir()
    for n in range(200):
        with pytest.raises(StorageError):
            journal.add(Line((f"a-{n}", "open", "critical"), "failed", NOW))
    known = [n for n in range(200) if (f"a-{n}", "open", "critical") in journal]
    assert len(known) <= 51
    assert known[-1] == 199


def test_nothing_acts_where_nobody_can_read_what_was_done_already(tmp_path: Path) -> None:
    journal = tmp_path / "actions" / "file.jsonl"
    journal.mkdir(parents=True)
    with file_action(tmp_path) as acting:
        journal.rmdir()
        assert acting.submit(alert(1)) == {"failed": 1}
        assert acting.detail.endswith("file.jsonl cannot be read: Is a directory → mend it and restart the agent")
    assert lines(tmp_path) == []


@pytest.mark.parametrize(("step", "outcome"), [(INTENT, "late"), (BEGUN, "unknown")])
def test_what_a_restored_backup_brings_back_does_not_act_again(tmp_path: Path, step: str, outcome: str) -> None:
    with file_action(tmp_path) as acting:
        acting.submit(alert(1), alert(2), alert(3))
    journal = tmp_path / "actions" / "file.jsonl"
    backup = [text for text in journal.read_bytes().splitlines(True) if b"a-1" in text]
    of_two = [text for text in journal.read_bytes().splitlines(True) if b"a-2" in text]
    steps = [msgspec.json.decode(text, type=Line).step for text in of_two]
    journal.write_bytes(b"".join([*backup, *of_two[: steps.index(step) + 1]]))
    acting.now_ns += 3600 * 10**9
    acting.start()
    with acting:
        wait(lambda: acting.outcomes == {outcome: 1})
        acting.responder.submit(alert(1))
        acting.responder.submit(alert(2))
        acting.submit(alert(3))  # which this journal has never seen: a replay from an older position finds it
    assert acting.outcomes == ({"late": 2} if outcome == "late" else {"late": 1, outcome: 1})
    assert lines(tmp_path) == ["a-1 s", "a-2 s", "a-3 s"]


def test_many_stuck_actions_are_ended_together_and_not_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgectl_agent.actions.responder._FAREWELL_S", 1.0)
    stuck = [run_shell(tmp_path / str(n), "echo $$ > $1; sleep 1000", str(tmp_path / f"{n}.pid"), timeout="1h")
             for n in range(8)]  # fmt: skip
    for one in stuck:
        one.responder.submit(alert(1))
    pids = [tmp_path / f"{n}.pid" for n in range(8)]
    wait(lambda: all(pid.exists() and pid.read_text().strip() for pid in pids))
    began_s = time.monotonic()
    close_all([one.responder for one in stuck])
    assert time.monotonic() - began_s < 6.0, "8 s if they were waited for one by one"
    for pid in pids:
        wait(lambda pid=pid: not alive(int(pid.read_text())))  # type: ignore[misc]
