"""The instruments of ``seqjax train``: probes of the model on a fixed batch of held-out data."""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import typer

from seqjax.base import Batch
from seqjax.cli.common import UsageError, at_least_one, one_of, usage_errors
from seqjax.gradients import last_step
from seqjax.gradients.conditioning import conditioned_on
from seqjax.gradients.objective import leads_of, losses_of
from seqjax.inputs import first_step
from seqjax.ops.vectors import as_vector
from seqjax.probes import bind, gradient_profile, lyapunov_spectrum
from seqjax.training.instruments import Instrument
from seqjax.training.run import Run

SEQUENCES = 8
"""The number of sequences in the fixed batch."""
EXPONENTS = 8
"""The number of exponents of a spectrum."""


def profile(run: Run) -> Instrument:
    """Return the gradient profile of the loss of the last step; of the whole loss where that has no steps."""
    batch = first_sequences(run.held_out(0), SEQUENCES)

    def losses(params: Any) -> jax.Array:
        layer, given = conditioned_on("profile", run.model, batch)
        carry = layer.initial_carry(params, first_step(given.xs))
        _, ys = layer.unroll(params, carry, given.xs, reset=given.reset, mask=given.mask)
        return losses_of(run.task.objective, ys, given.targets, given.mask, leads_of(layer, given))

    by_step = jax.eval_shape(losses, run.state.params).ndim == 2
    loss = last_step(run.task.objective) if by_step else run.task.objective

    def measure(state: Any) -> Any:
        return gradient_profile(bind(run.model, state.params), loss, batch, extended_range=run.model.causal)

    return measure


def spectrum(run: Run) -> Instrument:
    """Return the largest Lyapunov exponents, from random tangents; an eighth of the steps is the warm-up."""
    batch = first_sequences(run.held_out(0)._replace(targets=None), SEQUENCES)

    def carry(params: Any) -> jax.Array:
        layer, given = conditioned_on("spectrum", run.model, batch)
        first = layer.initial_carry(params, first_step(given.xs))
        return as_vector(jax.tree.map(lambda leaf: leaf[0], first))

    k = min(EXPONENTS, jax.eval_shape(carry, run.state.params).size)
    warm_up = len(jax.tree.leaves(batch.xs)[0]) // 8

    def measure(state: Any) -> Any:
        bound, key = bind(run.model, state.params), jax.random.key(0)
        return lyapunov_spectrum(bound, batch, k=k, warm_up=warm_up, key=key)

    return measure


INSTRUMENTS: dict[str, Callable[[Run], Instrument]] = {"profile": profile, "spectrum": spectrum}
"""The instruments by name."""

Names = Annotated[
    str | None,
    typer.Option(
        help=f"Measure gradients during training: {', '.join(INSTRUMENTS)}, separated by commas; 'seqjax render' draws "
        "them.",
        show_default=False,
    ),
]
Every = Annotated[
    int | None,
    typer.Option(help="Steps between these measurements; by default as many as between evaluations."),
]


def instruments_of(run: Run, names: str | None, every: int | None, eval_every: int) -> dict[str, Any]:
    """Return the arguments of `fit` that the options stand for, after a trace of every instrument.

    Raises:
        UsageError: for an unknown name, a model that an instrument cannot measure, or one option without the other.
    """
    if names is None:
        if every is not None:
            raise UsageError(
                "--instrument-every goes with --instruments, got none. Name instruments, or leave it out."
            )
        return {}
    found: dict[str, Instrument] = {}
    for name in dict.fromkeys(filter(None, map(str.strip, names.split(",")))):
        one_of("--instruments", name, INSTRUMENTS)
        with usage_errors(f"--instruments {name}: "):
            found[name] = INSTRUMENTS[name](run)
            jax.eval_shape(found[name], run.state)
    if not found:
        raise UsageError(f"--instruments: expected names out of {', '.join(INSTRUMENTS)}, got {names!r}.")
    every = eval_every if every is None else at_least_one("--instrument-every", every)
    return {"instruments": found, "instrument_every": every}


def first_sequences(batch: Batch, number: int) -> Batch:
    """Return the first sequences of a batch.

    Example:
        >>> import numpy as np
        >>> batch = first_sequences(Batch(np.ones((5, 4, 2)), np.ones(4), context=np.ones((4, 3))), 2)
        >>> batch.xs.shape, batch.targets.shape, batch.context.shape
        ((5, 2, 2), (2,), (2, 3))
    """
    lead = jnp.shape(jax.tree.leaves(batch.xs)[0])[:2]

    def cut(leaf: Any) -> Any:
        return leaf[:, :number] if jnp.shape(leaf)[:2] == lead else leaf[:number]

    return batch._replace(
        **{name: jax.tree.map(cut, getattr(batch, name)) for name in ("xs", "targets", "reset", "mask")},
        context=jax.tree.map(lambda leaf: leaf[:number], batch.context),
    )
