"""The models, data, compiled programs and trained params of a study, each made once."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Layer
from seqjax.compat import QUICK_TO_COMPILE
from seqjax.methods import named_method
from seqjax.study.models import layers_of, make_model, params_of_seed
from seqjax.study.settings import Settings
from seqjax.study.sources import Source, make_source
from seqjax.study.store import Store
from seqjax.study.training import Run, Snapshot

MOMENTS = ("initialization", "after training")
WORTH_OPTIMIZING = 4000
"""The number of time steps from which on a program is compiled with all optimizations."""
_KEPT = 24


def compiler_options(steps: int) -> dict[str, Any]:
    """Return compiler options for a program that will run over `steps` time steps in total.

    A program for few steps should compile fast. On CPUs a program with few optimizations takes a quarter of the time to
    compile, and three to fourteen times as long to run. On GPUs, trying kernels for each product takes most of the time
    of compilation.
    """
    if jax.default_backend() == "gpu":
        return {"xla_gpu_autotune_level": 0}
    return QUICK_TO_COMPILE if steps < WORTH_OPTIMIZING else {}


class Inner(NamedTuple):
    """The recurrent layer alone, its params, and its inputs ``[T, B, H]``."""

    layer: Layer
    params: Any
    xs: Any


class Experiment:
    """The models of one study with their data, params and compiled programs. Expensive objects are made once.

    Attributes:
        settings: the settings of the study.
        advance: called with finished work while a part is measured, in the units of the measurement's `work`.
    """

    def __init__(
        self, settings: Settings, text: np.ndarray | None, store: Store, advance: Callable[[float], None]
    ) -> None:
        self.settings, self.advance = settings, advance
        self._text, self._store = text, store
        self._sources: dict[int, Source] = {}
        self._kept: dict[Any, Any] = {}

    def like(self, settings: Settings) -> "Experiment":
        """Return an experiment with the same text and other settings; it has params at initialization only."""
        return Experiment(settings, self._text, self._store, self.advance)

    def source(self, length: int) -> Source:
        """Return the batches of the study's task at one length."""
        if length not in self._sources:
            self._sources[length] = make_source(self.settings, length, self._text)
        return self._sources[length]

    def model(self, cell: str, length: int) -> Layer:
        """Return the model that is trained: input map, cell, output map."""
        s = self.settings
        return make_model(cell, s.hidden_size, named_method(s.method), s.dtype, self.source(length).task)

    def inner(
        self, cell: str, length: int, seed: int, moment: str = MOMENTS[0], batch_size: int | None = None
    ) -> Inner:
        """Return the recurrent layer of a model at one of `MOMENTS`, on the first sequences of the fixed batch."""
        return self.inner_of(cell, length, self.params(cell, length, seed, moment), batch_size)

    def inner_of(self, cell: str, length: int, params: Any, batch_size: int | None = None) -> Inner:
        """Return the recurrent layer of a model with these params of the whole model."""
        s, source = self.settings, self.source(length)
        inputs, layer, _ = layers_of(cell, s.hidden_size, named_method(s.method), s.dtype, source.task)
        xs = source.probe.xs[:, :batch_size]
        carry = inputs.initial_carry(params[0], xs[0])
        return Inner(layer, params[1], inputs.unroll(params[0], carry, xs)[1])

    def keep(self, key: Any, make: Callable[[], Any]) -> Any:
        """Call `make` once per key; the oldest results are dropped, because compiled programs take memory."""
        if key not in self._kept:
            self._kept[key] = make()
            for old in list(self._kept)[:-_KEPT]:
                del self._kept[old]
        return self._kept[key]

    def jit(self, function: Callable, steps: int) -> Any:
        """Compile a program that will run over `steps` time steps in total, see `compiler_options`."""
        return jax.jit(function, compiler_options=compiler_options(steps))

    def run(self, cell: str, length: int) -> Run:
        """Return the training of a cell at one length."""
        s, source = self.settings, self.source(length)
        options = compiler_options(s.seeds * s.training_steps * length)
        of_seed = partial(params_of_seed, cell, s.hidden_size, source.task)
        make = lambda: Run(s, self.model(cell, length), source, options, of_seed)  # noqa: E731
        return self.keep(("run", cell, length), make)

    def train(self, cell: str, length: int, seed: int) -> Iterator[Snapshot]:
        """Yield the snapshots of a training, and store the params at its end for later sections."""
        last = None
        for last in self.run(cell, length).train(seed):
            yield last
        assert last is not None
        self._store.save_weights(_name(cell, length, seed), jax.tree.leaves(last.params))

    def params(self, cell: str, length: int, seed: int, moment: str = MOMENTS[0]) -> Any:
        """Return the params of the model at one of `MOMENTS`."""
        run = self.run(cell, length)
        start = self.keep(("start", cell, length, seed), lambda: run.start(seed).params)
        if moment == MOMENTS[0]:
            return start
        leaves = self._store.load_weights(_name(cell, length, seed))
        if leaves is None:
            for _ in self.train(cell, length, seed):
                pass
            leaves = self._store.load_weights(_name(cell, length, seed))
        return jax.tree.unflatten(jax.tree.structure(start), [jnp.asarray(leaf) for leaf in leaves or ()])


def _name(cell: str, length: int, seed: int) -> str:
    return f"{cell}/{length}/{seed}"
