"""Forecasts: a table of time series, one model for all of them, and quantiles of the steps ahead."""

import csv
import functools
import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from seqjax import models
from seqjax.base import Batch, Layer
from seqjax.datasets import Loader
from seqjax.fields import SettingError
from seqjax.layers.pooling import last
from seqjax.training.applications.batches import outputs
from seqjax.training.applications.common import (
    Definition,
    Examples,
    Kind,
    Learning,
    Trained,
    layers_of,
)
from seqjax.training.applications.series import horizon_of, least_of, read_spans
from seqjax.training.applications.windows import Span, Windows, origins_of, windows
from seqjax.training.evaluation import CorpusMetrics
from seqjax.training.losses import last_step, quantile_loss
from seqjax.training.recipe import Recipe

QUANTILES = (0.025, 0.1, 0.5, 0.9, 0.975)
LOW, MEDIAN, HIGH = 0, 2, 4
"""Places of the bounds of the 95% interval, and of the median."""
ENDS = (".csv", ".tsv", ".tab", ".txt")
LOSS: Callable[[Any, Any], Any] = functools.partial(quantile_loss, quantiles=QUANTILES, event_ndim=1)


def _read(recipe: Recipe) -> Examples:
    return read_spans(recipe, recipe.data or "")[0]


def _split(recipe: Recipe, examples: Examples) -> tuple[Examples, Examples]:
    """Return the series without their ends, and the series whose ends are to be forecast: a tenth, or the horizon."""
    known, whole = [], []
    for span in examples.targets:
        begin = len(span.values) - max(horizon_of(recipe), round(len(span.values) / 10))
        known.append(Span(span.values[: max(begin, 0)], span.begin))
        whole.append(Span(span.values, max(begin, span.begin)))
    return Examples(examples.inputs, known), Examples(examples.inputs, whole)


def _define(recipe: Recipe, train: Examples) -> Definition:
    return {"quantiles": list(QUANTILES), "horizon": horizon_of(recipe)}


def _model(recipe: Recipe, definition: Definition) -> Layer:
    return models.forecaster(len(QUANTILES), horizon=horizon_of(recipe), **layers_of(recipe))


def _example(definition: Definition) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, 1), np.float32)


def _learn(recipe: Recipe, definition: Definition, train: Examples, held_out: Examples) -> Learning:
    horizon, least = horizon_of(recipe), least_of(recipe)
    origins = origins_of(train.targets, horizon)
    if not len(origins):
        raise SettingError(
            "{horizon} {given}: expected a series of at least {least} values (what is known, and twice the horizon), "
            "the longest one has {longest}. Use longer series, or a smaller {horizon} or {length}.",
            given=horizon,
            least=least + 2 * horizon,
            longest=max(len(span.values) for span in held_out.targets),
        )
    ends = origins_of(held_out.targets, horizon, horizon)
    loader = _loader(recipe, held_out.targets, ends)
    number = min(recipe.eval_batches, -(-len(ends) // recipe.batch_size))
    targets = np.concatenate([np.asarray(loader(each).targets) for each in range(number)]).ravel()
    constant = np.broadcast_to(np.quantile(targets, QUANTILES), (len(targets), 1, len(QUANTILES)))
    return Learning(
        last_step(LOSS),
        _loader(recipe, train.targets, origins, recipe.seed),
        loader,
        number,
        CorpusMetrics(_compute, _collect),
        float(np.mean(LOSS(constant, targets[:, None]))),
        tuple(_notes(recipe, held_out, set(origins[:, 0]))),
    )


def _notes(recipe: Recipe, examples: Examples, used: set[int]) -> list[str]:
    """Return lines about values that were filled in, and series that are too short."""
    filled, count = read_spans(recipe, recipe.data or "")[1], len(examples.inputs)
    notes = [
        f"the series are {', '.join(examples.inputs[:5])}{', ...' if count > 5 else ''} ({count} in all)."
    ]
    if filled:
        notes.append(f"{filled} missing values are filled in with the value before.")
    if len(used) < count:
        notes.append(f"{count - len(used)} of {count} series are too short for training (--horizon).")
    return notes


def _loader(recipe: Recipe, spans: list[Span], origins: np.ndarray, seed: int | None = None) -> Loader:
    """Return batches of windows: at random origins, or without a seed at the origins in order."""

    def of_rows(step: int, rows: np.ndarray) -> Batch:
        if seed is None:
            chosen = (step * recipe.batch_size + np.arange(recipe.batch_size)) % len(origins)
        else:
            chosen = np.random.default_rng([seed, step]).integers(0, len(origins), recipe.batch_size)
        found = windows(spans, origins[chosen[rows]].tolist(), recipe.length, horizon_of(recipe))
        return Batch(found.xs, found.targets, None, found.mask)

    return Loader(of_rows, recipe.batch_size, None)


def _collect(params: Any, ys: Any, batch: Batch) -> Any:
    return last(ys, batch.mask), batch.targets


def _compute(found: list[Any]) -> dict[str, float]:
    quantiles, targets = (np.concatenate([part[i] for part in found]) for i in (0, 1))
    return {"coverage": coverage(np.sort(quantiles, -1), targets)}


def coverage(quantiles: np.ndarray, values: np.ndarray) -> float:
    """Return the share of values inside their 95% interval: quantiles ``[..., Q]``, values ``[...]``."""
    return float(np.mean((values >= quantiles[..., LOW]) & (values <= quantiles[..., HIGH])))


def quantiles_of(trained: Trained, found: Windows) -> np.ndarray:
    """Return the quantiles ``[N, F, Q]`` of windows, in the units of the windows, in ascending order."""
    size, count = trained.recipe.batch_size, found.mask.shape[1]
    result = []
    for begin in range(0, count, size):
        rows = np.arange(begin, begin + size).clip(max=count - 1)
        ys = outputs(trained, np.moveaxis(found.xs[:, rows], 0, 1), found.mask[:, rows].T)
        result.append(np.asarray(last(ys, found.mask[:, rows]))[: count - begin])
    return np.sort(np.concatenate(result), -1)


class Forecast(NamedTuple):
    """The series of a table, and what is forecast after their ends.

    Attributes:
        names: the names of N series.
        past: their values.
        quantiles: the quantiles of each step ahead, ``[N, F, Q]`` float64.
    """

    names: list[str]
    past: list[np.ndarray]
    quantiles: np.ndarray


def forecast(trained: Trained, path: str) -> Forecast:
    """Return the forecast of a table of series.

    Raises:
        ValueError: for a table that cannot be used, or a series with too few values.
    """
    recipe = trained.recipe
    names, spans = read_spans(recipe, path)[0]
    least = least_of(recipe)
    for name, span in zip(names, spans, strict=True):
        if len(span.values) < least:
            raise ValueError(
                f"expected at least {least} values of the series {name!r} in '{path}' for a horizon of "
                f"{horizon_of(recipe)}, got {len(span.values)}. Use a longer series."
            )
    ends = [(number, len(span.values)) for number, span in enumerate(spans)]
    found = windows(spans, ends, recipe.length, 0)
    scaled = quantiles_of(trained, found).astype(np.float64)
    quantiles = scaled * found.width[:, None, None] + found.center[:, None, None]
    return Forecast(names, [span.values for span in spans], quantiles)


def _answer(trained: Trained, paths: Sequence[str], beam_size: int) -> list[str]:
    """Return the lines of a table with commas: series, step ahead, and the quantiles."""
    return [line for path in paths for line in lines_of_forecast(forecast(trained, path))]


def lines_of_forecast(found: Forecast) -> list[str]:
    """Return the lines of a table with commas: series, step ahead, and the quantiles."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["series", "step", *QUANTILES])
    for name, steps in zip(found.names, found.quantiles, strict=True):
        for step, values in enumerate(steps, 1):
            writer.writerow([name, step, *(f"{value:.6g}" for value in values)])
    return text.getvalue().splitlines()


def _score(trained: Trained, examples: Examples, beam_size: int) -> dict[str, float]:
    """Return metrics of forecasts from origins that are a horizon apart.

    The loss is that of training. The mean absolute errors, of the median and of the last known value, are in the units
    of the file. MASE divides the error of a forecast by the mean step of the known values before it.
    """
    recipe, spans = trained.recipe, examples.targets
    horizon = horizon_of(recipe)
    origins = origins_of(spans, horizon, horizon)
    if not len(origins):
        longest = max(len(span.values) for span in spans)
        raise ValueError(
            f"expected a series of at least {least_of(recipe) + horizon} values for a horizon of {horizon}, the "
            f"longest one has {longest}. Use longer series."
        )
    pairs = [(int(number), int(origin)) for number, origin in origins]
    found = windows(spans, pairs, recipe.length, horizon)
    scaled = quantiles_of(trained, found)
    errors = np.abs(scaled[..., MEDIAN] - found.targets) * found.width[:, None]
    naive = [spans[n].values[origin : origin + horizon] - spans[n].values[origin - 1] for n, origin in pairs]
    steps = np.array([np.abs(np.diff(spans[n].values[:origin])).mean() for n, origin in pairs])
    relative = errors.mean(1)[steps > 0] / steps[steps > 0]
    return {
        "loss": float(np.mean(LOSS(scaled, found.targets))),
        "mae": float(errors.mean()),
        "last_value_mae": float(np.abs(naive).mean()),
        **({"mase": float(relative.mean())} if len(relative) else {}),
        "coverage": coverage(scaled, found.targets),
    }


FORECAST = Kind(_read, _define, _model, _example, _learn, _answer, _score, split=_split, suffixes=ENDS)
