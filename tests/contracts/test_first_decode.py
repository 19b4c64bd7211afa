"""What several threads decode may be decoded by all of them from the start."""

from __future__ import annotations

import subprocess
import sys

RACE = """
import importlib, sys, threading, msgspec
sys.setswitchinterval(1e-6)
types = [getattr(importlib.import_module(module), name) for module, name in (word.split(":") for word in sys.argv[1:])]
def decode(kind, start):
    start.wait()
    try:
        msgspec.json.decode(b"{}", type=kind)
    except msgspec.ValidationError:
        pass
for kind in types:
    start = threading.Barrier(8)
    threads = [threading.Thread(target=decode, args=(kind, start)) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""
MESSAGES = ("Report", "AlertPage", "UpdateResult", "Release", "Assignment", "Sync", "SyncResult")
TYPES = (
    *(f"edgectl_agent.core.messages:{name}" for name in MESSAGES),
    "edgectl_agent.config:Config",
    "edgectl.connectors.answers:Api",
    "edgectl.connectors.client:_Have",
    "edgectl.core.wheels:Manifest",
    "edgectl.hub.enrol:Enrol",
    "edgectl.inventory.types:FleetFile",
    "edgectl.training.recipe_file:RecipeFile",
)
"""Of answers, of what a receiver is sent, and of what is read while machines are installed."""


def test_the_first_decode_in_many_threads_at_once_does_not_crash() -> None:
    for _ in range(3):
        subprocess.run([sys.executable, "-c", RACE, *TYPES], check=True, timeout=60)
