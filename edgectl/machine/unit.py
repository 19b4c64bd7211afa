"""The systemd unit that the agent runs under: its own user, little memory, and a file system that it can only read.

``render(Layout(), config)`` is the text of ``/etc/systemd/system/edgectl-agent.service`` for a node with that
agent.yaml. It depends on the configuration (limits, files that it follows), so both are written together.

Two switches are off for a reason. ``ProcSubset=pid`` would hide ``/proc/stat`` from host-metrics and ``/proc/cpuinfo``
from ONNX Runtime, which chooses its kernels on ARM by it. ``PrivateNetwork`` would hide the operator's tunnel.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from edgectl_agent.action_config import ExecAction, FileAction, LogAction
from edgectl_agent.config import Config, Mapping
from edgectl_agent.core.units import size_bytes

from edgectl.machine.layout import AGENT, Layout

WATCHDOG_S = 60
STOP_S = 30
"""The agent ends within about three seconds of SIGTERM; a disk that stalls may take its time."""
_STATE = "/var/lib/"
_HOMES = ("/home", "/root", "/run/user")
_TEMPORARY = ("/tmp", "/var/tmp")
_BACK_OFF_SINCE = 254
"""The systemd that knows RestartSteps."""


def render(layout: Layout, config: Config, *, disk: str = "", systemd: int = 0) -> str:
    """The unit's text; the same arguments give the same text.

    Args:
        layout: where the agent's parts lie.
        config: its agent.yaml: ``limits.memory`` and ``limits.cpu`` are held by the unit, and what it reads and writes
            outside its data folder is let through.
        disk: size that no single file of the agent may exceed, as in ``500M``. systemd before 258 has no quota for a
            folder; the outbox holds itself to ``limits.outbox``.
        systemd: the node's version; restarts back off from 254 on, and come every 2 s before.
    """
    reads = [source.path for source in config.sources.values() if isinstance(source, Mapping)]
    reads += [action.command[0] for action in config.actions if isinstance(action, ExecAction)]
    writes = [a.path for a in config.actions if isinstance(a, LogAction | FileAction) and a.path]
    sections = {
        "Unit": [
            "Description=Detects anomalies on this node",
            "After=network.target",
            f"RequiresMountsFor={layout.data} {layout.home}",
            "StartLimitIntervalSec=0",  # a node nobody can reach must never give up for ever
        ],
        "Service": [
            *_process(layout, systemd),
            *_limits(config, disk),
            *_files(layout, reads, writes),
            *_SEALED,
        ],
        "Install": ["WantedBy=multi-user.target"],
    }
    text = "\n\n".join("\n".join([f"[{name}]", *lines]) for name, lines in sections.items())
    return f"# written by edgectl; `edgectl nodes configure` overwrites local edits\n{text}\n"


def _process(layout: Layout, systemd: int) -> list[str]:
    back_off = ["RestartSec=1s", "RestartSteps=6", "RestartMaxDelaySec=60s"]
    return [
        "Type=notify",
        "NotifyAccess=main",
        f"User={layout.user}",
        f"Group={layout.user}",
        f"ExecStart={layout.current}/bin/{AGENT} run --config {layout.agent_yaml}",
        "Restart=always",
        *(back_off if systemd >= _BACK_OFF_SINCE else ["RestartSec=2s"]),
        "TimeoutStartSec=300s",
        f"TimeoutStopSec={STOP_S}s",
        f"WatchdogSec={WATCHDOG_S}s",
        "Environment=PYTHONFAULTHANDLER=1",  # the watchdog's SIGABRT prints where every thread hung
        "KillMode=mixed",
        "StandardOutput=journal",
        "StandardError=journal",
        f"SyslogIdentifier={AGENT}",
        "LogRateLimitIntervalSec=30s",
        "LogRateLimitBurst=1000",
    ]


def _limits(config: Config, disk: str) -> list[str]:
    return [
        f"MemoryMax={size_bytes(config.limits.memory)}",
        "MemorySwapMax=0",
        "OOMPolicy=continue",  # the child that verifies an update may be the one that took too much
        f"CPUQuota={config.limits.cpu}",
        "TasksMax=128",
        "LimitNOFILE=4096",
        "LimitCORE=0",
        *([f"LimitFSIZE={size_bytes(disk)}"] if disk else []),
    ]


def _files(layout: Layout, reads: Iterable[str], writes: Iterable[str]) -> list[str]:
    """Everything is read-only but the data folder; homes and other services' temporary files are out of sight unless
    agent.yaml names some."""
    used = [*reads, *writes]
    writable = sorted({str(PurePosixPath(path).parent) for path in writes if not _below(path, layout.data)})
    if layout.data.startswith(_STATE):
        state = [f"StateDirectory={layout.data.removeprefix(_STATE)}", "StateDirectoryMode=0750"]
    else:
        writable = [layout.data, *writable]
        state = []
    return [
        *state,
        *(f"ReadWritePaths={_quoted('-' + path)}" for path in writable),
        "ProtectSystem=strict",
        f"ProtectHome={'read-only' if _any_below(used, _HOMES) else 'yes'}",
        f"PrivateTmp={'no' if _any_below(used, _TEMPORARY) else 'yes'}",
        "UMask=0027",
    ]


_SEALED = (
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "PrivateMounts=yes",
    "PrivateDevices=yes",
    "DevicePolicy=closed",
    "ProtectProc=invisible",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "ProtectControlGroups=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "LockPersonality=yes",
    "MemoryDenyWriteExecute=yes",
    "RemoveIPC=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged @resources",
    "SystemCallErrorNumber=EPERM",
)


def _quoted(path: str) -> str:
    """A path as one word of a unit: spaces, quotes and ``%`` mean themselves."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("%", "%%")
    return f'"{escaped}"'


def _any_below(paths: Iterable[str], folders: Iterable[str]) -> bool:
    return any(_below(path, folder) for path in paths for folder in folders)


def _below(path: str, folder: str) -> bool:
    return PurePosixPath(path).is_relative_to(folder)
