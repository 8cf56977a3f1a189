"""Plays of Shakespeare by character: data, language models of several cells, and n-grams with Kneser-Ney smoothing.

Plays are held out as a whole. The metric is bits per character, of a model that reads on without a break.
"""

import functools
import lzma
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import seqjax as sj
from benchmarks.applications.application import Bar, Trained
from benchmarks.applications.lags import gradient_by_lag
from benchmarks.applications.training import fit_best
from seqjax.datasets import Characters, Loader, sources, streams
from seqjax.training import cross_entropy, evaluation

BITS = "bits per character"
KNESER_NEY = "modified Kneser-Ney"
ORDERS = range(5, 10)


@dataclass(frozen=True)
class Setting:
    """A model and its training: T = B = 64, so that a step sees 4,096 characters."""

    cell: str
    hidden_size: int
    num_layers: int = 1
    embed_size: int | None = None
    dropout: float = 0.1
    rate: float = 5e-3
    num_steps: int = 6000
    batch_size: int = 64
    length: int = 64


VARIANTS = {
    "lstm": Setting("lstm", 384, embed_size=64),
    "gru": Setting("gru", 448, embed_size=64, rate=4e-3),
    "gated_delta_net": Setting("gated_delta_block", 128, num_layers=2, rate=3e-3, num_steps=2500),
    "griffin": Setting("griffin", 128, num_layers=3, rate=3e-3, num_steps=2500),
}
BARS = (Bar(BITS, "lstm", at_most=0, over=KNESER_NEY), Bar(BITS, at_most=2.171))
TUNING = (
    "LSTM: four settings in an earlier trial of five minutes, compared on the validation part. The other cells have "
    "one setting each. Kneser-Ney: five orders."
)
RESTART = 1 / 32
"""The share of rows that begin anew with each step, so that the model often meets its initial carry."""


class Data(NamedTuple):
    """The tokens of the three parts ``[N]``, and their vocabulary, which has the characters of the first part."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    vocabulary: Characters


@functools.cache
def data(toy: bool = False) -> Data:
    """Return the plays of each part, one after another; at toy size their first characters only."""
    texts = ["\n".join(plays.values()) for plays in sources.shakespeare()]
    vocabulary = Characters.train(texts[:1])
    sizes = (100_000, 5_000, 5_000) if toy else (None, None, None)
    train, validation, test = (
        vocabulary.encode(text[:size]) for text, size in zip(texts, sizes, strict=True)
    )
    return Data(train, validation, test, vocabulary)


def cell(setting: Setting) -> Any:
    """Return the cell of a setting as `seqjax.models.language_model` takes it."""
    factories = {
        "gated_delta_block": functools.partial(sj.gated_delta_block, num_heads=4),
        # Two recurrent blocks and one of attention to the last 64 characters, in turn.
        "griffin": (
            sj.griffin_block,
            sj.griffin_block,
            functools.partial(sj.transformer_block, num_heads=4, num_groups=1, window=64),
        ),
    }
    return factories.get(setting.cell, setting.cell)


def language_model(setting: Setting, vocabulary: Characters) -> sj.Layer:
    """Return the model of a setting."""
    return sj.models.language_model(
        vocabulary.size,
        cell(setting),
        hidden_size=setting.hidden_size,
        num_layers=setting.num_layers,
        embed_size=setting.embed_size,
        dropout=setting.dropout,
    )


def optimizer(rate: float, num_steps: int) -> optax.GradientTransformation:
    """Return Adam with clipped gradients, whose rate decays by a cosine to a twentieth."""
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(rate, num_steps, 0.05))
    )


def small(setting: Setting) -> Setting:
    """Return the setting at toy size."""
    return Setting(setting.cell, 48, setting.num_layers, rate=1e-2, num_steps=60, batch_size=16, length=32)


def train(variant: str, *, seed: int, toy: bool = False) -> Trained:
    """Train one variant by truncated backpropagation over 64 characters."""
    setting, found = VARIANTS[variant], data(toy)
    setting = small(setting) if toy else setting
    model, sizes = language_model(setting, found.vocabulary), (setting.batch_size, setting.length)
    best = fit_best(
        model,
        cross_entropy,
        optimizer(setting.rate, setting.num_steps),
        streams(found.train, batch_size=sizes[0], length=sizes[1], restart=RESTART, seed=seed),
        held_out_loss(model, found.validation),
        num_steps=setting.num_steps,
        eval_every=max(1, setting.num_steps // 15),
        seed=seed,
        estimator=sj.truncated_bptt(setting.length),
    )
    metrics = {
        name: {BITS: bits_per_character(model, best.params, part)}
        for name, part in (("validation", found.validation), ("test", found.test))
    }
    extra = {"lags": gradient_by_lag(model, best.params, *held_out_windows(found.validation, toy))}
    return Trained(model, metrics=metrics, extra=extra, **best._asdict())


def held_out_loss(model: sj.Layer, tokens: np.ndarray) -> Any:
    """Return ``state -> {"loss": ...}``, in nats, of windows of the text that begin with the initial carry."""
    length = min(512, (len(tokens) - 1) // 8)
    batches = streams(tokens, batch_size=8, length=length)
    return evaluation(model, cross_entropy, batches, min(16, batches.steps_per_epoch or 1))


def held_out_windows(tokens: np.ndarray, toy: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return windows ``[T, 16]`` and the character after each ``[16]``."""
    length = 48 if toy else 256
    batch: Any = streams(tokens, batch_size=16, length=length)(0)
    return batch.xs, batch.targets[-1]


def bits_per_character(
    model: sj.Layer, params: Any, tokens: np.ndarray, *, num_rows: int = 16, length: int = 512
) -> float:
    r"""Return :math:`-\frac1N \sum_t \log_2 p(x_t \mid x_{<t})`.

    The text is read in 16 rows, each from the initial carry on; the carry goes on from batch to batch.
    """
    size = (len(tokens) - 1) // num_rows
    batches: Loader = streams(tokens, batch_size=num_rows, length=min(length, size))

    @jax.jit
    def read(params: Any, carry: Any, batch: sj.Batch) -> tuple[Any, jax.Array]:
        carry, ys = model.unroll(params, carry, batch.xs, reset=batch.reset)
        return carry, cross_entropy(ys, batch.targets)

    carry, losses = model.initial_carry(params, batches(0).xs[0]), []
    for number in range(batches.steps_per_epoch or 1):
        carry, found = read(params, carry, batches(number))
        losses.append(np.asarray(found))
    return float(np.concatenate(losses)[:size].mean() / np.log(2))  # the last batch begins again at its end


def baselines(toy: bool = False) -> dict[str, dict[str, float]]:
    """Return bits per character on the test part: n-grams, whose order is chosen on the validation part, and xz."""
    found = data(toy)
    tokens, size = found.train, found.vocabulary.size

    def bits(order: int, part: np.ndarray) -> float:
        return float(-np.log2(kneser_ney(tokens, part, order, size)).mean())

    order = min(ORDERS, key=lambda each: bits(each, found.validation))
    texts = [found.vocabulary.decode(part).encode() for part in (tokens, found.test)]
    alone, both = (
        8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) for text in (texts[0], b"".join(texts))
    )
    return {
        KNESER_NEY: {BITS: bits(order, found.test), "order": order},
        "5-gram, modified Kneser-Ney": {BITS: bits(5, found.test), "order": 5},
        "xz, after the training text": {BITS: (both - alone) / len(found.test)},
    }


def kneser_ney(train: np.ndarray, text: np.ndarray, order: int, size: int) -> np.ndarray:
    r"""Return :math:`p(x_t \mid x_{t-n+1..t-1})` of each token of a text, by an interpolated n-gram model.

    .. math::
        p_n(x \mid h) = \frac{\max(c(hx) - D_{c(hx)}, 0) + \gamma(h)\, p_{n-1}(x \mid h')}{\sum_x c(hx)}, \qquad
        \gamma(h) = \sum_x D_{c(hx)}, \qquad p_0 = 1 / V

    where h' is h without its first token. For the highest order c counts n-grams; for lower ones c counts the different
    tokens before an n-gram. The discounts :math:`D_1, D_2, D_{3+}` of each order follow from the numbers of n-grams
    that are counted once to four times.

    Args:
        train: tokens ``[M]`` from 0 to 127.
        text: tokens ``[N]``; the last tokens of `train` come before the first.
        order: n, at most 9.
        size: V.

    References:
        Chen, Goodman 1999, "An empirical study of smoothing techniques for language modeling", eq. 26 and section 2.8.
    """
    probability = np.full(len(text), 1 / size)
    padded = np.concatenate([train[-order:], text]).astype(np.int64)
    grams, counts = np.unique(_codes(train.astype(np.int64), order), return_counts=True)
    levels = [(order, grams, counts)]
    for n in range(order - 1, 0, -1):
        grams, counts = np.unique(grams & ((1 << BITS_PER_TOKEN * n) - 1), return_counts=True)
        levels.append((n, grams, counts))
    for n, grams, counts in reversed(levels):
        discounted, removed = _discounts(counts)
        contexts, starts = np.unique(grams >> BITS_PER_TOKEN, return_index=True)
        totals, left = np.add.reduceat(counts, starts), np.add.reduceat(removed, starts)
        asked = _codes(padded, n)[-len(text) :]
        total, rest = (_lookup(contexts, values, asked >> BITS_PER_TOKEN) for values in (totals, left))
        share = _lookup(grams, discounted, asked) + rest * probability
        probability = np.where(total > 0, share / np.maximum(total, 1), probability)
    return probability


BITS_PER_TOKEN = 7
"""An n-gram of up to nine tokens below 128 is one 64-bit integer."""


def _codes(tokens: np.ndarray, n: int) -> np.ndarray:
    """Return the integers of all n-grams of a text, in order."""
    codes = np.zeros(len(tokens) - n + 1, np.int64)
    for i in range(n):
        codes = (codes << BITS_PER_TOKEN) | tokens[i : len(tokens) - n + 1 + i]
    return codes


def _discounts(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return counts less their discounts, and the discounts."""
    n1, n2, n3, n4 = (max(int((counts == i).sum()), 1) for i in range(1, 5))
    share = n1 / (n1 + 2 * n2)
    discounts = np.array([0, 1 - 2 * share * n2 / n1, 2 - 3 * share * n3 / n2, 3 - 4 * share * n4 / n3])
    removed = np.clip(discounts, 0, None)[np.minimum(counts, 3)]
    discounted = np.maximum(counts - removed, 0)
    return discounted, counts - discounted


def _lookup(keys: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Return the values of sorted keys; 0 for keys that are absent."""
    places = np.searchsorted(keys, asked) % len(keys)
    return np.where(keys[places] == asked, values[places], 0)
