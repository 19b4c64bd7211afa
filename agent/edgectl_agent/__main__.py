"""``edgectl-agent``: parse, wire, run. Errors are one sentence on stderr and the exit code of their kind."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import secrets
import signal
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from edgectl_agent import __version__
from edgectl_agent import config as configs
from edgectl_agent.config import HOST_CHANNELS, HostMetricsConfig
from edgectl_agent.core.errors import ConfigError, EdgeError, StorageError, UsageError
from edgectl_agent.core.units import duration_ns, iso
from edgectl_agent.sources.interface import Source

if TYPE_CHECKING:
    from edgectl_agent.runtime import Runtime
    from edgectl_agent.uplink.links import Links


def main() -> None:
    """Entry point of the command."""
    arguments = _parser().parse_args()
    try:
        code: int = arguments.verb(arguments)
    except EdgeError as e:
        print(f"edgectl-agent: {e}", file=sys.stderr)
        code = e.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes stdout at exit
        code = 0
    except KeyboardInterrupt:
        code = 130
    except Exception as e:
        logging.getLogger("edgectl_agent").exception("internal-error")
        print(f"edgectl-agent: internal error, please report it: {type(e).__name__}: {e}", file=sys.stderr)
        code = 1
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edgectl-agent", description="Detects anomalies on an edge node.")
    parser.add_argument("--version", action="version", version=f"edgectl-agent {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    run = verbs.add_parser("run", help="run the agent until SIGTERM")
    run.set_defaults(verb=_run)
    check = verbs.add_parser("check", help="say whether agent.yaml is valid")
    check.set_defaults(verb=_check)
    probe = verbs.add_parser("probe", help="say whether the running agent is well; exit 0 or 75")
    probe.set_defaults(verb=_probe)
    probe.add_argument("--version", default="", metavar="V", help="the agent must be of this version")
    probe.add_argument("--within", default="0s", metavar="DURATION", help="how long it may take to become so")
    take = verbs.add_parser("import", help="take in a slice of the repository that was brought by hand")
    take.set_defaults(verb=_import)
    take.add_argument("folder", type=Path, metavar="DIR", help="written by `edgectl repo export`")
    give = verbs.add_parser("export", help="write report and alerts into a file, to be carried to the operator")
    give.set_defaults(verb=_export)
    give.add_argument("file", metavar="FILE", help="for `edgectl collect --from`; - for standard output")
    for verb in (run, check, probe, take, give):
        verb.add_argument("--config", type=Path, required=True, metavar="FILE", help="agent.yaml")
    csr = verbs.add_parser("csr", help="print a signing request for this node's own key, which is made if missing")
    csr.set_defaults(verb=_csr)
    csr.add_argument("--config", type=Path, metavar="FILE", help="agent.yaml that names the key, as tls.key")
    csr.add_argument("--key", type=Path, metavar="FILE", help="the key, where there is no agent.yaml yet")
    csr.add_argument("--node", default="", metavar="NAME", help="the node's name, with --key")
    record = verbs.add_parser("record", help="write readings as JSON Lines, to train on")
    record.set_defaults(verb=_record)
    record.add_argument("--source", choices=["host-metrics"], default="host-metrics")
    record.add_argument("--every", default="1s", metavar="DURATION", help="between two readings (default 1s)")
    record.add_argument("--count", type=int, required=True, metavar="N", help="how many readings")
    record.add_argument("--host", default="", metavar="NAME", help="stream name (default: this machine's)")
    record.add_argument("--out", type=Path, metavar="FILE", help="default: stdout")
    return parser


def _check(arguments: argparse.Namespace) -> int:
    from edgectl_agent import actions, sources

    config, _ = configs.load(arguments.config)
    for name, source in config.sources.items():
        sources.build(source, config.node, name)
    actions.effects(config, time.time_ns)
    _check_tls(config)
    print(f"{arguments.config}: valid", file=sys.stderr)
    return 0


def _check_tls(config: configs.Config) -> None:
    """Certificates and keys that agent.yaml names are there and fit. Raises `ConfigError`."""
    for key, said in (("api", config.api.tls), ("ingest", config.ingest.tls)):
        if said is not None:
            from edgectl_agent import tls

            tls.listening(said, key)


def _csr(arguments: argparse.Namespace) -> int:
    if (arguments.config is None) == (arguments.key is None) or bool(arguments.key) != bool(arguments.node):
        raise UsageError("csr: expected --config FILE, or --key FILE and --node NAME")
    key, node = arguments.key, arguments.node
    if arguments.config is not None:
        config, _ = configs.load(arguments.config)
        tls = config.api.tls or config.ingest.tls
        if tls is None:
            raise ConfigError(f"{arguments.config}: neither api.tls nor ingest.tls is there: no certificate is needed")
        key, node = Path(tls.key), config.node

    from edgectl_agent import csr

    print(csr.request(key, node).decode(), end="")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    gc.disable()  # imports leave little to find, and every look at all that is there takes longer
    config, sha256 = configs.load(arguments.config)

    from edgectl_agent import logs
    from edgectl_agent.lock import AgentLock

    lock = AgentLock(config.folder)
    lock.acquire()
    logs.start(config.log, config.folder)

    from edgectl_agent import contact, notify
    from edgectl_agent.doors import Doors
    from edgectl_agent.runtime import Runtime

    gc.freeze()  # the modules stay: a collection need not look at them, nor a verifying child copy them
    gc.enable()
    boot = secrets.token_hex(8)
    manager, runtime = notify.here(), Runtime(config, sha256, boot)
    runtime.on_turn = lambda: manager.alive(runtime.headline, time.monotonic())

    def end(*_: object) -> None:
        manager.say("STOPPING=1")
        runtime.stop()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    links = _links(config, runtime)
    signal.signal(signal.SIGUSR1, lambda *_: links.poll_now() if links else None)
    doors = Doors(config, runtime)
    try:
        there = doors.bind(boot)
        runtime.open()
        doors.start()
        contact.write(config.folder, there)
        urls = {"url": there.url} | {k: v for k in ("remote", "ingest") if (v := getattr(there, k))}
        logs.note("started", node=config.node, boot=boot, version=__version__, **urls)
        if links:
            links.start()
        manager.say("READY=1", f"STATUS={runtime.headline()}")
        runtime.run()
    finally:
        if links:
            links.stop()
        runtime.close()
        doors.stop()
        contact.remove(config.folder)
    logs.note("stopped", node=config.node, boot=boot)
    logging.shutdown()
    os._exit(0)  # the interpreter would wait up to two minutes for a call of the API that waits for a verification


def _links(config: configs.Config, runtime: Runtime) -> Links | None:
    """What goes out by itself, if agent.yaml asks for any; else nothing of it is imported."""
    if config.repository is None and config.uplink is None:
        return None
    from edgectl_agent import contact
    from edgectl_agent.uplink.links import Links

    def own_api() -> tuple[str, str]:
        there = contact.read(config.folder)
        if there is None:
            raise StorageError("this agent's own API is not up", reason="starting")
        return there.url, there.token

    links = Links(config, runtime, own_api)
    runtime.links, runtime.on_alert, runtime.changes.on_change = links.statuses, links.changed, links.changed
    return links


def _probe(arguments: argparse.Namespace) -> int:
    from edgectl_agent import probe

    try:
        within_s = duration_ns(arguments.within) / 1e9
    except ConfigError as e:
        raise UsageError(f"--within: {e.message}") from e
    found = probe.until_well(arguments.config, arguments.version, within_s)
    if found.report is not None:
        print(msgspec.json.format(msgspec.json.encode(found.report), indent=2).decode())
    if found.problem:
        print(f"edgectl-agent: {found.problem}", file=sys.stderr)
    return StorageError.exit_code if found.problem else 0


def _import(arguments: argparse.Namespace) -> int:
    from edgectl_agent.byhand import take

    config, _ = configs.load(arguments.config)
    result = take(config, arguments.folder)
    print(msgspec.json.format(msgspec.json.encode(result)).decode())
    runs = ", ".join(f"{m.recipe} {m.version}" for m in result.models) or "nothing"
    said = f"{result.state}: {result.message}" if result.message else result.state
    forgot = f"; alerts up to {result.released} are stored by the operator" if result.released else ""
    print(f"edgectl-agent: {said}; {config.node} runs {runs}{forgot}", file=sys.stderr)
    return result.exit_code


def _export(arguments: argparse.Namespace) -> int:
    from edgectl_agent.byhand import give, give_file

    config, _ = configs.load(arguments.config)
    if arguments.file == "-":
        count = give(config, sys.stdout.buffer)
        sys.stdout.flush()
    else:
        count = give_file(config, Path(arguments.file))
    print(f"edgectl-agent: the report and {count} alert records of {config.node}", file=sys.stderr)
    return 0


def _record(arguments: argparse.Namespace) -> int:
    import socket

    from edgectl_agent.sources.host_metrics import HostMetricsSource

    if arguments.count < 1:
        raise ConfigError(f"--count: expected at least 1, found {arguments.count}")
    try:
        period_ns = duration_ns(arguments.every)
    except ConfigError as e:
        raise ConfigError(f"--every: {e.message}") from e
    if period_ns < duration_ns("100ms"):
        raise ConfigError(f"--every: expected at least 100ms, found {arguments.every!r}")
    source = HostMetricsSource(HostMetricsConfig(every=arguments.every), arguments.host or socket.gethostname())
    source.open(None)
    try:
        out = arguments.out.open("w", encoding="utf-8") if arguments.out else sys.stdout
        with out:
            _write_readings(source, arguments.count, out)
    except BrokenPipeError:
        raise
    except OSError as e:
        raise StorageError(f"{arguments.out or 'stdout'} cannot be written: {e.strerror or e}") from e
    return 0


def _write_readings(source: Source, count: int, out: IO[str]) -> None:
    done, live = 0, sys.stderr.isatty()
    while done < count:
        chunk = source.poll(1, 3600.0)
        for name, at, values in zip(chunk.streams, chunk.event_time, chunk.values, strict=True):
            reading = {
                "ts": iso(int(at)),
                "host": name,
                **dict(zip(HOST_CHANNELS, values.round(4).tolist(), strict=True)),
            }
            out.write(msgspec.json.encode(reading).decode() + "\n")
            out.flush()
            done += 1
            if live or done == count:
                print(f"\r{done} of {count} readings", end="\n" if done == count else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
