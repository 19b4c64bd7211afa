"""Where the log goes: lines for the journal carry their priority, files are put aside and bounded."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

from edgectl_agent.logs import JournalLines

SCRIPT = """
import sys
from pathlib import Path
from edgectl_agent import logs
from edgectl_agent.config import Log
logs.start(Log(to=sys.argv[1], level="debug", rotate="64k", keep=2), Path(sys.argv[2]))
logs.note("model-loaded", recipe="press")
logs.warn("snapshot-failed", message="two\\nlines")
for i in range(int(sys.argv[3])):
    logs.note("filling", number=i)
"""


def logged(to: str, folder: Path, lines: int = 0) -> str:
    command = [sys.executable, "-c", SCRIPT, to, str(folder), str(lines)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stderr


def test_a_line_for_the_journal_is_its_priority_and_the_json_of_every_other_log(tmp_path: Path) -> None:
    info, warning = logged("journald", tmp_path).splitlines()
    assert (info[:3], warning[:3]) == ("<6>", "<4>")
    assert json.loads(info[3:]) | {"time": ""} == {
        "time": "",
        "level": "info",
        "event": "model-loaded",
        "recipe": "press",
    }
    assert json.loads(warning[3:])["message"] == "two\nlines", "one event stays one line"


def test_every_level_has_the_priority_that_syslog_gives_it() -> None:
    levels = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
    lines = [JournalLines().format(logging.LogRecord("x", level, "", 0, "e", None, None)) for level in levels]
    assert [line[:3] for line in lines] == ["<7>", "<6>", "<4>", "<3>", "<2>"]


def test_a_log_file_is_put_aside_at_its_size_and_only_so_many_stay(tmp_path: Path) -> None:
    assert logged("file", tmp_path, lines=5000) == ""
    found = sorted(tmp_path.iterdir())
    assert [path.name for path in found] == ["agent.log", "agent.log.1", "agent.log.2"]
    assert all(path.stat().st_size <= 64_000 for path in found)
    assert json.loads((tmp_path / "agent.log").read_text().splitlines()[-1])["number"] == 4999
