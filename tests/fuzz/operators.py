"""What the operator's side reads: bodies that nodes send, answers of machines, inventories, histories, recipes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import msgspec
from edgectl_agent.core.errors import EdgeError
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.core.messages import AlertPage, Report, Sync

from edgectl.connectors import answers
from edgectl.core.last_words import spoken
from edgectl.fleet.importing import from_ansible, from_table
from edgectl.hub.answers import Refused
from edgectl.hub.enrol import Enrol
from edgectl.hub.receive import receive
from edgectl.inventory.reading import parse as parse_fleet
from edgectl.machine.facts import parse as parse_facts
from edgectl.periods import read_periods
from edgectl.store.store import Store
from edgectl.training.recipe import load as load_recipe
from edgectl.training.tables import read as read_table
from tests.fuzz.engine import Target, scratch

_ROOT = Path(__file__).parents[2]
_MESSAGES = _ROOT / "tests" / "compat" / "messages"


def _from_file(suffix: str, read: Callable[[Path], Hashable]) -> Callable[[bytes], Hashable]:
    path = scratch() / f"file{suffix}"

    def run(data: bytes) -> Hashable:
        path.write_bytes(data)
        return read(path)

    return run


def _sync() -> Target:
    store = Store("sqlite:///state.db", scratch())
    store.__enter__()
    report = msgspec.json.decode((_MESSAGES / "report-0.1.json").read_bytes(), type=Report)
    page = msgspec.json.decode((_MESSAGES / "alert-page-0.1.json").read_bytes(), type=AlertPage)

    def run(data: bytes) -> Hashable:
        said = msgspec.json.decode(data, type=Sync)
        result = receive(store, report.node, said, 1_773_479_520_000_000_000)
        msgspec.json.encode(result)
        return result.released.through, len(store.alerts.find())

    one = msgspec.json.encode(Sync(report=report, alerts=page))
    words = [b'"%s"' % key.encode() for key in (*Report.__struct_fields__, *AlertPage.__struct_fields__)]
    words += [report.node.encode(), b"9223372036854775808", b"-9223372036854775809", b'"\\ud800"', b'"\\u0000"']
    return Target("syncs of nodes", run, [one], (*UNREADABLE, Refused, EdgeError), words, weight=0.2)


def _bodies() -> Target:
    def run(data: bytes) -> Hashable:
        how = int.from_bytes(data[:1]) % 3
        if how == 0:
            return type(msgspec.json.decode(data[1:], type=Enrol)).__name__
        if how == 1:
            found = answers.refused("n1", 409, data[1:])
            return found.reason, found.exit_code == 30
        api = answers.api(data[1:])
        return len(spoken(data[1:].decode("utf-8", "replace"))).bit_length(), api is None

    hexes = (b"ab" * 32,) * 2
    seeds = (
        b'\0{"token":"t","machine":"%s","credential":"%s","folder":"/x"}' % hexes,
        b'\x01{"error":"e","reason":"r","exit_code":30}',
        b'\x02{"event":"worker-failed","level":"error","node":"n","a":[1]}',
    )
    return Target(
        "enrolments, answers, log lines", run, seeds, UNREADABLE, (b'"machine"', b'"token"', b'"folder"'), weight=3
    )


def _facts() -> Target:
    text = (
        b"machine\tx86_64\nbits\t64\nmusl\t0\nglibc\t2.36\npython\t/usr/bin/python3\t3.11.2\t1\t1\t64\t1\n"
        b"disk\t/var\t/\t1000\trw,noexec\nmemory\t1000\navailable\t900\nclock\t1773479520.5\nuser\troot\nsystemd\t252\n"
        b"node\t\ncurrent\t\nindex\t\ninstalled\tprogram\nend\n"
    )

    def run(data: bytes) -> Hashable:
        found = parse_facts(data.decode(errors="replace"))
        return len(found.pythons), len(found.disks), found.libc

    return Target("facts of a machine", run, [text], (ValueError,), (b"\t", b"\n", b"python\t", b"disk\t"), 4096, 2)


def _ansible(suffix: str) -> Target:
    run = _from_file(suffix, lambda path: len(from_ansible(path, "", "plant")[0]))
    folder = _ROOT / "tests" / "core" / "ansible"
    words = (
        b"children:",
        b"hosts:",
        b"vars:",
        b"[a:children]\n",
        b"[1:99999999]",
        b"[a:zz]",
        b"ansible_host=",
        b"!vault |\n ",
    )
    seeds = [(folder / f"hosts{suffix}").read_bytes()]
    return Target(f"ansible inventory ({suffix[1:]})", run, seeds, (EdgeError,), words, 2048, 0.4)


def _table() -> Target:
    seeds = (
        b"name,site,labels.line,connect.host,agent.streams\nn1,lyon,press,10.0.0.1,200\n",
        b'\xef\xbb\xbfname;site\n"n;1";x\n',
    )
    run = _from_file(".csv", lambda path: len(from_table(path)))
    return Target("table of nodes", run, seeds, (EdgeError,), (b"name", b",", b";", b'"', b"agent.memory"), 4096, 1.5)


def _fleet() -> Target:
    def run(data: bytes) -> Hashable:
        return len(parse_fleet(data.decode("utf-8", "replace")).nodes)

    short = b"""version: 1
fleet: acme
store: sqlite:///s.db
defaults: {connect: {via: ssh, user: edge}, agent: {streams: 200}, report: {every: 60s, silent_after: 5m}}
sites: {lyon: {parent: gw-01, change_window: "Sat 02:00-05:00", time_zone: Europe/Paris}}
nodes:
  - {name: "gw-[01-03]", site: lyon, tier: near-edge, labels: {line: press}}
"""
    words = (
        b"[0-99999999]",
        b"[01-12]",
        b"*a",
        b"&a ",
        b"profiles: [p]",
        b"sources:",
        b"{ansible: x}",
        b"\n  - ",
        b": ",
    )
    return Target("fleet.yaml", run, [short], (EdgeError,), words, 2048, 0.3)


def _recipe() -> Target:
    run = _from_file(".yaml", lambda path: len(load_recipe(path).features.channels))
    seeds = [path.read_bytes() for path in (_ROOT / "models").glob("*/recipe.yaml")]
    words = (
        b"features:",
        b"window: 5m",
        b"stats: [mean]",
        b"quantile:",
        b"1e309",
        b"budget:",
        b"lateness: 5s",
        b"0s",
        b"9w",
    )
    return Target("recipe.yaml", run, seeds, (EdgeError,), words, 4096, 0.2)


def _history(suffix: str, seeds: Sequence[bytes]) -> Target:
    (recipe_file := scratch() / "recipe.yaml").write_text(
        "recipe: r\nstream: machine\ntime: {column: ts, zone: Europe/Paris}\nmodel: {type: pca}\n"
        "channels: {v: {unit: x}, t: {optional: true}}\nfeatures: [{of: all, window: 5m, stats: [mean]}]\n"
        "alerts: {budget: {warning: 1/day, critical: 1/30d}}\n"
    )
    recipe = load_recipe(recipe_file)
    run = _from_file(suffix, lambda path: min(3, len(read_table([path], recipe).event_time)))
    return Target(f"history ({suffix[1:]})", run, seeds, (EdgeError,), (b"machine", b"ts", b",", b"\n"), 4096, 0.3)


def _csv_history() -> Target:
    return _history(".csv", [b"machine,ts,v,t\nm1,2026-03-14 09:12:00,1.5,2\nm1,2026-03-29 02:30:00,2,\n"])


def _json_history() -> Target:
    return _history(
        ".jsonl", [b'{"machine":"m1","ts":1773479520,"v":1.5,"t":null}\n{"machine":"m1","ts":1773479521,"v":2}\n']
    )


def _periods() -> Target:
    run = _from_file(".csv", lambda path: len(read_periods(path)))
    seeds = [b"start,end,stream\n2026-03-14,2026-03-15T00:00:00Z,m1\n1773479520,1773479620,\n"]
    return Target("known bad periods", run, seeds, (EdgeError,), (b",", b"\n", b"start"), 2048, 0.5)


def targets() -> list[Target]:
    made = (_sync, _bodies, _facts, _table, _fleet, _recipe, _csv_history, _json_history, _periods)
    return [*(one() for one in made), _ansible(".ini"), _ansible(".yml")]
