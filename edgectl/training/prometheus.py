"""History from Prometheus: ``prom+http://HOST:9090?query=…&start=…&end=…&step=…`` as columns of a recipe.

Each series is one channel of one stream. Which channel: the name of the metric, or the label that ``channel=`` names;
for ``query.CHANNEL=EXPRESSION`` the channel in the key; in a recipe with one channel, always that. Which stream: the
label that ``stream=`` names, by default the recipe's stream column if series have such a label, else ``instance``.

Ranges of more than 11,000 points, which Prometheus refuses, are asked for piece by piece. A step without a value, or
with NaN, is a missing value. Credentials come from a file or the environment and are in no URL:
``EDGECTL_PROMETHEUS_TOKEN_FILE`` (a bearer token), or ``EDGECTL_PROMETHEUS_USER`` and
``EDGECTL_PROMETHEUS_PASSWORD_FILE``. They go over https, or to this machine itself.

In the URL ``+`` is a plus, since expressions add; ``%20`` is a space, ``%26`` is ``&`` and ``%23`` is ``#``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx
import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from edgectl_agent.connection import loopback
from edgectl_agent.core.foreign import UNREADABLE
from edgectl_agent.core.units import SECOND_NS, duration_ns, event_time_ns

from edgectl import secrets
from edgectl.core.errors import ConfigError, EdgeError, UsageError
from edgectl.inventory.types import SecretRef
from edgectl.training.columns import Columns
from edgectl.training.recipe import Recipe

SCHEMES = ("prom+http", "prom+https")
MAX_POINTS = 11_000
"""Per series and answer, as Prometheus has it."""
MAX_SERIES = 10_000
MAX_VALUES = 50_000_000
MAX_BYTES = 1 << 30
"""Of one answer, unpacked."""
MAX_CELLS = 100_000_000
"""Rows times channels."""
_TIMEOUT_S = 120.0
_ENVIRONMENT = "EDGECTL_PROMETHEUS_"
_LOGIN = f"set {_ENVIRONMENT}TOKEN_FILE, or {_ENVIRONMENT}USER and {_ENVIRONMENT}PASSWORD_FILE"
_KEYS = ("query", "start", "end", "step", "stream", "channel")


_Times = npt.NDArray[np.int64]
_Values = npt.NDArray[np.float64]
_Found = tuple[str, dict[str, str], _Times, _Values]
"""(channel or "", labels, ms since 1970, values) of a series."""


class PrometheusError(EdgeError):
    """It does not answer, or not now."""

    exit_code, reason = 75, "prometheus"


class _Series(msgspec.Struct, frozen=True):
    metric: dict[str, str]
    values: list[tuple[float, str]] = []


class _Data(msgspec.Struct, frozen=True):
    result: list[_Series] = []


class _Answer(msgspec.Struct, frozen=True):
    status: str
    data: _Data = _Data()
    error: str = ""


msgspec.json.Decoder(_Answer)  # not first in two threads at once: see edgectl_agent.core.messages


@dataclass(frozen=True, kw_only=True)
class Range:
    """What a URL asks for; times are ns since 1970."""

    shown: str
    """How messages call it: without query."""
    base: str
    queries: tuple[tuple[str, str], ...]
    """(channel or "", expression)."""
    start_ns: int
    end_ns: int
    step_ns: int
    stream: str = ""
    channel: str = "__name__"

    @property
    def pieces(self) -> tuple[tuple[int, int], ...]:
        """(first, last) of each request; all points lie on one grid from `start_ns`."""
        span = (MAX_POINTS - 1) * self.step_ns
        firsts = range(self.start_ns, self.end_ns + 1, span + self.step_ns)
        return tuple((first, min(first + span, self.end_ns)) for first in firsts)


def is_url(text: str) -> bool:
    """Whether ``--data`` means Prometheus and no file."""
    return text.partition("://")[0] in SCHEMES


def parse(url: str, now_ns: int) -> Range:
    """What `url` asks for. ``end`` is now by default, ``start`` 24 h before; ``start=-7d`` counts from the end.

    Raises:
        UsageError: names what is wrong in it.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as e:
        raise UsageError(f"--data {url}: {e}") from e
    if "#" in url:
        raise UsageError("--data: expected %23 for # in the URL")
    if not host or parts.username or parts.password:
        expected = "prom+http://HOST:9090?query=… without user or password"
        raise UsageError(f"--data: expected {expected}", hint=_LOGIN)
    scheme = parts.scheme.removeprefix("prom+")
    shown = f"{scheme}://{f'[{host}]' if ':' in host else host}{f':{port}' if port else ''}{parts.path.rstrip('/')}"
    pairs = parse_qsl(parts.query.replace("+", "%2B"), keep_blank_values=True)
    for key, _ in pairs:
        if key not in _KEYS and not key.startswith("query."):
            raise UsageError(
                f"--data: unknown key {key!r} in the URL, expected one of {', '.join(_KEYS)}, query.CHANNEL"
            )
    said = dict(pairs)
    queries = tuple((key.partition(".")[2], text) for key, text in pairs if key.partition(".")[0] == "query" and text)
    if not queries:
        raise UsageError("--data: the URL has no query", hint=f"prom+{shown}?query=METRIC&start=-24h&step=15s")
    step_ns = _duration("step", said.get("step", "15s"))
    end_ns = _moment("end", said.get("end", ""), now_ns, now_ns)
    start_ns = _moment("start", said.get("start", "-24h"), end_ns, now_ns)
    if not start_ns < end_ns:
        raise UsageError("--data: expected start before end")
    if (end_ns - start_ns) // step_ns > MAX_VALUES:
        raise UsageError(f"--data: expected at most {MAX_VALUES:,} steps", hint="ask for a larger step")
    return Range(
        shown=shown, base=shown, queries=queries, start_ns=start_ns, end_ns=end_ns, step_ns=step_ns,
        stream=said.get("stream", ""), channel=said.get("channel", "") or "__name__",
    )  # fmt: skip


def _duration(key: str, text: str) -> int:
    try:
        found = duration_ns(text) if not _is_number(text) else round(float(text) * SECOND_NS)
    except ConfigError as e:
        raise UsageError(f"--data: {key}: {e.message}") from e
    if found < SECOND_NS // 1000:
        raise UsageError(f"--data: {key}: expected at least 1ms, found {text!r}")
    return found


def _moment(key: str, text: str, end_ns: int, now_ns: int) -> int:
    """In whole ms, as Prometheus counts."""
    try:
        if text in ("", "now"):
            found = now_ns
        elif text.startswith("-"):
            found = end_ns - duration_ns(text[1:])
        else:
            found = event_time_ns(text)
    except (ConfigError, ValueError, OverflowError):
        expected = "a time such as 2026-03-14T09:00:00Z, seconds since 1970, or -24h"
        raise UsageError(f"--data: {key}: expected {expected}, found {text!r}") from None
    return found // 10**6 * 10**6


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def fetch(asked: Range, recipe: Recipe, environ: Mapping[str, str] = os.environ) -> Columns:
    """The range as the columns that `recipe` wants.

    Raises:
        PrometheusError: no answer.
        ConfigError: Prometheus refuses the query, or the login; nothing in the range; series that are no channel of the
            recipe, or have no stream, or are two for one channel of one stream; too many of them.
    """
    headers, login = _headers(environ), _login(environ)
    if (headers or login) and not _private(asked.base):
        raise ConfigError(
            f"{asked.shown}: expected https where a login is sent (http on loopback only)",
            hint=f"say prom+https://, or unset {_ENVIRONMENT}TOKEN_FILE, {_ENVIRONMENT}USER",
        )
    with httpx.Client(timeout=_TIMEOUT_S, headers=headers, auth=login) as http:
        series, count = [], 0
        for channel, query, (first, last) in ((c, q, piece) for c, q in asked.queries for piece in asked.pieces):
            found = _ask(http, asked, query, first, last)
            series += [(channel, one.metric, *_points(one)) for one in found if one.values]
            count += sum(len(one.values) for one in found)
            if count > MAX_VALUES:
                raise ConfigError(
                    f"{asked.shown}: more than {MAX_VALUES:,} values",
                    hint="ask for a larger step, a shorter range, or fewer series by labels in the query",
                )
    if not series:
        raise ConfigError(f"{asked.shown}: nothing was found in this range", hint="check query, start and end")
    return _columns(asked, recipe, series)


def _private(url: str) -> bool:
    return url.startswith("https:") or loopback(urlsplit(url).hostname or "")


def _headers(environ: Mapping[str, str]) -> dict[str, str]:
    file = environ.get(f"{_ENVIRONMENT}TOKEN_FILE")
    return {"Authorization": f"Bearer {_secret(file)}"} if file else {}


def _login(environ: Mapping[str, str]) -> httpx.BasicAuth | None:
    user, file = environ.get(f"{_ENVIRONMENT}USER"), environ.get(f"{_ENVIRONMENT}PASSWORD_FILE")
    return httpx.BasicAuth(user, _secret(file)) if user and file else None


def _secret(file: str) -> str:
    return secrets.fetch(SecretRef(file=file), Path())


def _ask(http: httpx.Client, asked: Range, query: str, first_ns: int, last_ns: int) -> list[_Series]:
    times = {"start": first_ns, "end": last_ns, "step": asked.step_ns}
    form = {"query": query, **{key: f"{ns / 1e9:.3f}" for key, ns in times.items()}}
    try:
        with http.stream("POST", f"{asked.base}/api/v1/query_range", data=form) as answer:
            content = _content(asked, answer)
    except (httpx.HTTPError, httpx.InvalidURL) as e:
        raise PrometheusError(f"{asked.shown} does not answer: {e or type(e).__name__}", hint="try again") from e
    if answer.status_code in (401, 403):
        raise ConfigError(
            f"{asked.shown} refuses the login (HTTP {answer.status_code})",
            hint=_LOGIN,
        )
    try:
        found = msgspec.json.decode(content, type=_Answer)
    except UNREADABLE as e:
        if answer.status_code >= 500:
            raise PrometheusError(f"{asked.shown}: HTTP {answer.status_code}", hint="try again") from e
        raise ConfigError(f"{asked.shown}: HTTP {answer.status_code}, and no answer as Prometheus gives it") from e
    if found.status != "success":
        raise ConfigError(f"{asked.shown} refuses the query: {found.error}", hint="mend the query or its range")
    if len(found.data.result) > MAX_SERIES:
        raise ConfigError(
            f"{asked.shown}: {len(found.data.result):,} series, expected at most {MAX_SERIES:,}",
            hint="select fewer by labels in the query",
        )
    return found.data.result


def _content(asked: Range, answer: httpx.Response) -> bytes:
    """Unpacked; whatever answers must not fill the memory. Raises `ConfigError`, `httpx.HTTPError`."""
    content = bytearray()
    for piece in answer.iter_bytes():
        content += piece
        if len(content) > MAX_BYTES:
            raise ConfigError(
                f"{asked.shown}: an answer of more than {MAX_BYTES:,} bytes",
                hint="ask for a larger step, a shorter range, or fewer series by labels in the query",
            )
    return bytes(content)


def _points(one: _Series) -> tuple[_Times, _Values]:
    """(ms since 1970, values) without NaN: 16 bytes each, where what was decoded has ten times as many."""
    values = np.array([float(text) for _, text in one.values])
    times = np.rint(np.array([at_s for at_s, _ in one.values]) * 1000).astype(np.int64)
    there = ~np.isnan(values)
    return times[there], values[there]


def _columns(asked: Range, recipe: Recipe, series: list[_Found]) -> Columns:
    """Rows by time, then stream: each stream's steps at which one of its channels has a value."""
    cells = _cells(asked, recipe, series)
    steps = {stream: np.unique(np.concatenate([t for _, t, _ in found])) for stream, found in sorted(cells.items())}
    some = sorted({column for found in cells.values() for column, times, _ in found if len(times)})
    count = sum(map(len, steps.values()))
    if count * len(some) > MAX_CELLS:
        raise ConfigError(
            f"{asked.shown}: {count:,} rows of {len(some)} channels, expected at most {MAX_CELLS:,} cells",
            hint="ask for a larger step, a shorter range, or fewer series by labels in the query",
        )
    values, first = np.full((len(some), count), np.nan), 0
    for stream, mine in steps.items():
        for column, times, found in cells[stream]:
            if len(times):
                values[some.index(column), first + np.searchsorted(mine, times)] = found
        first += len(mine)
    names = list(steps)
    at_ms = np.concatenate([*steps.values(), np.empty(0, np.int64)])
    which = np.repeat(np.arange(len(names)), [len(mine) for mine in steps.values()])
    order = np.lexsort((which, at_ms))
    columns = {recipe.time_column: pa.array(at_ms[order] * 10**6, pa.timestamp("ns", "UTC"))}
    if recipe.stream_column:
        columns[recipe.stream_column] = pa.array(names, pa.string()).take(pa.array(which[order]))
    columns |= {recipe.columns[c]: pa.array(values[i, order], from_pandas=True) for i, c in enumerate(some)}
    return Columns(asked.shown, 1, tuple(columns), columns)


def _cells(asked: Range, recipe: Recipe, series: list[_Found]) -> dict[str, list[tuple[int, _Times, _Values]]]:
    """Stream → (channel, times, values) of each of its series."""
    label = asked.stream or _stream_label(recipe, (metric for _, metric, _, _ in series))
    names = [channel.name for channel in recipe.features.channels]
    cells: dict[str, list[tuple[int, _Times, _Values]]] = {}
    known: dict[tuple[str, int], dict[str, str]] = {}
    for said, metric, times, values in series:
        stream = _stream(asked, recipe, label, metric)
        column = _channel(asked, recipe, names, said, metric)
        if known.setdefault((stream, column), metric) != metric:
            raise ConfigError(
                f"{asked.shown}: two series for channel {names[column]!r} of stream {stream!r}: "
                f"{_shown(known[stream, column])} and {_shown(metric)}",
                hint="name the label that tells streams apart with stream=LABEL, or aggregate in the query",
            )
        cells.setdefault(stream, []).append((column, times, values))
    return cells


def _stream_label(recipe: Recipe, metrics: Iterable[Mapping[str, str]]) -> str:
    column = recipe.stream_column
    return column if column and any(column in metric for metric in metrics) else "instance"


def _stream(asked: Range, recipe: Recipe, label: str, metric: Mapping[str, str]) -> str:
    found = metric.get(label, "")
    if not found and recipe.stream_column:
        raise ConfigError(
            f"{asked.shown}: series {_shown(metric)} has no label {label!r} to name its stream",
            hint="name another with stream=LABEL",
        )
    return found or recipe.name


def _channel(asked: Range, recipe: Recipe, names: list[str], said: str, metric: Mapping[str, str]) -> int:
    wanted = said or metric.get(asked.channel, "")
    for known in (names, recipe.columns):
        if wanted in known:
            return list(known).index(wanted)
    if len(names) == 1 and not said:
        return 0
    raise ConfigError(
        f"{asked.shown}: series {_shown(metric)} is no channel of {recipe.name}, expected one of {', '.join(names)}",
        hint="say query.CHANNEL=EXPRESSION, or name the label with the channel's name with channel=LABEL",
    )


def _shown(metric: Mapping[str, str]) -> str:
    text = "{" + ", ".join(f"{key}={value!r}" for key, value in sorted(metric.items())) + "}"
    return text if len(text) <= 120 else f"{text[:117]}…"
