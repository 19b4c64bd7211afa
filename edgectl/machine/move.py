"""Moves one machine that has an agent to another environment or other files, with its former state as the way back.

move = Move(host=…, layout=…, id="r-3", environment=…, files=…, version="0.2.0")
move.stage()                 # upload and install; nothing of what runs changes
move.begin()                 # the switch goes on by itself from here
move.follow()                # … and how it ended
move.undo()                  # back, also after it ended well
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import msgspec
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.core.messages import Report

from edgectl.core.errors import RemoteRefused
from edgectl.machine import environment, lease, switch
from edgectl.machine.environment import Environment
from edgectl.machine.interface import Host
from edgectl.machine.layout import AGENT, Layout
from edgectl.machine.shell import words

for _type in (Report,):  # not first in two threads at once: see edgectl_agent.core.messages
    msgspec.json.Decoder(_type)


@dataclass(frozen=True, kw_only=True)
class Move:
    """One machine's part of an upgrade or a change of configuration. The same `id` is the same move."""

    host: Host
    layout: Layout
    id: str
    version: str
    """Of the agent that shall answer."""
    environment: Environment | None
    """None keeps the one that runs."""
    files: Mapping[str, bytes]
    """By absolute path; empty keeps all."""
    service: str
    hold: Callable[[], AbstractContextManager[object]]
    """Keeps other operators off the machine while its block runs; raises `LockHeld`."""
    python: str = "python3"
    """Interpreter that the environment is made with."""
    within_s: float = switch.WITHIN_S

    def stage(self) -> None:
        """Everything that can be done beside the running agent; the new agent.yaml is checked by the new agent.

        Raises:
            NodeUnreachable: no connection, or it broke; the same call completes it.
            RemoteRefused: pip, or ``edgectl-agent check``, says why not.
            StorageError: the machine's disk refuses.
        """
        earlier = switch.outcome(self.host, self.layout, self.id)
        if earlier is not None and earlier.state in ("reverted", "undone", "stuck"):
            switch.drop(self.host, self.layout, self.id)
        wanted = self.environment
        if wanted is not None and wanted.name not in environment.present(self.host, self.layout):
            environment.install(self.host, self.layout, wanted, self.python)
        if self.layout.agent_yaml in self.files:
            self._check()

    def begin(self) -> None:
        """Start the switch; one that was started is left alone. Raises as `switch.begin`."""
        files = switch.files(self.files, self.layout)
        change = switch.Change(id=self.id, environment=self._target(), version=self.version, files=files)
        switch.begin(self.host, self.layout, change, self.service, self.within_s)

    def begun(self) -> bool:
        """Whether the machine has its parts: then it has ended, or goes on once more. Raises as `Host.run`."""
        there = switch.begun(self.host, self.layout, self.id)
        if there:
            switch.go_on(self.host, self.layout, self.id)
        return there

    def follow(self) -> switch.Outcome:
        """Wait for its end. Raises `NodeUnreachable`."""
        return switch.follow(self.host, self.layout, self.id)

    def undo(self) -> switch.Outcome:
        """Return to what was there before; a move that never began, or returned by itself, is left alone."""
        found = switch.outcome(self.host, self.layout, self.id)
        if found is None and not switch.begun(self.host, self.layout, self.id):
            return switch.Outcome(state="undone", reason="nothing was changed")
        found = found or self.follow()
        if found.state != "taken":
            return found
        switch.undo(self.host, self.layout, self.id)
        return self.follow()

    def tidy(self) -> None:
        """After it ended well: keep the environment that runs and the former one, delete older ones."""
        here = switch.folder(self.layout, self.id)
        done = self.host.run(
            f"readlink {words(self.layout.current)}; cat {words(f'{here}/old/current')}", root=self.layout.root
        )
        keep = [line.rpartition("/")[2] for line in done.text.splitlines() if line.strip()]
        if keep:
            environment.prune(self.host, self.layout, keep)
        switch.forget(self.host, self.layout, (self.id,))
        lease.clear(self.host, self.layout)

    def _target(self) -> str:
        if self.environment is not None:
            return environment.path(self.layout, self.environment.name)
        return self.host.run(f"readlink {words(self.layout.current)}", root=self.layout.root).text

    def _check(self) -> None:
        target, candidate = self._target(), f"{self.layout.config}/.agent.yaml.candidate"
        text = self.files[self.layout.agent_yaml]
        self.host.write(candidate, text, mode=0o640, root=self.layout.root)
        check = words(f"{target}/bin/{AGENT}", "check", "--config", candidate)
        if self.layout.root:  # as the user that will read it
            check = f"chgrp {self.layout.user} {words(candidate)}; su -s /bin/sh {self.layout.user} -c {words(check)}"
        script = f"{check}; s=$?; rm -f {words(candidate)}; exit $s"
        done = self.host.run(script, root=self.layout.root, timeout_s=120)
        if done.status:
            why = done.complaint.removeprefix(f"{AGENT}: ").replace(candidate, "agent.yaml")
            raise RemoteRefused(
                f"node {self.host.name}: its agent does not accept the new agent.yaml: {why}",
                status=422,
                reason="config",
                exit_code=3,
            )


def lost(outcome: switch.Outcome) -> tuple[str, ...]:
    """Models that the agent ran before and does not run after: ``recipe version``."""
    before, after = report(outcome.before), report(outcome.after)
    there = {(model.recipe, model.bundle) for model in after.models} if after else set()
    had = before.models if before else ()
    return tuple(f"{model.recipe} {model.version}" for model in had if (model.recipe, model.bundle) not in there)


def report(raw: bytes) -> Report | None:
    """An agent's report as the probe printed it; None if there is none."""
    try:
        return msgspec.json.decode(raw, type=Report)
    except UNREADABLE:
        return None
