"""Handwritten digits, one pixel per step, in the order of reading and in a fixed random order.

The label comes after 784 steps, so a cell learns only as far as its gradient reaches. Baselines see all pixels at once,
and the order does not matter to them.
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import seqjax as sj
from benchmarks.applications.application import Bar, Trained
from benchmarks.applications.lags import gradient_by_lag
from benchmarks.applications.training import fit_best
from seqjax.datasets import Loader, examples, sources
from seqjax.training import cross_entropy, evaluation, init_train_state, last_step

ACCURACY = "accuracy"
LOSS = last_step(cross_entropy)
CELLS = ("irnn", "lstm", "chrono_lstm", "gru", "cornn", "rg_lru")
ORDERS = ("sequential", "permuted")


@dataclass(frozen=True)
class Setting:
    """An order of the pixels and a cell of the registry."""

    order: str
    cell: str
    rate: float = 2e-3
    hidden_size: int = 64
    num_steps: int = 2500
    batch_size: int = 64
    length: int = 784


VARIANTS = {f"{order}, {cell}": Setting(order, cell) for order in ORDERS for cell in CELLS}
BARS = (Bar(ACCURACY, at_least=0, over="logistic regression"),)
TUNING = "One setting for all cells; baselines with their default settings."
PERMUTATION_SEED = 0


Pixels = tuple[np.ndarray, np.ndarray]
"""Pixels ``[N, T, 1]`` from 0 to 1, and labels ``[N]``."""


class Parts(NamedTuple):
    """Digits for training, for the choice of params, and for the test."""

    train: Pixels
    validation: Pixels
    test: Pixels


@functools.cache
def data(order: str, toy: bool = False) -> Parts:
    """Return the three parts, with 784 pixels per digit, at toy size 49."""
    parts = []
    for images, labels in sources.mnist():
        pixels = images.astype(np.float32) / 255
        if toy:  # means of 4 x 4 pixels
            pixels, labels = pixels[::10].reshape(-1, 7, 4, 7, 4).mean((2, 4)), labels[::10]
        pixels = pixels.reshape(len(pixels), -1, 1)
        if order == "permuted":
            pixels = pixels[:, np.random.default_rng(PERMUTATION_SEED).permutation(pixels.shape[1])]
        parts.append((np.ascontiguousarray(pixels), labels))
    return Parts(*parts)


def classifier(setting: Setting) -> sj.Layer:
    """Return one layer of a cell, whose last output tells the digit; an LSTM with chrono gates knows the length."""
    chrono = functools.partial(sj.chrono_lstm, t_max=float(setting.length))
    return sj.models.sequence_classifier(
        10,
        chrono if setting.cell == "chrono_lstm" else setting.cell,
        hidden_size=setting.hidden_size,
        bidirectional=False,
        pool="last",
    )


def batches(part: Pixels, batch_size: int, seed: int = 0) -> Loader:
    """Return batches of one part: xs ``[T, B, 1]``, targets ``[B]``."""
    return examples(*part, batch_size=batch_size, seed=seed)


def held_out(model: sj.Layer, part: Pixels) -> Any:
    """Return ``state -> {"loss": ..., "accuracy": ...}`` over all digits of a part, each once."""
    number = len(part[1])
    batch_size = max(size for size in range(1, 513) if number % size == 0)

    def accuracy(ys: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
        return {ACCURACY: jnp.mean(jnp.argmax(sj.last(ys), -1) == labels)}

    return evaluation(model, LOSS, batches(part, batch_size), number // batch_size, metrics=accuracy)


def train(variant: str, *, seed: int, toy: bool = False) -> Trained:
    """Train one variant, and measure the reach of its gradient before and after."""
    setting = VARIANTS[variant]
    if toy:
        setting = Setting(setting.order, setting.cell, 1e-2, 16, 60, 32, length=49)
    parts = data(setting.order, toy)
    model, optimizer = classifier(setting), rule(setting)
    loader = batches(parts.train, setting.batch_size, seed)
    best = fit_best(
        model,
        LOSS,
        optimizer,
        loader,
        held_out(model, parts.validation),
        num_steps=setting.num_steps,
        eval_every=max(1, setting.num_steps // 20),
        seed=seed,
    )
    metrics = {
        name: {ACCURACY: held_out(model, part)(best)[ACCURACY]}
        for name, part in (("validation", parts.validation), ("test", parts.test))
    }
    xs, labels = batches(parts.validation, 16)(0)[:2]
    start = init_train_state(model, optimizer, jax.random.key(seed), loader(0).xs[0])
    extra = {
        "lags": gradient_by_lag(model, best.params, xs, labels),
        "lags at the start": gradient_by_lag(model, start.params, xs, labels),
    }
    return Trained(model, metrics=metrics, extra=extra, **best._asdict())


def rule(setting: Setting) -> optax.GradientTransformation:
    """Return Adam with clipped gradients, whose rate decays by a cosine."""
    rates = optax.cosine_decay_schedule(setting.rate, setting.num_steps, 0.05)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rates))


def baselines(toy: bool = False) -> dict[str, dict[str, float]]:
    """Return accuracies on the test part of classifiers of all pixels at once."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    (pixels, labels), _, (test_pixels, test_labels) = data("sequential", toy)
    ways = {
        "logistic regression": LogisticRegression(C=0.1, max_iter=300),
        "nearest neighbor": KNeighborsClassifier(1),
    }
    counts = np.bincount(test_labels)
    found = {"most frequent digit": {ACCURACY: counts[np.bincount(labels).argmax()] / counts.sum()}}
    for name, way in ways.items():
        way.fit(pixels[..., 0], labels)
        found[name] = {ACCURACY: way.score(test_pixels[..., 0], test_labels)}
    return found
