"""Which corpus lies at a path, and reading it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from edgectl.core.errors import ConfigError, UsageError
from edgectl.evaluation.corpora import nab, smd, tables
from edgectl.evaluation.series import Corpus
from edgectl.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What of the data is evaluated, and where its labels are.

    Attributes:
        half: of NAB.
        only: patterns of series names; all without any.
        share: of a user's own history, the first part that is not scored; `train`: files with that part instead.
        labels: a file of intervals; `label_column`: a column of the data.
        sort: put readings into order of time.
    """

    half: nab.Half = "all"
    only: tuple[str, ...] = ()
    share: float = 0.15
    train: tuple[Path, ...] = ()
    labels: Path | None = None
    label_column: str = ""
    sort: bool = False


def read(paths: Sequence[Path], recipe: Recipe | None, choice: Choice) -> Corpus:
    """The corpus at `paths`: NAB's folder, SMD's, or files of a user's own whose columns `recipe` names.

    Raises:
        UsageError: options that the corpus has no use for.
        ConfigError: nothing there, or nothing left of it; what the readers refuse.
    """
    corpus = _read(paths, recipe, choice)
    if choice.only:
        chosen = tuple(one for one in corpus.series if any(fnmatchcase(one.name, each) for each in choice.only))
        if not chosen:
            names = ", ".join(one.name for one in corpus.series[:5])
            raise ConfigError(f"no series of {corpus.name} is called {' or '.join(choice.only)}, it has {names}, …")
        corpus = replace(corpus, name=f"{corpus.name} ({', '.join(choice.only)})", series=chosen)
    if all(one.begin >= len(one) for one in corpus.series):
        raise ConfigError(f"{corpus.name}: there is no reading to score after the history")
    return corpus


def _read(paths: Sequence[Path], recipe: Recipe | None, choice: Choice) -> Corpus:
    first = paths[0]
    if not first.exists():
        raise ConfigError(f"{first}: no such file or folder", hint="edgectl datasets fetch NAME --to DIR")
    known = nab.is_nab(first) or smd.is_smd(first)
    if known and (choice.labels or choice.label_column or choice.train or len(paths) > 1):
        raise UsageError(f"{first} is a corpus with history and labels of its own: expected it alone, without others")
    if choice.half != "all" and not nab.is_nab(first):
        raise UsageError(f"--half {choice.half}: only NAB has halves, and {first} is not NAB")
    if nab.is_nab(first):
        return nab.read(first, choice.half)
    if smd.is_smd(first):
        return smd.read(first)
    if first.is_dir():
        raise ConfigError(f"{first}: expected NAB's or SMD's folder, or data files, found neither")
    if recipe is None:
        raise UsageError(f"{first}: expected a recipe that names the columns of data files")
    return tables.read(
        paths, recipe, share=choice.share, train=choice.train, labels=choice.labels, label_column=choice.label_column,
        sort=choice.sort,
    )  # fmt: skip
