"""Which of nine speakers said the Japanese vowels ae: the official split of 270 and 370 utterances."""

from typing import Any, NamedTuple

import numpy as np
import optax

import seqjax as sj
from benchmarks.applications.application import Trained
from benchmarks.applications.training import fit_best
from benchmarks.applications.warping import distances
from seqjax.datasets import bucketed, pad, sources
from seqjax.training import cross_entropy, evaluation, last_step

HIDDEN, DROPOUT, BATCH, STEPS, RATE = 64, 0.3, 32, 600, 3e-3
HELD_OUT = 6
"""Utterances of each speaker that are held out of the training part, to choose the best params."""


class Part(NamedTuple):
    """Utterances ``[T_i, 12]`` and the numbers of their speakers ``[N]``."""

    xs: list[np.ndarray]
    labels: np.ndarray


def data() -> tuple[Part, Part, Part]:
    """Return training, validation and test part: 216, 54 and 370 utterances, scaled by the training part.

    They are not normalized one by one, since the mean of an utterance says much about the speaker.
    """
    found = sources.vowels()
    whole = np.concatenate(found.train.xs)
    mean, deviation = whole.mean(0), whole.std(0)
    train, test = (
        Part([((x - mean) / deviation).astype(np.float32) for x in part.xs], np.asarray(part.labels))
        for part in found
    )
    held = np.concatenate([np.flatnonzero(train.labels == label)[-HELD_OUT:] for label in range(9)])
    rest = np.setdiff1d(np.arange(len(train.labels)), held)
    parts = [Part([train.xs[i] for i in chosen], train.labels[chosen]) for chosen in (rest, held)]
    return parts[0], parts[1], test


def train(*, seed: int, toy: bool = False, cell: Any = sj.lstm) -> Trained:
    """Train a classifier of speakers, and classify the official test part."""
    (of_train, held, test), num_steps = data(), 20 if toy else STEPS
    model = sj.models.sequence_classifier(9, cell, hidden_size=HIDDEN, dropout=DROPOUT)
    loss = last_step(cross_entropy)
    validation = bucketed(held.xs, held.labels, batch_size=len(held.xs), num_buckets=1)
    best = fit_best(
        model,
        loss,
        optax.adamw(optax.cosine_decay_schedule(RATE, num_steps), weight_decay=1e-3),
        bucketed(of_train.xs, of_train.labels, batch_size=BATCH, num_buckets=1, seed=seed),
        evaluation(model, loss, validation),
        num_steps=num_steps,
        eval_every=max(num_steps // 20, 1),
        seed=seed,
    )
    metrics = {
        name: {"accuracy": accuracy(model, best.params, part)}
        for name, part in (("validation", held), ("test", test))
    }
    return Trained(model, metrics=metrics, **best._asdict())


def accuracy(model: sj.Layer, params: Any, part: Part) -> float:
    """Return the share of utterances whose speaker is the most probable one."""
    values, mask = pad(part.xs)
    xs, mask = np.moveaxis(values, 0, 1), mask.T
    logits = model.unroll(params, model.initial_carry(params, xs[0]), xs, mask=mask)[1]
    return float((np.asarray(sj.last(logits, mask)).argmax(-1) == part.labels).mean())


def warped(toy: bool = False) -> float:
    """Return the accuracy of the nearest training utterance by dependent time warping, as published: .949.

    References:
        Bagnall et al. 2018, "The UEA multivariate time series classification archive, 2018", arXiv:1811.00075, table 2.
    """
    found = sources.vowels()
    size = 10 if toy else None
    labels = np.asarray(found.train.labels)
    nearest = [labels[distances(x, found.train.xs, squared=True).argmin()] for x in found.test.xs[:size]]
    return float(np.mean(np.array(nearest) == np.asarray(found.test.labels)[:size]))
