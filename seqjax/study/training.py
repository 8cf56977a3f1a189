"""The short training of one model, with snapshots of its params."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from seqjax.base import Batch, Layer
from seqjax.gradients.objective import leads_of, sum_of
from seqjax.ops.select import cast
from seqjax.study.settings import Settings
from seqjax.study.sources import Source
from seqjax.training import TrainState, init_train_state, make_train_step

CLIP = 1.0
"""The norm at which gradients are clipped."""


class Snapshot(NamedTuple):
    """The params before a training step, its loss and the norm of its gradient before clipping.

    Loss and norm are None at the end, where no step follows.
    """

    step: int
    params: Any
    loss: Any
    gradient_norm: Any


class Run:
    """The compiled training of one model at one length, shared by all seeds: Adam, gradients clipped at norm 1.

    ``of_seed`` returns the params of a recurrent layer that draws them itself, or None.
    """

    def __init__(
        self,
        settings: Settings,
        model: Layer,
        source: Source,
        compiler_options: dict,
        of_seed: Callable[[int], Any] = lambda seed: None,
    ) -> None:
        self.settings, self.model, self.source = settings, model, source
        self._compiler_options, self._of_seed = compiler_options, of_seed
        self._compiled: Any = None
        self.loss = source.task.objective
        self.optimizer = optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(settings.learning_rate))
        self._step = make_train_step(model, self.loss, self.optimizer)
        self._sample = jax.jit(source.train)
        self._evaluate = jax.jit(self._held_out)

    def start(self, seed: int) -> TrainState:
        """Return the state before the first step."""
        key = jax.random.key(seed)
        state = init_train_state(self.model, self.optimizer, key, self.source.probe.xs[0])._replace(key=None)
        if (own := self._of_seed(seed)) is not None:
            params = (state.params[0], own, state.params[2])
            state = state._replace(params=params, opt_state=self.optimizer.init(params))
        if self.settings.dtype == "float64":  # cells initialize params in float32
            params = cast(state.params, jnp.float64)
            state = state._replace(params=params, opt_state=self.optimizer.init(params))
        return state

    def train(self, seed: int) -> Iterator[Snapshot]:
        """Yield a snapshot before each step of one training, and one at the end."""
        state, data_key = self.start(seed), jax.random.fold_in(jax.random.key(seed), 1)
        for step in range(self.settings.training_steps):
            params = jax.tree.map(lambda a: a.copy(), state.params)  # the step donates the originals
            batch = self._sample(data_key, step)
            if self._compiled is None:
                self._compiled = self._step.lower(state, batch).compile(self._compiler_options)
            state, metrics = self._compiled(*state, batch)
            yield Snapshot(step, params, metrics.loss, metrics.gradient_norm)
        yield Snapshot(self.settings.training_steps, state.params, None, None)

    def held_out_loss(self, params: Any) -> float:
        """Return the training loss on held-out data."""
        return float(self._evaluate(params))

    def _held_out(self, params: Any) -> jax.Array:
        xs, targets = self.source.held_out[:2]
        _, ys = self.model.unroll(params, self.model.initial_carry(params, xs[0]), xs)
        total, count = sum_of(self.loss, ys, targets, None, leads_of(self.model, Batch(xs, targets)))
        return total / count
