r"""State tracking: parity, and products of permutations of five things, with eigenvalues below zero and without.

A linear recurrence with a diagonal and positive factors cannot turn anything around. A *reflection* can: the delta rule
multiplies its memory by :math:`I - \beta k k^\top`, whose eigenvalue along the unit vector k is :math:`1 - \beta`. With
:math:`\beta = 2` the eigenvalue is -1. One such factor is a change of sign (parity), or a swap of two rows, and every
permutation is a product of swaps.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import seqjax as sj
from benchmarks.applications.application import Bar, Trained
from benchmarks.applications.lags import gradient_by_lag
from benchmarks.applications.training import Best, fit_best
from seqjax.tasks import Task, parity, state_tracking
from seqjax.tasks.base import classification
from seqjax.tasks.groups import GROUPS, multiplication_table
from seqjax.training import evaluation

TRAIN_LENGTH, TEST_LENGTH = 40, 256
HELD_OUT = 256


@dataclass(frozen=True)
class Setting:
    """A task, and a cell of the registry with its options."""

    task: str
    cell: str
    options: tuple[tuple[str, Any], ...] = ()
    num_steps: int = 1000
    hidden_size: int = 64
    rate: float = 3e-3


_SIGNED = (("negative_eigenvalues", True),)
_CELLS = {
    "lstm": ("lstm", ()),
    "rg_lru": ("rg_lru", ()),
    "delta_net, (0, 1)": ("delta_net", ()),
    "delta_net, (-1, 1)": ("delta_net", _SIGNED),
    "gated_delta_net, (-1, 1)": ("gated_delta_net", _SIGNED),
}
VARIANTS = {
    f"{task}, {name}": Setting(task, cell, options, num_steps)
    for task, num_steps in (("parity", 1000), ("swaps", 4000), ("S5", 4000))
    for name, (cell, options) in _CELLS.items()
}
ACCURACY, LONG = "accuracy", "accuracy, longer"
"""Over all steps of new sequences as long as those of training, and of longer ones."""
BARS = (
    Bar(ACCURACY, "parity, delta_net, (-1, 1)", at_least=0.99),
    Bar(ACCURACY, "parity, delta_net, (0, 1)", at_most=0.75),
    Bar(ACCURACY, "swaps, delta_net, (-1, 1)", at_least=0.99),
)
TUNING = (
    "One setting for all, and none was compared with others; one trial of parity set its number of steps."
)


def swaps(length: int) -> Task:
    r"""Return a task: the running product in S5 of random swaps of two of five things, at every step.

    .. math:: target_t = x_t \circ \dots \circ x_1, \qquad x_t \text{ one of the ten swaps}

    The inputs generate all of S5, so the task has the states of ``state_tracking(length, "S5")``. There one input is
    any permutation, a product of up to four swaps.

    Shapes: xs ``[T, B]`` from 0 to 9, targets ``[T, B]`` from 0 to 119.

    Example:
        >>> import jax
        >>> from benchmarks.applications.state_tracking import swaps
        >>> xs, targets = swaps(6).sample(jax.random.key(0), 2)
        >>> xs.shape, int(xs.max()) < 10, swaps(6).num_outputs
        ((6, 2), True, 120)
    """
    number = {element: i for i, element in enumerate(GROUPS["S5"]())}
    table = jnp.asarray(multiplication_table("S5")[[number[swap] for swap in SWAPS]], jnp.int32)

    def sample(key: jax.Array, batch_size: int) -> tuple[jax.Array, jax.Array]:
        xs = jax.random.randint(key, (length, batch_size), 0, len(SWAPS), dtype=jnp.int32)

        def multiply(state: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
            state = table[x, state]
            return state, state

        return xs, jax.lax.scan(multiply, jnp.zeros(batch_size, jnp.int32), xs)[1]

    # After an odd number of swaps 60 permutations are possible, and as many after an even number.
    baseline = math.log(60) * (length - 1) / length
    return classification(
        "swaps", length, sample, (len(SWAPS), 120), "mean", "Grazzi et al. 2024", baseline=baseline
    )


def _swapped(i: int, j: int) -> tuple[int, ...]:
    element = list(range(5))
    element[i], element[j] = j, i
    return tuple(element)


PAIRS = tuple(combinations(range(5), 2))
SWAPS = tuple(_swapped(*pair) for pair in PAIRS)
TASKS: dict[str, Callable[[int], Task]] = {
    "parity": parity,
    "swaps": swaps,
    "S5": functools.partial(state_tracking, group="S5"),
}


def tracker(task: Task, setting: Setting) -> sj.Layer:
    """Return one recurrent layer between an embedding and a feed-forward map to the states."""
    make = functools.partial(getattr(sj, setting.cell), **dict(setting.options))
    width = setting.hidden_size
    return sj.serial(
        sj.pointwise(nn.Embed(task.num_inputs or 0, width)),
        sj.recurrent(make(width)),
        sj.pointwise(nn.Sequential([nn.Dense(2 * width), nn.gelu, nn.Dense(task.num_outputs)])),
    )


def learn(setting: Setting, *, seed: int, length: int = TRAIN_LENGTH) -> Best:
    """Train the model of a setting on new sequences of one length at every step."""
    task = TASKS[setting.task](length)
    model, num_steps = tracker(task, setting), setting.num_steps
    rates = optax.cosine_decay_schedule(setting.rate, num_steps, 0.05)
    return fit_best(
        model,
        task.objective,
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rates)),
        task.batches(64, seed=seed),
        evaluation(model, task.objective, task.batches(HELD_OUT, seed=1000)),
        num_steps=num_steps,
        eval_every=max(1, num_steps // 20),
        seed=seed,
    )


def train(variant: str, *, seed: int, toy: bool = False) -> Trained:
    """Train on sequences of 40 steps; the test has new ones, and sequences of 256 steps."""
    setting, (short, long) = VARIANTS[variant], (8, 16) if toy else (TRAIN_LENGTH, TEST_LENGTH)
    if toy:
        setting = replace(setting, num_steps=60, hidden_size=16)
    best = learn(setting, seed=seed, length=short)
    task, longer = TASKS[setting.task](short), TASKS[setting.task](long)
    model = tracker(task, setting)
    metrics = {
        part: {
            ACCURACY: accuracy(model, best.params, task, number),
            LONG: accuracy(model, best.params, longer, number),
        }
        for part, number in (("validation", 1001), ("test", 1002))
    }
    xs, targets = longer.batches(16, seed=1003)(0)[:2]
    extra = {"lags": gradient_by_lag(model, best.params, xs, targets[-1])}
    return Trained(model, metrics=metrics, extra=extra, **best._asdict())


def accuracy(model: sj.Layer, params: Any, task: Task, seed: int) -> float:
    """Return the accuracy over all steps of new sequences."""
    xs, targets = task.batches(HELD_OUT, seed=seed)(0)[:2]
    ys = jax.jit(model.unroll)(params, None, xs)[1]
    return float(jnp.mean(jnp.argmax(ys, -1) == targets))


def baselines(toy: bool = False) -> dict[str, dict[str, float]]:
    """Return the accuracy of a guess without memory: the first step can be known, the others are uniform."""
    lengths = {ACCURACY: 8, LONG: 16} if toy else {ACCURACY: TRAIN_LENGTH, LONG: TEST_LENGTH}
    states = {"parity": 2, "swaps": 60, "S5": 120}
    return {
        f"{task}, no memory": {
            metric: (1 + (length - 1) / number) / length for metric, length in lengths.items()
        }
        for task, number in states.items()
    }


def eigenvalues(cell: sj.Cell, params: Any, xs: Any) -> np.ndarray:
    r"""Return the eigenvalue along the key, :math:`\alpha_t (1 - \beta_t)`, of each step and head of a delta rule.

    Shapes: xs ``[T, B, D]`` -> ``[T, B, N]``.
    """
    us = cell.project(params, xs)
    alpha = jnp.exp(us.log_decay) if us.log_decay is not None else 1.0
    left, right = us.erase
    return np.asarray(alpha + jnp.sum(left * right, -1))


def reflections() -> sj.Cell:
    r"""Return a cell without params that tracks swaps exactly, by the delta rule with :math:`\beta = 2`.

    With the unit vector :math:`k = (e_i - e_j) / \sqrt2` the memory is multiplied by

    .. math:: S_t = (I - 2 k k^\top) S_{t-1},

    which swaps its rows i and j and changes nothing else. It starts as the identity, and the output
    :math:`y = S^\top (0, 1, 2, 3, 4)` is the place of each of the five things.

    Shapes: swaps x ``[*B]`` from 0 to 9 -> y ``[*B, 5]``; carry ``[*B, 1, 5, 5]``.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> from benchmarks.applications.state_tracking import PAIRS, reflections
        >>> layer, xs = sj.recurrent(reflections()), jnp.asarray([[0], [4]])
        >>> [PAIRS[int(x)] for x in xs[:, 0]]
        [(0, 1), (1, 2)]
        >>> layer.unroll((), layer.initial_carry((), xs[0]), xs)[1][:, 0].round().astype(int).tolist()
        [[1, 0, 2, 3, 4], [2, 0, 1, 3, 4]]
    """
    keys = np.zeros((len(PAIRS), 1, 5), np.float32)
    for number, (i, j) in enumerate(PAIRS):
        keys[number, 0, [i, j]] = 1 / math.sqrt(2), -1 / math.sqrt(2)

    def project(params: tuple, xs: jax.Array, key: Any = None) -> sj.MatrixInputs:
        k = jnp.asarray(keys)[xs]
        places = jnp.broadcast_to(jnp.arange(5, dtype=k.dtype), k.shape)
        return sj.MatrixInputs(places, k, jnp.zeros_like(k), erase=(-2 * k, k))

    def initial_carry(params: tuple, x: jax.Array) -> jax.Array:
        return jnp.broadcast_to(jnp.eye(5, dtype=keys.dtype), (*x.shape, 1, 5, 5))

    return sj.Cell(
        init=lambda key, x: (),
        initial_carry=initial_carry,
        recurrence=sj.Matrix(),
        project=project,
        readout=lambda params, hs, xs: hs.o[..., 0, :],
    )
