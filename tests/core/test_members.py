"""Nodes from other inventories: Ansible's and tables.

`tests/core/ansible` holds inventories with what ``ansible-inventory --list`` of ansible-core said about them.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from edgectl.core.errors import ConfigError
from edgectl.fleet import importing
from edgectl.inventory import ansible, ansible_hosts
from edgectl.inventory.ansible import Host, Sealed
from edgectl.inventory.importing import Change, merged
from edgectl.inventory.members import ansible_inventory
from edgectl.inventory.reading import load
from edgectl.workspace import Workspace

INVENTORIES = Path(__file__).parent / "ansible"


def plain(value: Any) -> Any:
    return value.how if isinstance(value, Sealed) else value


@pytest.mark.parametrize("file", ["hosts.yml", "hosts.ini"])
def test_hosts_groups_and_variables_are_those_that_ansible_sees(file: str) -> None:
    expected = json.loads((INVENTORIES / f"{file}.expected.json").read_text())
    hosts, sealed = ansible_inventory(INVENTORIES / file, file)
    seen = {
        host.name: {"groups": sorted(host.groups), "variables": {k: plain(v) for k, v in host.variables.items()}}
        for host in hosts
    }
    assert seen == expected
    assert sealed == ()


def test_a_group_has_the_hosts_of_its_children() -> None:
    names = [host.name for host in ansible_inventory(INVENTORIES / "hosts.ini", "hosts.ini", "edge")[0]]
    assert names == [
        "lyon-pi-01",
        "lyon-pi-02",
        "lyon-pi-03",
        "pune-pi-1",
        "gw-a",
        "gw-b",
        "gw-c",
        "gw-0",
        "gw-3",
        "gw-6",
    ]


def host(**variables: Any) -> Host:
    sealed = {key: ansible._sealed(value) for key, value in variables.items()}
    return Host(name="h", groups=("edge", "all-of-it"), variables=sealed)


def test_how_a_host_is_reached_becomes_its_connection() -> None:
    found = ansible_hosts.entry(
        host(
            ansible_host="10.0.0.1",
            ansible_port="2222",
            ansible_user="pi",
            ansible_ssh_private_key_file="~/.ssh/k",
            x=[1],
        )
    )
    connect = {"host": "10.0.0.1", "port": 2222, "user": "pi", "key": "~/.ssh/k"}
    assert found == {"name": "h", "groups": ["edge", "all-of-it"], "connect": connect}
    assert ansible_hosts.entry(host(ansible_user="a", ansible_ssh_user="b"))["connect"] == {"user": "b"}


@pytest.mark.parametrize(
    ("arguments", "jump"),
    [
        ("-o ProxyJump=ops@bastion:2222 -o StrictHostKeyChecking=no", "ops@bastion:2222"),
        ("-oProxyJump=bastion", "bastion"),
        ("-J a,b@c", "a,b@c"),
        ("-o 'ProxyJump bastion'", "bastion"),
        ('-o ProxyCommand="ssh -W %h:%p -q ops@bastion"', "ops@bastion"),
        ("-o ProxyCommand='ssh -p 2222 -l ops bastion -W %h:%p'", "ops@bastion:2222"),
        ("-o ProxyJump=none", None),
        ("-o ControlMaster=auto -o ControlPersist=60s", None),
    ],
)
def test_ssh_arguments_name_the_jump_host(arguments: str, jump: str | None) -> None:
    connect = ansible_hosts.entry(host(ansible_ssh_common_args=arguments)).get("connect", {})
    assert connect.get("jump") == jump


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"ansible_host": "{{ base }}.7"}, "host 'h': ansible_host is templated, which only Ansible can read"),
        (
            {"ansible_user": "$ANSIBLE_VAULT;1.1;AES256\n66"},
            "host 'h': ansible_user is vaulted, which only Ansible can read",
        ),
        ({"ansible_connection": "winrm"}, "host 'h': ansible_connection is 'winrm', expected ssh → leave the host out"),
        ({"ansible_port": "ssh"}, "host 'h': ansible_port: expected a port from 1 to 65535, found 'ssh'"),
        ({"ansible_host": ["a"]}, "host 'h': ansible_host: expected text, found list"),
        (
            {"ansible_ssh_common_args": "-o ProxyCommand='nc -X 5 %h %p'"},
            "the ProxyCommand 'nc -X 5 %h %p' is no jump host",
        ),
        ({"ansible_ssh_common_args": "-o 'open"}, "host 'h': ansible_ssh_common_args: no closing quotation"),
    ],
)
def test_what_only_ansible_can_use_is_refused_by_name(variables: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ansible_hosts.entry(host(**variables))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("h.ini", "[a:b:c]\n", "h.ini: line 1: expected [GROUP], [GROUP:children] or [GROUP:vars], found '[a:b:c]'"),
        ("h.ini", "[web:hosts]\nh x\n", "h.ini: line 2: expected NAME=VALUE after the host, found 'x'"),
        ("h.ini", "[web:kids]\n", "expected [web], [web:children] or [web:vars]"),
        ("h.ini", "[a:children]\nb\n[b:children]\na\n", "is inside itself"),
        ("h.ini", "web[3:1]\n", "line 1: host 'web[3:1]': the range [3:1] runs backwards"),
        ("h.ini", "web[01:100]\n", "expected ends of equal width"),
        ("h.yml", "- a\n", "h.yml: expected groups such as all"),
        ("h.yml", "all: {host: {a: }}\n", "group 'all': expected hosts, vars and children, found 'host'"),
        ("h.yml", "all: [\n", "h.yml: line 2: not valid YAML"),
        ("h.yml", "plugin: aws_ec2\n", "the plugin 'aws_ec2' makes this inventory, and edgectl runs none"),
        ("hosts", "#!/usr/bin/env python3\n", "hosts: a program makes this inventory"),
    ],
)
def test_an_inventory_that_cannot_be_read_is_one_sentence(name: str, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ansible.hosts(text, name)
    assert says in str(caught.value)


def test_an_unknown_group_names_the_closest() -> None:
    with pytest.raises(ConfigError, match="no group 'edge_pj' → did you mean 'edge_pi'"):
        ansible.hosts("[edge_pi]\nh\n", "hosts.ini", "edge_pj")


# ── in fleet.yaml ───────────────────────────────────────────────────────────────────────────────────────────────────

FLEET = """\
version: 1
fleet: acme
defaults: {connect: {via: ssh, user: edge}}
profiles: {pi: {tier: far-edge, agent: {cpu: 15%}}}
sites: {lyon: , pune: {labels: {country: in}}}
nodes:
  - {ansible: ansible/hosts.yml, group: edge_pi, profiles: [pi], site_from: plant}
  - {csv: pune.csv, site: pune, profiles: [pi]}
"""
TABLE = "name,host,port,labels.rack,profiles\npune-1,10.0.0.1,2222,r7,\npune-2,,,,pi\n"


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    shutil.copytree(INVENTORIES, tmp_path / "ansible")
    (tmp_path / "pune.csv").write_text(TABLE)
    (tmp_path / "fleet.yaml").write_text(FLEET)
    return tmp_path


def test_entries_stand_for_the_hosts_and_lines_of_other_files(plant: Path) -> None:
    fleet = load(plant / "fleet.yaml")
    assert fleet.names == ("lyon-pi-01", "lyon-pi-02", "lyon-pi-03", "pune-pi-1", "pune-1", "pune-2")
    two, pune = fleet.node("lyon-pi-02"), fleet.node("pune-1")
    assert (two.site, two.agent.cpu, two.connect.user, two.connect.jump) == (
        "lyon", "15%", "special", "ops@bastion.acme.example:2222",
    )  # fmt: skip
    assert two.groups == ("edge", "edge_pi")
    assert two.origins["connect.user"] == "ansible/hosts.yml host lyon-pi-02"
    assert (pune.connect.host, pune.connect.port, dict(pune.labels)) == (
        "10.0.0.1",
        2222,
        {"country": "in", "rack": "r7"},
    )
    assert (pune.origins["connect.port"], pune.origins["agent.cpu"]) == ("pune.csv line 2", "profile pi")


def test_a_later_entry_speaks_of_one_of_them(plant: Path) -> None:
    (plant / "fleet.yaml").write_text(FLEET + "  - {name: pune-2, tier: regional}\n")
    assert load(plant / "fleet.yaml").node("pune-2").tier == "regional"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("via: ssh", "via: local", "nodes[0] (ansible/hosts.yml): its hosts would be processes on this machine"),
        ("group: edge_pi", "group: edge_pj", "fleet.yaml: ansible/hosts.yml: there is no group 'edge_pj'"),
        ("site_from: plant", "site_from: place", "host 'lyon-pi-01': it has no variable 'place' for its site"),
        ("sites: {lyon: ,", "sites: {", "ansible/hosts.yml host lyon-pi-01: site: no site 'lyon' under sites"),
        ("pune.csv", "delhi.csv", "fleet.yaml: delhi.csv: no such file"),
        ("profiles: [pi]}", "profiles: [pi], exclude: [pune-9]}", ""),
    ],
)
def test_a_wrong_entry_is_one_sentence(plant: Path, old: str, new: str, says: str) -> None:
    (plant / "fleet.yaml").write_text(FLEET.replace(old, new))
    if not says:
        assert len(load(plant / "fleet.yaml").nodes) == 6
        return
    with pytest.raises(ConfigError) as caught:
        load(plant / "fleet.yaml")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("", "pune.csv: expected a first line with the names of the columns"),
        ("name,hst\n", "pune.csv: unknown column 'hst' → did you mean 'host'"),
        ("name,sudo_password\n", "secrets stand in fleet.yaml by reference"),
        ("name,host,connect.host\n", "column 'connect.host' is there twice"),
        ("name,host\n,10.0.0.1\n", "pune.csv line 2: expected a name"),
        ("name\na,b\n", "pune.csv line 2: expected 1 cells, found 2"),
        ("name,port\na,x\n", "pune.csv line 2: connect.port: expected int, found 'x'"),
        ("name,tier\na,edge\n", "pune.csv line 2: tier: expected one of far-edge, near-edge, regional, found 'edge'"),
        ("name,site\na,oslo\n", "pune.csv line 2: site: no site 'oslo' under sites"),
        ("name\na b\n", "pune.csv line 2: expected letters, digits"),
        ("name\na\na\n", "'a' is there twice"),
        ("name,connect.every\na,soon\n", "pune.csv line 2: connect.every: expected a duration"),
    ],
)
def test_a_wrong_table_is_one_sentence_with_its_line(plant: Path, table: str, says: str) -> None:
    (plant / "pune.csv").write_text(table)
    with pytest.raises(ConfigError) as caught:
        load(plant / "fleet.yaml")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_of_a_spreadsheet_has_semicolons_and_a_byte_order_mark(plant: Path) -> None:
    (plant / "pune.csv").write_bytes("\ufeffname;groups;user\r\np-1;a,b;é\r\n".encode())
    node = load(plant / "fleet.yaml").node("p-1")
    assert (node.groups, node.connect.user) == (("a", "b"), "é")


# ── importing ───────────────────────────────────────────────────────────────────────────────────────────────────────

START = """\
version: 1
fleet: acme
profiles: {pi: {agent: {cpu: 15%}}}
sites: {lyon: , pune: }
nodes:
  - {name: "gw-[a,b]", connect: {via: ssh}}
  - {name: lyon-pi-01, site: lyon, connect: {host: 10.0.0.9, via: ssh}, labels: {line: a}}  # by hand
  - name: lyon-pi-02
    connect: {user: special}  # do not touch
"""


def run(plant: Path, **options: Any) -> dict[str, Change]:
    workspace = Workspace(plant)
    found, _ = importing.found(options.get("ansible"), options.get("csv"), "edge" if "ansible" in options else "")
    changes = importing.decide(found, workspace, options.get("site", ""), ["pi"], machines="ansible" in options)
    importing.write(changes, workspace)
    return {change.name: change for change in changes}


def test_an_import_writes_plain_entries_and_the_second_time_nothing(plant: Path) -> None:
    (plant / "fleet.yaml").write_text(START)
    first = run(plant, ansible=plant / "ansible" / "hosts.yml")
    assert {name: change.state for name, change in first.items()} == {
        "lyon-pi-01": "changed", "lyon-pi-02": "skipped", "lyon-pi-03": "new", "pune-pi-1": "new",
        "gw-a": "skipped", "gw-b": "skipped", "gw-c": "new",
    }  # fmt: skip
    assert "connect.jump nothing → ops@bastion" in first["lyon-pi-01"].detail
    assert first["gw-a"].detail == "fleet.yaml's entry gw-[a,b] stands for it"
    assert first["lyon-pi-02"].detail.startswith("its entry has comments, change by hand: ")
    text = (plant / "fleet.yaml").read_text()
    assert "# do not touch" in text
    one = load(plant / "fleet.yaml").node("lyon-pi-01")
    assert (one.connect.host, one.site, dict(one.labels), one.profiles) == ("10.0.0.9", "lyon", {"line": "a"}, ("pi",))
    assert load(plant / "fleet.yaml").node("pune-pi-1").via == "ssh"
    second = run(plant, ansible=plant / "ansible" / "hosts.yml")
    assert {change.state for change in second.values()} == {"unchanged", "skipped"}
    assert (plant / "fleet.yaml").read_text() == text


def test_a_table_is_imported_into_a_site(plant: Path) -> None:
    (plant / "fleet.yaml").write_text(START)
    assert [change.state for change in run(plant, csv=plant / "pune.csv", site="pune").values()] == ["new", "new"]
    node = load(plant / "fleet.yaml").node("pune-1")
    assert (node.site, node.connect.port, node.via) == ("pune", 2222, "local")
    (plant / "pune.csv").write_text(TABLE.replace("10.0.0.1", "10.0.0.77"))
    changed = run(plant, csv=plant / "pune.csv", site="pune")["pune-1"]
    assert (changed.state, changed.detail) == ("changed", "connect.host 10.0.0.1 → 10.0.0.77")
    assert load(plant / "fleet.yaml").node("pune-1").connect.host == "10.0.0.77"


def test_merging_the_same_again_changes_nothing() -> None:
    a = {"connect": {"host": "x"}, "groups": ["a"], "labels": {"l": "1"}}
    b = {"connect": {"port": 1}, "groups": ["b", "a"], "site": "s"}
    assert merged(a, b) == merged(merged(a, b), b)
    assert merged(a, b) == {
        "connect": {"host": "x", "port": 1},
        "groups": ["a", "b"],
        "labels": {"l": "1"},
        "site": "s",
    }


@pytest.mark.parametrize("pattern", ["web[1:99999999]", "web[1:9999][1:9999]", "web[1:" + "9" * 30 + "]"])
def test_a_range_with_a_digit_too_many_does_not_fill_the_memory(pattern: str) -> None:
    with pytest.raises(ConfigError, match="stands for more than 100,000 names"):
        ansible.expand(pattern)


def test_an_inventory_of_open_brackets_is_refused_in_no_time() -> None:
    began = time.process_time()
    with pytest.raises(ConfigError):
        ansible.hosts("[" * 20_000, "hosts.yml")

    assert time.process_time() - began < 5  # quadratic, it would be minutes
