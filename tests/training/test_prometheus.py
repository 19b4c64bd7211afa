"""History from a real Prometheus: series become channels of streams; what cannot be read is one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgectl.core.errors import ConfigError, UsageError
from edgectl.training import prometheus
from edgectl.training.prometheus import MAX_POINTS, PrometheusError, fetch, parse
from edgectl.training.recipe import Recipe, load
from edgectl.training.tables import Table, read
from tests.support.prometheus import Prometheus

START_S, STEPS, STEP_S = 1_790_000_000, 25_000, 5
END_S = START_S + (STEPS - 1) * STEP_S
RECIPE = """\
recipe: press
stream: machine
time: {column: ts}
channels: {vib: {}, temp: {column: t.c, optional: true}}
features: [{of: vib, instant: [value]}]
model: {type: pca}
alerts: {budget: {warning: 1/day, critical: 1/30d}}
"""


def value(stream: int, i: int) -> float:
    return round(math.sin(i / 50) + stream, 6)


def samples() -> Iterator[str]:
    yield "# TYPE vib gauge"
    for stream in range(2):
        for i in range(STEPS):
            if not 100 <= i < 200 or stream == 1:  # the first machine has a gap
                number = "NaN" if i == 300 else f"{value(stream, i)}"
                yield f'vib{{instance="gw:9100",machine="m{stream}"}} {number} {START_S + i * STEP_S}'
    yield "# TYPE temp gauge"
    for i in range(0, STEPS, 2):
        yield f'temp{{instance="gw:9100",machine="m0"}} {20 + i % 3} {START_S + i * STEP_S}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with Prometheus(tmp_path_factory.mktemp("prometheus"), samples()) as running:
        yield running


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return load(tmp_path / "recipe.yaml")


def asked(server: Prometheus, recipe: Recipe, query: str, start: int = START_S, end: int = END_S) -> Table:
    url = f"{server.url}?{query}&start={start}&end={end}&step={STEP_S}s"
    return read([], recipe, fetched=[fetch(parse(url, 0), recipe, server.environ)])


@pytest.mark.needs("prometheus")
def test_series_become_channels_of_streams_beyond_the_servers_limit_of_points(
    server: Prometheus, recipe: Recipe
) -> None:
    assert STEPS > 2 * MAX_POINTS
    found = asked(server, recipe, 'query={__name__=~"vib|temp"}&channel=__name__')
    assert found.streams == ("m0", "m1")
    second = found.stream == 1
    there = [i for i in range(STEPS) if i != 300]
    np.testing.assert_array_equal(found.event_time[second] // 10**9, [START_S + i * STEP_S for i in there])
    np.testing.assert_array_equal(found.values[second, 0], [value(1, i) for i in there])
    assert np.isnan(found.values[second, 1]).all(), "a channel that a stream lacks is missing"
    at = {int(t) // 10**9: row for t, row in zip(found.event_time[~second], found.values[~second], strict=True)}
    assert at[START_S] == pytest.approx([value(0, 0), 20])
    assert at[START_S + 300 * STEP_S][1] == 20
    assert math.isnan(at[START_S + 300 * STEP_S][0]), "NaN is a missing value"
    held_s = 300  # Prometheus itself repeats a series' last sample for five minutes
    gap = [at[START_S + i * STEP_S][0] for i in range(100 + held_s // STEP_S, 200, 2)]
    assert len(gap) > 10
    assert np.isnan(gap).all()


@pytest.mark.needs("prometheus")
def test_an_expression_says_its_channel_and_a_label_its_stream(server: Prometheus, recipe: Recipe) -> None:
    found = asked(server, recipe, "query.vib=2*vib{machine='m1'}&stream=instance", end=START_S + 50)
    assert found.streams == ("gw:9100",)
    np.testing.assert_allclose(found.values[:, 0], [2 * value(1, i) for i in range(11)])


@pytest.mark.needs("prometheus")
@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("query=vib{", r"refuses the query: .*parse error.* → mend the query"),
        ("query=nothing_at_all", r"nothing was found in this range → check"),
        ("query={__name__=~'vib|temp'}&channel=machine", r"is no channel of press, expected one of vib, temp →"),
        ("query=vib&stream=instance", r"two series for channel 'vib' of stream 'gw:9100': .* → name the label"),
        ("query=vib&stream=site", r"has no label 'site' to name its stream → name another with stream=LABEL"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(server: Prometheus, recipe: Recipe, query: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        asked(server, recipe, query, end=START_S + 100)


@pytest.mark.needs("prometheus")
def test_a_login_comes_from_the_environment_and_is_asked_for(server: Prometheus, recipe: Recipe) -> None:
    with pytest.raises(ConfigError, match=r"refuses the login \(HTTP 401\) → set EDGECTL_PROMETHEUS_TOKEN_FILE"):
        fetch(parse(f"{server.url}?query=vib", START_S * 10**9), recipe, {})


@pytest.mark.needs("prometheus")
def test_an_answer_that_does_not_end_is_left_before_it_fills_the_memory(
    server: Prometheus, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus, "MAX_BYTES", 1000)
    with pytest.raises(ConfigError, match="an answer of more than 1,000 bytes → ask for a larger step"):
        asked(server, recipe, "query=vib")


def test_a_server_that_does_not_answer_is_a_temporary_failure(recipe: Recipe) -> None:
    with pytest.raises(PrometheusError, match=r"http://127.0.0.1:1 does not answer: .* → try again") as found:
        fetch(parse("prom+http://127.0.0.1:1?query=vib", 10**18), recipe, {})
    assert found.value.exit_code == 75


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("prom+http://?query=x", "expected prom"),
        ("prom+http://ann:secret@prom:9090?query=x", "without user or password"),
        ("prom+http://prom:9090", "has no query"),
        ("prom+http://prom:9090?query=x&stepp=1s", "unknown key 'stepp'"),
        ("prom+http://prom:9090?query=x&step=fast", "step"),
        ("prom+http://prom:9090?query=x&step=0", "step"),
        ("prom+http://prom:9090?query=x&start=soon", "start: expected a time"),
        ("prom+http://prom:9090?query=x&start=20&end=10", "start before end"),
        ("prom+http://prom:99999?query=x", "--data"),
        ("prom+http://prom:9090?query=x#1", "expected %23 for #"),
    ],
)
def test_a_url_that_is_wrong_is_refused_without_its_secret(url: str, said: str) -> None:
    with pytest.raises(UsageError) as found:
        parse(url, 10**18)
    assert said in str(found.value)
    assert "secret" not in str(found.value)


def test_more_values_than_fit_are_refused_while_they_come(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[int] = []

    def ask(http: object, asked: object, query: str, first_ns: int, last_ns: int) -> list[prometheus._Series]:
        fetched.append(first_ns)
        return [prometheus._Series({"instance": f"i{i}"}, [(float(t), "1") for t in range(10)]) for i in range(3)]

    monkeypatch.setattr(prometheus, "_ask", ask)
    url = f"prom+http://h?query=x&start={START_S}&end={START_S + 40_000}&step=1s"
    range_ = parse(url, (START_S + 50_000) * 10**9)
    monkeypatch.setattr(prometheus, "MAX_VALUES", 50)
    with pytest.raises(ConfigError, match="more than 50 values"):
        fetch(range_, recipe, {})
    assert len(fetched) == 2


def test_more_cells_than_fit_are_refused_before_they_are_made(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: object) -> list[prometheus._Series]:
        labels = ({"machine": "m", "__name__": name} for name in ("vib", "temp"))
        return [prometheus._Series(one, [(float(t), "1") for t in range(10)]) for one in labels]

    monkeypatch.setattr(prometheus, "_ask", ask)
    found = parse("prom+http://h?query=x&start=10&end=20&step=1s", 10**18)
    assert fetch(found, recipe, {}).found["t.c"].to_pylist() == [1.0] * 10
    monkeypatch.setattr(prometheus, "MAX_CELLS", 19)
    with pytest.raises(ConfigError, match="10 rows of 2 channels, expected at most 19 cells"):
        fetch(found, recipe, {})


@pytest.mark.parametrize("login", ["TOKEN", "PASSWORD"])
def test_a_login_does_not_go_over_a_network_in_the_clear(recipe: Recipe, tmp_path: Path, login: str) -> None:
    (tmp_path / "secret").write_text("t0ken\n")
    environ = {f"EDGECTL_PROMETHEUS_{login}_FILE": str(tmp_path / "secret"), "EDGECTL_PROMETHEUS_USER": "ops"}
    with pytest.raises(ConfigError, match=r"http://192.0.2.1:9090: expected https where a login is sent .* → say prom"):
        fetch(parse("prom+http://192.0.2.1:9090?query=vib", 10**18), recipe, environ)
    with pytest.raises(PrometheusError, match="does not answer"):
        fetch(parse("prom+http://127.0.0.1:1?query=vib", 10**18), recipe, environ)


def test_a_plus_in_an_expression_and_in_a_time_stays_a_plus() -> None:
    found = parse("prom+http://h?query=a+b%20-%20c&start=2026-03-14T09:00:00+01:00", 1_790_000_000 * 10**9)
    assert found.queries == (("", "a+b - c"),)
    assert found.start_ns == 1_773_475_200 * 10**9


def test_pieces_lie_on_one_grid_and_leave_nothing_out() -> None:
    found = parse("prom+http://prom?query=x&start=-7d&step=7s", 1_790_000_000 * 10**9)
    points = [at for first, last in found.pieces for at in range(first, last + 1, found.step_ns)]
    assert points == list(range(found.start_ns, found.end_ns + 1, found.step_ns))
    assert max((last - first) // found.step_ns + 1 for first, last in found.pieces) <= MAX_POINTS
