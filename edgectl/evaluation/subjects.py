"""What an operator names → what is evaluated: a recipe, a trained model of the registry, or a bundle's file."""

from __future__ import annotations

from pathlib import Path

from edgectl_agent.core.bundle import MAX_BUNDLE_BYTES, Variant, decode

from edgectl.core.errors import ConfigError, TrustError
from edgectl.core.releases import parse_model
from edgectl.evaluation.replaying import Subject
from edgectl.registry.interface import Registry, bundle_of
from edgectl.training.recipe import Recipe, find

SUFFIX = ".bundle"


def named(model: str, models: Path | None, registry: Registry, variant: Variant, seed: int | None) -> Subject:
    """``NAME`` or a path is a recipe, ``NAME@VERSION`` is in the registry, ``FILE.bundle`` is a bundle.

    Raises:
        NothingMatched: there is no such recipe, version or variant.
        ConfigError: the recipe is wrong, or the bundle's file cannot be read.
    """
    if model.endswith(SUFFIX):
        return Subject(name=Path(model).name, raw=_file(Path(model)))
    if "@" in model:
        name, version = parse_model(model)
        return Subject(name=model, raw=bundle_of(registry, registry.entry(name, version), variant), variant=variant)
    recipe = find(model, models)
    return Subject(name=recipe.name, recipe=recipe, variant=variant, seed=seed)


def recipe_of(subject: Subject, models: Path | None) -> Recipe:
    """What names the columns of data files. Raises as `named`; `ConfigError` for a bundle that carries templates."""
    if subject.recipe is not None:
        return subject.recipe
    assert subject.raw is not None
    bundle = decode(subject.raw)
    if bundle.features.templates:
        raise ConfigError(
            f"{subject.name} has templates of messages: expected its recipe, or a corpus of numbers",
            hint=f"edgectl evaluate {bundle.recipe}",
        )
    return find(bundle.recipe, models)


def _file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BUNDLE_BYTES + 1)
        decode(raw)
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read: {e.strerror or e}") from e
    except TrustError as e:
        raise ConfigError(f"{path}: {e.message}") from e
    return raw
