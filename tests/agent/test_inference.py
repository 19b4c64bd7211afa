"""What ONNX Runtime does beside scoring."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUPPRESSED = ("ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "CI", "GITHUB_ACTIONS", "TF_BUILD")
"""With one of these it would keep quiet whatever we do."""


@pytest.mark.parametrize("module", ["edgectl_agent.runtime", "edgectl.training.quantize"])
def test_it_reports_nothing_to_its_maker_and_keeps_no_id_of_this_machine(module: str, tmp_path: Path) -> None:
    scoring = f"import {module}; from edgectl_agent.inference import ort; ort.get_available_providers()"
    env = {name: value for name, value in os.environ.items() if name not in SUPPRESSED}
    subprocess.run(
        [sys.executable, "-B", "-c", scoring],
        env=env | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)},
        check=True,
        timeout=120,
    )
    assert list(tmp_path.rglob("*")) == []
