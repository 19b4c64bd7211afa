"""What bad input gets: one sentence and the documented exit code, nothing half-done. Each by the real command.

===============================================  ====  ==============================================================
bad input                                        code  shown by
===============================================  ====  ==============================================================
unknown key or wrong type in fleet.yaml             3  `test_fleet_yaml_…`; test_nodes.py, test_init.py
unknown key or wrong type in a recipe               3  `test_a_recipe_…`; test_train_bad_input.py, test_nodes.py
unknown key or wrong type in agent.yaml             3  scenarios/test_agent_process.py
missing column                                      3  `test_a_missing_time_column_…`; test_train_bad_input.py
empty or constant data                              3  test_train_bad_input.py
cells that are no number, NaN, infinities           3  `test_a_part_without_values_…`, `test_a_decimal_comma_…`;
                                                       test_train_bad_input.py
cells that are no number, on a node                 -  scenarios/test_agent_process.py (counted, and left out)
unparsable or backwards time                        3  test_train_bad_input.py
files that are not what their ending says           3  `test_damaged_…`; test_train_bad_input.py
too little data for the recipe's windows            3  test_train_bad_input.py
unknown node                                        4  `test_an_unknown_name_…`; test_nodes.py
unknown model, version, recipe or rollout           4  `test_an_unknown_name_…`; test_models.py,
                                                       test_train_bad_input.py, scenarios/test_deploy.py
dead agent: deploy and its resume, audit           31  scenarios/test_deploy.py
dead agent: the canary, collect, rollback   22, 31, 4  `test_a_dead_agent_…`
dead agent: start                                  31  test_nodes.py
tampered or truncated bundle: sign, verify         40  test_models.py
tampered or truncated bundle: deploy               40  `test_a_damaged_bundle_…`; scenarios/test_deploy.py
tampered or truncated bundle: on its way            -  agent/test_trust_attacks.py (the agent's own verifying process)
expired metadata                               41, 10  `test_expired_metadata_…`; test_init.py
wrong or missing passphrase                        40  test_models.py, test_init.py
full disk: init, store, upload                     75  test_full_disk.py
full disk: train, nodes add, models sign           75  test_train_bad_input.py, test_nodes.py, test_models.py
full disk: on a node                                -  scenarios/test_agent_process.py (it waits, and loses nothing)
a second operator: who, and since when             50  `test_a_second_operator_…`; test_app.py,
                                                       test_train_bad_input.py, scenarios/test_deploy.py
Ctrl-C: train, sign, upload, journal write        130  scenarios/test_interrupted.py
Ctrl-C: between canary and rest                   130  scenarios/test_interrupted.py, scenarios/test_deploy.py
Ctrl-C: init, an agent's start, any command       130  test_init.py, test_nodes.py, test_app.py
unknown host key                                   40  test_ssh.py `test_an_unknown_host_key_…`,
                                                       `test_nobody_is_asked_…`
unknown host key: nodes check                      30  scenarios/test_nodes_check.py `test_an_unknown_host_key_…`
changed or revoked host key                        40  test_ssh.py `test_a_changed_host_key_…`,
                                                       `test_a_revoked_host_key_…`
host key that nobody is there to compare            2  test_ssh.py `test_pinning_needs_somebody_…`
wrong user, wrong key, no key                      31  test_ssh.py `test_a_wrong_user_…`, `test_a_wrong_key_…`,
                                                       `test_no_key_at_all_…`
no sudo: stop                                      30  scenarios/test_root_over_ssh.py `test_the_command_says_…`
no sudo: bootstrap                                 30  scenarios/test_lab_bootstrap.py `test_machines_that_cannot_…`
no Python, or too old, or not for the agent        30  scenarios/test_lab_bootstrap.py `test_machines_that_cannot_…`
wrong architecture: bootstrap, check               30  scenarios/test_lab_bootstrap.py `test_machines_that_cannot_…`,
                                                       scenarios/test_nodes_check.py `test_every_need_…`
unfit machine: the line of an invite                3  scenarios/test_invite.py `test_a_machine_that_cannot_…`
full or read-only disk on a node: bootstrap        75  scenarios/test_lab_bootstrap.py `test_machines_that_cannot_…`
full disk on a node: deploy                        75  scenarios/test_ssh_fleet.py `test_a_full_disk_…`
full disk on a node: upgrade                       20  scenarios/test_lab_upgrade.py `test_a_full_disk_…`
half-finished bootstrap, run again                  0  scenarios/test_lab_bootstrap.py `test_a_bootstrap_that_was_…`,
                                                       scenarios/test_lab_cuts.py `test_a_bootstrap_that_is_cut_…`
bastion down, or it forbids forwarding             31  test_ssh.py `test_a_jump_host_that_is_down_…`,
                                                       `test_a_jump_host_that_forbids_…`
token wrong: a node reached by HTTP                31  scenarios/test_http_nodes.py `test_a_token_that_is_wrong_…`
token wrong, expired, another node's, revoked       -  scenarios/test_pulling.py `test_a_token_that_does_not_…` (the
                                                       node says it, and counts again with a good one)
invite unknown, revoked, expired               40, 41  scenarios/test_invite.py `test_unknown_expired_and_…`
invite used up                                      4  scenarios/test_invite.py `test_one_line_makes_…`
node, or operator, of another fleet                31  scenarios/test_http_nodes.py `test_a_node_of_another_fleet_…`
machine of another fleet: bootstrap                40  scenarios/test_lab_bootstrap.py `test_a_taken_machine_…`
node id taken: in fleet.yaml                        3  test_nodes.py `test_a_node_that_makes_no_…`
node id taken: by or on another machine             3  scenarios/test_lab_bootstrap.py `test_a_taken_machine_…`
two bootstraps at once                             50  scenarios/test_lab_bootstrap.py `test_machines_are_installed_…`
upgrade or agent.yaml that does not come up        20  scenarios/test_lab_upgrade.py `test_an_agent_that_does_not_…`,
                                                       `test_an_agent_yaml_with_which_…`
link cut at any byte of a deployment               22  scenarios/test_ssh_fleet.py `test_a_link_cut_at_any_byte_…`
link cut at any byte of one file                    -  contracts/test_ssh_host.py `test_a_link_cut_at_any_byte_…`
link cut at any moment: bootstrap, upgrade          -  scenarios/test_lab_cuts.py `test_a_bootstrap_that_is_cut_…`,
                                                       `test_an_upgrade_that_is_cut_…`
===============================================  ====  ==============================================================

Files without a folder are in tests/cli. Host keys and what follows are of nodes on other machines.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from edgectl_agent.core.bundle import digest, encode

from edgectl.trust.keys import KeyStore
from edgectl.trust.repository import Repository
from tests.support.bundles import make_bundle, make_release
from tests.support.cli import Shell
from tests.support.histories import RECIPE, usual, write_history, write_recipe

TESTS = Path(__file__).parents[1]


def test_the_table_names_tests_that_exist() -> None:
    table = str(__doc__).split("====\n")[2]
    for row in re.split(r"\n(?=\S)", table.rpartition("\n=")[0]):
        file, named = Path(__file__), 0
        for path, test in re.findall(r"((?:\w+/)?test_\w+\.py)|`(test_\w+?)_?…`", row):
            if path:
                file = TESTS / path if "/" in path else TESTS / "cli" / path
            assert f"\ndef {test}" in file.read_text() if test else file.is_file(), row
            named += 1
        assert named, row


# ── fleet.yaml and recipes ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nodes: [{name: a}, {name: b, labels: {}, label: {}}]", "fleet.yaml: nodes[1].label: unknown key, did you"),
        ("defaults: {report: {evry: 60s}}", "fleet.yaml: defaults.report.evry: unknown key, did you mean 'every'?"),
        ("sites: {lyon: {labels: {line: 7}}}", "fleet.yaml: sites.lyon.labels.line: expected str, found 7"),
        ("nodes: [{name: a, agent: {streams: many}}]", "fleet.yaml: nodes[0].agent.streams: expected int"),
        (
            "nodes: [{name: a, sources: {s: {type: tail, path: 5}}}]",
            "fleet.yaml: nodes[0].sources.s.path: expected str, found 5",
        ),
        ("nodes: [{name: a, models: {press: []}}]", "fleet.yaml: nodes[0].models.press: expected"),
    ],
)
def test_fleet_yaml_with_a_wrong_key_or_type_is_refused_with_its_path(shell: Shell, text: str, says: str) -> None:
    (shell.folder / "fleet.yaml").write_text(f"version: 1\nfleet: acme\n{text}\n")
    shell.fails(3, "collect", says=says)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("window: 5m", "window: 5", "features[1].window: expected str, found 5"),
        ("window: 5m", "window: 5 parsecs", "features[1].window: expected a duration"),
        ("stats: [mean]", "stats: [men]", "features[1].stats[0]: expected one of"),
        ("warning: 1/day", "warnings: 1/day", "alerts.budget.warnings: unknown key, did you mean 'warning'?"),
        ("{type: pca}", "{type: pca, explained: most}", "model.explained: expected a number from"),
        ("{type: pca}", "{type: pca, trees: 7}", "model.trees: unknown key, expected one of type, seed,"),
        ("model: {type: pca}\n", "", "model: required key is missing"),
    ],
)
def test_a_recipe_with_a_wrong_key_or_type_is_refused_with_its_path(
    shell: Shell, old: str, new: str, says: str
) -> None:
    assert old in RECIPE
    path = write_recipe(shell.folder, RECIPE.replace(old, new))
    data = write_history(shell.folder / "good.csv")
    said = shell.fails(3, "train", "press", "--data", str(data), says=says)
    assert said.startswith(f"edgectl: {path}: ")


# ── data (more of it in test_train_bad_input.py) ────────────────────────────────────────────────────────────────────


def refused(shell: Shell, path: Path, says: str) -> None:
    """Training on `path` fails, and nothing was made."""
    write_recipe(shell.folder)
    shell.fails(3, "train", "press", "--data", str(path), "--plot", "scores.svg", says=says)
    assert not (shell.folder / ".edgectl" / "registry").exists()
    assert not (shell.folder / "scores.svg").exists()


def test_a_part_without_values_is_said_to_be_the_reason_and_not_the_amount_of_data(shell: Shell) -> None:
    path = write_history(shell.folder / "bad.csv", [*usual(300), *["nan"] * 200])
    refused(shell, path, "200 of 500 readings lack a required channel or have it out of range (value): ")


def test_a_decimal_comma_is_refused_with_its_row(shell: Shell) -> None:
    path = write_history(shell.folder / "bad.csv", [*usual(300), "1,5"])
    refused(shell, path, "row 302: expected 3 cells, found 4")


def test_a_missing_time_column_is_refused_with_those_that_are_there(shell: Shell) -> None:
    path = write_history(shell.folder / "bad.csv", head="time,machine,value")
    refused(shell, path, "column 'ts' is missing, the file has time, machine, value")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("bad.parquet", b"PAR1 and then nothing", "not a readable Parquet file"),
        ("bad.jsonl", b'{"ts": 1, "machine": "m", "value": 1}\n{"ts":', "row 2: expected one JSON object per line"),
        ("bad.jsonl", b'{"ts": 1, "machine": "m", "value": "x"}\n', "row 1, column 'value': expected a number"),
    ],
)
def test_damaged_parquet_and_json_lines_are_refused(shell: Shell, name: str, content: bytes, says: str) -> None:
    (shell.folder / name).write_bytes(content)
    refused(shell, shell.folder / name, says)


# ── names, dead agents ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def plant(shell: Shell) -> Shell:
    """A recipe, a signed release and a node whose agent does not run."""
    write_recipe(shell.folder)
    raw = encode(make_bundle(1))
    signed_at(shell.folder, datetime.now(UTC)).add_release(
        make_release("press", "1.0.0", 1, raw), {digest(raw): raw}, None, datetime.now(UTC)
    )
    (shell.folder / "n.csv").write_text("ts,machine,value\n")
    shell.ok("nodes", "add", "lyon-01", "--no-start", "--source", "s=tail:n.csv", "--model", "press=s")
    return shell


def signed_at(workspace: Path, now: datetime, passphrase: str | None = None) -> Repository:
    """The workspace's repository, made at `now` if it is not there."""
    keys = KeyStore(workspace / ".edgectl" / "keys")
    keys.create(passphrase)
    repository = Repository(workspace / "repo", keys)
    repository.create(now, passphrase)
    return repository


def test_an_unknown_name_is_refused_with_the_closest(plant: Shell) -> None:
    near_node, near_model = "did you mean 'lyon-01'?", "did you mean 'press'?"
    for args in (
        ("collect", "--select", "name=lyon-02"),
        ("deploy", "press", "--exclude", "lyon-02", "--yes"),
        ("alerts", "list", "--node", "lyon-02"),
        ("alerts", "ack", "--all-of", "lyon-02"),
    ):
        plant.fails(4, *args, says=near_node)
    for args in (
        ("train", "pres", "--data", "n.csv"),
        ("deploy", "pres", "--yes"),
        ("rollback", "pres", "--yes"),
        ("models", "sign", "pres"),
    ):
        plant.fails(4, *args, says=near_model)
    plant.fails(4, "deploy", "press@1.0.1", "--yes", says="did you mean 'press@1.0.0'?")
    plant.fails(4, "alerts", "show", "no-such-alert", says="no alert 'no-such-alert' in the store")


def test_a_dead_agent_is_named_by_every_verb_that_needs_it(plant: Shell) -> None:
    done = plant.run("collect")
    assert done.returncode == 31
    assert "node lyon-01: the agent does not run" in done.stdout
    plant.fails(4, "rollback", "press", "--yes", says="no node can return from its press: lyon-01 does not answer")
    done = plant.run("deploy", "press", "--yes")
    assert done.returncode == 22, "a canary that cannot be reached proves nothing"
    assert "lyon-01  unreachable  the agent does not run" in done.stdout
    assert done.stderr.endswith("to go on: edgectl deploy --resume r-1\n")
    assert "Traceback" not in done.stderr
    assert plant.run("audit").returncode == 10


# ── trust ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "damage",
    [lambda raw: raw[:-1], lambda raw: bytes([raw[0] ^ 1]) + raw[1:], lambda raw: b""],
    ids=["truncated", "tampered", "emptied"],
)
def test_a_damaged_bundle_is_not_deployed(plant: Shell, damage: Callable[[bytes], bytes]) -> None:
    (bundle,) = (plant.folder / "repo").rglob("*.bundle")
    bundle.write_bytes(damage(bundle.read_bytes()))
    done = plant.run("deploy", "press", "--yes")
    assert done.returncode == 40, done.stderr
    assert bundle.name in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not list((plant.folder / "repo" / "targets").glob("assignments/*"))


def test_expired_metadata_is_refused_until_it_is_signed_anew(tmp_path: Path) -> None:
    past = datetime.now(UTC) - timedelta(days=400)
    repository = signed_at(tmp_path, past)
    raw = encode(make_bundle(1))
    repository.add_release(make_release("press", "1.0.0", 1, raw), {digest(raw): raw}, None, past)
    shell = Shell(tmp_path)
    shell.ok("init", "--fleet", "acme")
    write_recipe(tmp_path)
    (tmp_path / "n.csv").write_text("ts,machine,value\n")
    shell.ok("nodes", "add", "lyon-01", "--no-start", "--source", "s=tail:n.csv", "--model", "press=s")
    says = f"root metadata expired at {past + timedelta(days=365):%Y-%m-%dT%H:%M:%SZ}, so nodes would refuse it"
    shell.fails(41, "deploy", "press", "--yes", says=f"{says} → edgectl repo refresh")
    found = shell.run("audit")
    assert found.returncode == 10
    for role in ("root", "models", "timestamp"):
        assert f"{role} ended 20" in found.stdout
    assert "edgectl repo refresh" in found.stdout
    shell.ok("repo", "refresh")
    assert "press  nothing → 1.0.0" in shell.ok("deploy", "press", "--dry-run")


# ── a second operator ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_second_operator_is_told_who_publishes_and_since_when(plant: Shell) -> None:
    """The repository has a lock of its own: it may be shared by workspaces."""
    holder = (
        "import sys\nfrom datetime import UTC, datetime\nfrom pathlib import Path\n"
        "from edgectl.trust.publication import publishing\n"
        "with publishing(Path('repo'), datetime.now(UTC)): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder], cwd=plant.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        done = plant.run("deploy", "press", "--yes")
        process.kill()
    assert done.returncode == 50, done.stderr
    last = done.stderr.splitlines()[-1]
    assert f"(process {process.pid}) is publishing" in last
    assert "repo: since 20" in last
    assert last.endswith("edgectl deploy --resume r-1")
