"""The architecture, held: `edgectl` → `edgectl_agent` and never back; `core` is pure; `--help` loads nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
AGENT, OPERATOR = ROOT / "agent" / "edgectl_agent", ROOT / "edgectl"
PURE = {
    "abc", "array", "ast", "bisect", "collections", "contextlib", "dataclasses", "datetime", "difflib", "enum",
    "fnmatch", "functools", "hashlib", "heapq", "itertools", "json", "math", "operator", "re", "statistics", "string",
    "struct", "textwrap", "types", "typing", "zoneinfo", "__future__",
    "numpy", "msgspec", "google_crc32c",
}  # fmt: skip


def imports(file: Path) -> set[str]:
    """Absolute names of the modules that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            found.add(node.module or "")
    return found


def files(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("file", files(AGENT), ids=lambda f: str(f.relative_to(AGENT)))
def test_the_agent_never_imports_the_operators_side(file: Path) -> None:
    heavy = {"edgectl", "sklearn", "skl2onnx", "onnx", "pandas", "paramiko", "scipy", "pyarrow", "matplotlib"}
    assert not {name.split(".")[0] for name in imports(file)} & heavy


@pytest.mark.parametrize(
    "file", files(AGENT / "core") + files(OPERATOR / "core"), ids=lambda f: str(f.relative_to(ROOT))
)
def test_core_imports_no_io(file: Path) -> None:
    allowed = ("edgectl_agent.core", "edgectl.core") if file.is_relative_to(OPERATOR) else ("edgectl_agent.core",)
    for name in imports(file):
        assert name.startswith(allowed) or name.split(".")[0] in PURE, f"{file.name} imports {name}"


def rooms_below(room: Path) -> set[str]:
    """The folders of `edgectl` that files of `room` import when they run; what only types need is left out."""
    found: set[str] = set()
    for file in files(room):
        tree = ast.parse(file.read_text())
        typing = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
        for_types = {inner for block in typing for inner in ast.walk(block)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node not in for_types:
                package, *inside = (node.module or "").split(".")
                found |= {inside[0]} if package == "edgectl" and inside else set()
    return {name for name in found if (OPERATOR / name).is_dir()} - {room.name}


def test_folders_of_the_operators_side_import_in_one_direction() -> None:
    rooms = {room.name: rooms_below(room) for room in OPERATOR.iterdir() if room.is_dir() and any(room.rglob("*.py"))}
    order = list(TopologicalSorter(rooms).static_order())  # raises CycleError and names the circle
    assert rooms["core"] == set()
    assert order.index("machine") < order.index("fleet") < order.index("enrolment") < order.index("provisioning")
    assert not any("cli" in below for below in rooms.values())


def test_only_one_file_knows_onnx_runtime() -> None:
    knowing = [f.name for f in files(AGENT) if "onnxruntime" in {n.split(".")[0] for n in imports(f)}]
    assert knowing == ["inference.py"]


def test_help_imports_nothing_heavy() -> None:
    code = """
import sys
from edgectl.cli.app import main
sys.argv = ["edgectl", "--help"]
try:
    main()
except SystemExit as e:
    assert not e.code, e.code
heavy = {"sklearn", "skl2onnx", "onnx", "onnxruntime", "numpy", "scipy", "pyarrow", "sqlalchemy", "tuf", "httpx",
         "matplotlib", "pandas"}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"
    assert "deploy" in done.stdout
