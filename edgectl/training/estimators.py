"""Fits the detectors: standardised features in, an estimator whose score is higher for stranger rows out.

`pca` and `autoencoder` score a row by the root mean square of what its reconstruction misses, `isolation-forest` by
scikit-learn's ``-score_samples`` (Liu, Ting & Zhou, "Isolation Forest", ICDM 2008), `kmeans` by the distance to the
nearest centroid (with one cluster: to the centre of usual rows), `robust-covariance` by the Mahalanobis distance under
a covariance that the strangest rows of the training data do not enter. Fitting uses one BLAS thread and the given seed,
so that equal inputs give equal models; see `edgectl.training.export` for their bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from edgectl_agent.core.batch import Float32, Float64, Int64
from edgectl_agent.core.bundle import Estimator

from edgectl.core.errors import ConfigError

Progress: TypeAlias = Callable[[int, int], None]

_MIN_ROWS = 32
_CONCENTRATIONS = 8
"""Steps after which a robust covariance is taken as it is."""
_TREES_PER_STEP = 10
_PATIENCE = 10
"""Epochs without a better training loss after which an autoencoder stops."""
_MIN_GAIN = 1e-3
"""Relative fall of the loss that counts as better."""


@dataclass(frozen=True, slots=True)
class Param:
    """One number that a recipe may set under ``model``; ``low`` and ``high`` are inclusive."""

    kind: type[int] | type[float]
    low: float
    high: float
    meaning: str


PARAMS: Mapping[Estimator, Mapping[str, Param]] = {
    "pca": {
        "explained": Param(float, 0.01, 0.999999, "share of the variance that the retained subspace explains"),
        "components": Param(int, 1, 100_000, "size of the retained subspace, instead of `explained`"),
        "inside": Param(float, 0.0, 100.0, "weight of unusual positions inside the subspace beside the residual's"),
    },
    "isolation-forest": {
        "trees": Param(int, 1, 2_000, "number of trees"),
        "samples": Param(int, 2, 65_536, "rows that each tree sees"),
    },
    "autoencoder": {
        "hidden": Param(int, 0, 4_096, "width of the layers around the bottleneck; 0 for none"),
        "bottleneck": Param(int, 1, 4_096, "width of the innermost layer"),
        "epochs": Param(int, 1, 10_000, "passes over the data at most"),
        "batch": Param(int, 8, 65_536, "rows per step"),
        "learning_rate": Param(float, 1e-6, 1.0, "step size of Adam"),
        "inside": Param(float, 0.0, 100.0, "weight of the row's own distance from the centre beside the residual's"),
    },
    "kmeans": {
        "clusters": Param(int, 1, 1_024, "number of centroids; 1 for the distance from the centre"),
    },
    "robust-covariance": {
        "trim": Param(float, 0.0, 0.5, "share of the strangest rows that do not enter the covariance"),
        "shrinkage": Param(float, 1e-3, 1.0, "how far the covariance is drawn to equal, independent features"),
    },
    "online": {
        "warm_up": Param(int, 30, 10_000, "readings of a channel before it is judged"),
    },
}


@dataclass(frozen=True)
class Fitted:
    """A trained estimator of ``width`` features; `model` is scikit-learn's own object.

    A reconstruction's score is the root mean square of what it misses. With ``inside`` above 0 it also counts how far a
    row lies from the centre along what the model does reproduce: a large fault in a usual direction is reconstructed
    well. For PCA this is the combined index of Yue & Qin, "Reconstruction-Based Fault Identification Using a Combined
    Index", 2001: residual and Hotelling's T², each in units of its variance.
    """

    estimator: Estimator
    model: Any
    width: int
    inside: float = 0.0

    def score(self, z: Float32) -> Float64:
        """Scores by scikit-learn: the reference that the exported graph must reproduce. Shape (n,)."""
        if self.estimator == "isolation-forest":
            return np.asarray(-self.model.score_samples(z), np.float64)
        wide = z.astype(np.float64)
        if self.estimator == "kmeans":
            return np.asarray(self.model.transform(wide).min(axis=1) / np.sqrt(self.width), np.float64)
        if self.estimator == "robust-covariance":
            white = (wide - self.model.location_) @ self.whitening
            return np.asarray(np.sqrt(np.sum(white**2, axis=1) / self.width), np.float64)
        if self.estimator == "pca":
            code = self.model.transform(wide)
            square = np.sum((wide - self.model.inverse_transform(code)) ** 2, axis=1) * self.residual_weight**2
            square += np.sum((code * self.code_weights) ** 2, axis=1)
        else:
            square = np.sum((wide - self.model.predict(z).reshape(z.shape)) ** 2, axis=1)
            square += self.inside * np.sum(wide**2, axis=1)
        return np.asarray(np.sqrt(square / self.width), np.float64)

    @property
    def residual_weight(self) -> float:
        """What PCA's residual is multiplied with."""
        return 1.0 if self.inside == 0 else float(1 / np.sqrt(self._floored(self.model.noise_variance_)))

    @property
    def code_weights(self) -> Float64:
        """What each coordinate inside PCA's subspace is multiplied with, shape (k,)."""
        return np.asarray(np.sqrt(self.inside / self._floored(self.model.explained_variance_)), np.float64)

    @property
    def whitening(self) -> Float64:
        """Takes a centred row onto the axes of the robust covariance, in units of their deviations; shape (F, F)."""
        variance, axes = np.linalg.eigh(self.model.covariance_)
        return np.asarray(axes / np.sqrt(np.maximum(variance, 1e-6 * variance[-1] + 1e-12)), np.float64)

    def _floored(self, variance: Any) -> Any:
        """A direction that never moved in training must not turn rounding into an anomaly."""
        return np.maximum(variance, 1e-3 * self.model.explained_variance_[0] + 1e-12)


def fit(kind: Estimator, z: Float32, *, seed: int, params: Mapping[str, int | float], progress: Progress) -> Fitted:
    """Train on standardised features ``z`` (n, F) with one BLAS thread; equal inputs give equal models.

    ``progress(done, total)`` is called after each unit of work; KeyboardInterrupt passes through.

    Raises:
        ConfigError: an unknown or impossible parameter, too few rows, a value that is not finite.
    """
    from threadpoolctl import threadpool_limits

    _check_params(kind, params)
    n, width = z.shape
    if n < _MIN_ROWS or width == 0:
        raise ConfigError(f"training needs at least {_MIN_ROWS} rows of 1 feature, found {n} rows of {width}")
    if not np.isfinite(z).all():
        raise ConfigError("training data holds NaN or infinite features")
    z = np.ascontiguousarray(z, np.float32)
    with threadpool_limits(1):
        model = _FITTERS[kind](z, seed, params, progress)
        return Fitted(kind, model, width, float(params.get("inside", 0.0)))


def pick_golden_rows(z: Float32, scores: Float32, rows: int = 64) -> Int64:
    """Indexes of at most `rows` distinct rows, evenly spaced by rank of score: lowest and highest included."""
    order = np.argsort(scores[: len(z)], kind="stable")
    places = np.unique(np.linspace(0, len(order) - 1, min(rows, len(order))).round().astype(np.int64))
    return np.asarray(order[places], np.int64)


def _check_params(kind: Estimator, params: Mapping[str, int | float]) -> None:
    known = PARAMS[kind]
    for name, value in params.items():
        param = known.get(name)
        if param is None:
            raise ConfigError(f"{kind} has no parameter {name!r}, expected one of: {', '.join(known)}")
        if isinstance(value, bool) or not isinstance(value, (int, param.kind)) or not param.low <= value <= param.high:
            kind_name = "a whole number" if param.kind is int else "a number"
            raise ConfigError(
                f"{kind} parameter {name} must be {kind_name} from {param.low:g} to {param.high:g}, found {value!r}"
            )
    if {"explained", "components"} <= params.keys():
        raise ConfigError("pca takes either explained or components, found both")


def _fit_pca(z: Float32, seed: int, params: Mapping[str, int | float], progress: Progress) -> Any:
    from sklearn.decomposition import PCA

    width = z.shape[1]
    if width < 2:
        raise ConfigError("pca needs at least 2 features: with one there is nothing outside the retained subspace")
    wide = z.astype(np.float64)
    model = PCA(n_components=None, svd_solver="covariance_eigh").fit(wide)
    progress(1, 2)
    if "components" in params:
        keep = int(params["components"])
        if keep >= width:
            raise ConfigError(f"pca parameter components must be below the {width} features, found {keep}")
    else:
        share = np.cumsum(model.explained_variance_ratio_)
        keep = min(int(np.searchsorted(share, float(params.get("explained", 0.9)))) + 1, width - 1)
    model = PCA(n_components=keep, svd_solver="covariance_eigh").fit(wide)
    progress(2, 2)
    return model


def _fit_forest(z: Float32, seed: int, params: Mapping[str, int | float], progress: Progress) -> Any:
    from sklearn.ensemble import IsolationForest

    trees = int(params.get("trees", 100))
    samples = min(int(params.get("samples", 256)), len(z))
    # grown in steps for the progress bar; scikit-learn draws the same trees as in one step
    model = IsolationForest(max_samples=samples, random_state=seed, warm_start=True)
    for done in (*range(_TREES_PER_STEP, trees, _TREES_PER_STEP), trees):
        model.set_params(n_estimators=done).fit(z)
        progress(done, trees)
    return model


def _fit_autoencoder(z: Float32, seed: int, params: Mapping[str, int | float], progress: Progress) -> Any:
    from sklearn.neural_network import MLPRegressor

    width = z.shape[1]
    hidden = int(params.get("hidden", max(8, width // 2)))
    bottleneck = int(params.get("bottleneck", max(2, width // 6)))
    epochs = int(params.get("epochs", 100))
    layers = (hidden, bottleneck, hidden) if hidden else (bottleneck,)
    model = MLPRegressor(
        hidden_layer_sizes=layers,
        activation="relu",
        solver="adam",
        batch_size=min(int(params.get("batch", 256)), len(z)),
        learning_rate_init=float(params.get("learning_rate", 1e-3)),
        random_state=seed,
    )
    target = z if width > 1 else z[:, 0]
    for done, _ in enumerate(_until_flat(lambda: float(model.partial_fit(z, target).loss_), epochs), 1):
        progress(done, epochs)
    progress(epochs, epochs)
    return model


def _fit_kmeans(z: Float32, seed: int, params: Mapping[str, int | float], progress: Progress) -> Any:
    from sklearn.cluster import KMeans

    clusters = int(params.get("clusters", 2))
    if clusters >= len(z):
        raise ConfigError(f"kmeans parameter clusters must be below the {len(z)} rows, found {clusters}")
    progress(1, 2)
    distinct = len(np.unique(z, axis=0))  # scikit-learn warns where there are fewer than clusters
    model = KMeans(min(clusters, distinct), n_init=4, random_state=seed).fit(z.astype(np.float64))
    progress(2, 2)
    return model


def _fit_covariance(z: Float32, seed: int, params: Mapping[str, int | float], progress: Progress) -> Any:
    """Fit, leave the strangest rows out, fit again, until the same rows stay: the concentration steps of Rousseeuw &
    Van Driessen, "A Fast Algorithm for the Minimum Covariance Determinant Estimator", 1999, from one start, since
    features are clipped and scaled by quantiles already. Shrinking keeps features that never move from being all."""
    from sklearn.covariance import ShrunkCovariance

    wide, kept = z.astype(np.float64), np.ones(len(z), bool)
    trim = float(params.get("trim", 0.05))
    for step in range(1, _CONCENTRATIONS + 1):
        model = ShrunkCovariance(shrinkage=float(params.get("shrinkage", 0.1))).fit(wide[kept])
        distance = model.mahalanobis(wide)
        progress(step, _CONCENTRATIONS)
        kept, before = distance <= np.quantile(distance, 1 - trim), kept
        if np.array_equal(kept, before):
            break
    progress(_CONCENTRATIONS, _CONCENTRATIONS)
    return model


def _until_flat(epoch: Callable[[], float], limit: int) -> Iterator[float]:
    """Run `epoch` at most `limit` times; end after `_PATIENCE` runs without a lower loss.

    Raises:
        ConfigError: the loss stops being finite.
    """
    best, waited = np.inf, 0
    for _ in range(limit):
        loss = epoch()
        if not np.isfinite(loss):
            raise ConfigError("the autoencoder diverged: lower learning_rate in the recipe")
        yield loss
        best, waited = (loss, 0) if loss < best * (1 - _MIN_GAIN) else (best, waited + 1)
        if waited >= _PATIENCE:
            return


_FITTERS: Mapping[Estimator, Callable[[Float32, int, Mapping[str, int | float], Progress], Any]] = {
    "pca": _fit_pca,
    "isolation-forest": _fit_forest,
    "autoencoder": _fit_autoencoder,
    "kmeans": _fit_kmeans,
    "robust-covariance": _fit_covariance,
}
