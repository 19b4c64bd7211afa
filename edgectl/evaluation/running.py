"""One evaluation from beginning to end: train, replay and judge each series, in several processes, then pool.

The outcome does not depend on how many processes there are. Nothing is written here.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import active_children, get_context

from edgectl_agent.core.bundle import decode

from edgectl.core.errors import ConfigError, StorageError
from edgectl.evaluation import pooling, results
from edgectl.evaluation.baselines import BASELINES, baseline
from edgectl.evaluation.events import detections
from edgectl.evaluation.judging import Judged, Kept, judged, kept
from edgectl.evaluation.ranges import BUFFER, missing
from edgectl.evaluation.replaying import Subject, channels_of, fitted, history, replayed, silent
from edgectl.evaluation.series import Corpus, Replayed, Series

Tick = Callable[[str], None]
"""Called with the name of each series that is done; what it raises ends the evaluation."""

THRESHOLDS: Mapping[str, str] = {
    "random": "no labels: so high that the budget is kept on average",
    "always alarm": "none",
    "new high/low": "none: every record alarms",
    "mean z²": "no labels: the quantile of the history that the budget allows",
    "null": "none",
}
"""Who chose each baseline's."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to evaluate.

    Attributes:
        budgets: to try beside the subject's own.
        seed: of what is random.
        jobs: processes at most.
        by_ranges: also the scores by aeon, which take most of the time.
    """

    budgets: tuple[float, ...] = ()
    seed: int = 0
    jobs: int = 1
    by_ranges: bool = True


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The figures, and what they were made from; `replays` are the detector's, one for each series."""

    result: results.Evaluation
    corpus: Corpus
    replays: tuple[Replayed, ...]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One series for one process."""

    series: Series
    corpus: Corpus
    subject: Subject
    asked: tuple[Subject, ...]
    options: Options
    by_ranges: bool


@dataclass(frozen=True, kw_only=True)
class Done:
    """What became of it."""

    detector: Replayed
    judged: dict[str, Judged]
    kept: tuple[Kept, ...]


def evaluate(corpus: Corpus, subject: Subject, options: Options, tick: Tick = lambda name: None) -> Evaluated:
    """Run `subject` and the baselines on `corpus`.

    Raises:
        ConfigError: the corpus lacks a channel, or the recipe can be trained on no series.
        AdmissionError: the bundle does not answer as where it was made.
        TrustError: the bundle is none.
        StorageError: a process was killed.
    """
    corpus, subject = fitted(corpus, channels_of(subject)), subject.untrained()
    why_no_ranges = missing() if options.by_ranges else "VUS-PR and range-based precision and recall were left out"
    asked = tuple(subject.asked(per_day) for per_day in options.budgets)
    if corpus.together:
        table = history(corpus.series, corpus)
        subject, asked = subject.trained(table), tuple(one.trained(table) for one in asked)
    bare = replace(corpus, series=())
    tasks = [
        Task(series=one, corpus=bare, subject=subject, asked=asked, options=options, by_ranges=not why_no_ranges)
        for one in corpus.series
    ]
    done: dict[int, Done] = {}
    for place, one in _worked(tasks, options.jobs):
        done[place] = one
        tick(corpus.series[place].name)
    ordered = [done[place] for place in range(len(tasks))]
    if ordered and all(one.detector.refused for one in ordered):
        raise ConfigError(f"{corpus.series[0].name}: {ordered[0].detector.refused}")
    result = _result(corpus, subject, options, ordered, why_no_ranges)
    return Evaluated(result=result, corpus=corpus, replays=tuple(one.detector for one in ordered))


def work(task: Task) -> Done:
    """Everything about one series."""
    series, per_day = task.series, task.subject.per_day
    detector = _run(task, task.subject)
    found = {"": judged(series, detector, task.by_ranges)}
    for name in BASELINES:
        found[name] = judged(series, baseline(name, series, per_day, task.options.seed), task.by_ranges)
    return Done(detector=detector, judged=found, kept=tuple(kept(series, _run(task, one)) for one in task.asked))


def _run(task: Task, subject: Subject) -> Replayed:
    """The detector on the series; a series whose history is too little to train on is silent."""
    try:
        if subject.raw is None:
            subject = subject.trained(history([task.series], task.corpus))
    except ConfigError as e:
        return silent(task.series, e.message)
    return replayed(subject, task.series)


def _worked(tasks: Sequence[Task], jobs: int) -> Iterator[tuple[int, Done]]:
    """Each task's place and outcome, as they come; the longest series first, so that no process is left with one."""
    order = sorted(range(len(tasks)), key=lambda place: -len(tasks[place].series))
    if jobs < 2 or len(tasks) < 2:
        for place in range(len(tasks)):
            yield place, work(tasks[place])
        return
    workers = min(jobs, len(tasks))
    # not forked: threads of the libraries would not be there in the child
    pool = ProcessPoolExecutor(workers, get_context("spawn"))
    try:
        with _interrupts_wait():  # the processes are started here, and never hear of Ctrl-C
            places = {pool.submit(work, tasks[place]): place for place in order}
        for future in as_completed(places):
            yield places[future], future.result()
    except BrokenProcessPool as e:
        raise StorageError(
            "a process of the evaluation was killed, perhaps because memory ran out", hint="say --jobs 1"
        ) from e
    except BaseException:
        for process in active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C reaches all processes of a terminal, also those that have yet to load Python; the first one alone decides
    what becomes of it. The mask is inherited, so that what is started here keeps it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _result(
    corpus: Corpus, subject: Subject, options: Options, done: Sequence[Done], why_no_ranges: str
) -> results.Evaluation:
    series = corpus.series
    chosen = f"no labels: the budget of {subject.per_day:.3g} false alerts per stream and day, as shipped"
    rows = [pooling.method(subject.name, chosen, [one.judged[""] for one in done], series, options.seed)]
    for name in BASELINES:
        rows.append(pooling.method(name, THRESHOLDS[name], [one.judged[name] for one in done], series, options.seed))
    budgets = [pooling.budget(per_day, [one.kept[i] for one in done]) for i, per_day in enumerate(options.budgets)]
    return results.Evaluation(
        model=subject.name,
        corpus=corpus.name,
        series=len(series),
        windows=corpus.windows,
        stream_days=round(corpus.days, 2),
        trained_on=_trained_on(corpus, subject),
        chosen_by=chosen,
        seed=options.seed,
        methods=tuple(rows),
        budgets=tuple(budgets),
        by_series=tuple(
            pooling.by_series(one, each.judged[""], int(detections(each.detector.alarms, one)[one.begin :].sum()))
            for one, each in zip(series, done, strict=True)
        ),
        remarks=_remarks(corpus, done, why_no_ranges),
    )


def _trained_on(corpus: Corpus, subject: Subject) -> str:
    if subject.recipe is None:
        learns = subject.raw is not None and decode(subject.raw).estimator == "online"
        return "nothing: it learns on the node, from the first reading on" if learns else "what it was released with"
    if corpus.together:
        return "the history of all series, which is not scored"
    return "each series' own history, which is not scored"


def _remarks(corpus: Corpus, done: Sequence[Done], why_no_ranges: str) -> tuple[str, ...]:
    remarks = [
        "an alarm that stays on is told, and charged, again every hour; delays count from a window's first reading",
        "intervals (-o wide): 95 %, drawing files with replacement, at the thresholds shown",
    ]
    if corpus.centred:
        remarks.append(
            "windows are centred on the labelled instant: an alert at 0.5 of its window comes at that instant"
        )
    if corpus.windows:
        remarks.append(
            "NAB best is at the threshold that is best on these very labels (an oracle), as published tables are"
        )
        remarks.append(
            why_no_ranges
            or f"VUS-PR: mean over labelled series of the method's own score, buffers of 0 to {BUFFER} readings"
        )
    else:
        remarks.append("no labels: every alert counts as false, and nothing can be said about recall")
    refused = [one for one in done if one.detector.refused]
    if refused:
        remarks.append(
            f"{len(refused)} of {len(done)} series could not be trained on: their windows are missed and their days "
            f"not counted; the first because: {refused[0].detector.refused}"
        )
    return tuple(remarks)
