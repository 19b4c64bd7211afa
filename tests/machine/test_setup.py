"""Steps of an installation by a real shell, at folders of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgectl.machine import setup
from edgectl.machine.layout import Layout
from tests.support.this_host import ThisHost


@pytest.mark.needs("root")
def test_the_agent_gets_back_the_alerts_that_its_removal_kept_and_root_has_had_since(tmp_path: Path) -> None:
    layout = Layout(config=str(tmp_path / "etc"), data=str(tmp_path / "var"), user="daemon")
    outbox = tmp_path / "var" / "outbox"
    outbox.mkdir(parents=True)
    (outbox / "head").write_bytes(b"alerts")
    elsewhere = tmp_path / "passwd"
    elsewhere.touch()
    (outbox / "link").symlink_to(elsewhere)
    done = ThisHost().run(setup.make_folders(layout, "root"))
    assert done.status == 0, done.complaint
    assert {path.owner() for path in (outbox, outbox / "head", tmp_path / "var")} == {"daemon"}
    assert elsewhere.owner() == "root"
