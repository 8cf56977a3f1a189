r"""Dynamical systems: the common form of bound layers and plain step functions.

A *system* is a step with the contract of ``jax.lax.scan``, ``step(carry, x) -> (carry, y)``. A plain function has no
batch axes; examples are a map or one step of an ODE solver. A bound layer (`bind`) has one batch axis. `prepare`
converts both to a `System`, which acts on one example at a time and reads its carry as a vector in :math:`R^S`.

The Jacobian of step t is :math:`J_t = \partial s_t / \partial s_{t-1}`. Where ``reset`` is True, the carry restarts
from the initial carry before the step, so the Jacobian across the reset is zero. Where ``mask`` is False, the step does
not happen and its Jacobian is the identity. A reset takes effect at a masked step, too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from seqjax.base import Batch, Carry, X, Xs
from seqjax.gradients.objective import Loss, loss_and_gradient
from seqjax.inputs import first_step, form
from seqjax.ops.select import keep, select
from seqjax.ops.vectors import Coordinates, Floating, as_vector
from seqjax.probes.bound import Bound, as_batch, conditioned
from seqjax.probes.internals.checks import (
    check_batch,
    check_callable,
    check_finite,
    check_flag,
    check_inputs,
    check_sequence,
    check_step,
)


class Inputs(NamedTuple):
    """The inputs and flags of all steps ``[T, B, ...]``, or of one step; each may be None."""

    x: X
    reset: Any
    mask: Any


@dataclass(frozen=True)
class System:
    """A step and its data with exactly one batch axis B. A plain function gets a batch axis of size 1.

    The methods act on one example without a batch axis; ``jax.vmap`` maps them.

    Attributes:
        step: ``(carry, x) -> (carry, y)`` of one example.
        carry: the carry entering the first step, leaves ``[B, ...]``.
        initial: the carry that a reset restarts from, leaves ``[B, ...]``.
        inputs: leaves ``[T, B, ...]``; inputs of masked steps are zeros.
        num_steps: T.
        size: S, the number of real numbers in the carry of one example; integers do not count.
        dtype: the real dtype of the carry as a vector, float32 or wider.
        batched: False for plain functions.
    """

    step: Callable
    carry: Carry
    initial: Any
    inputs: Inputs
    num_steps: int
    size: int
    dtype: Any
    batched: bool

    @property
    def batch(self) -> int:
        """The batch size B."""
        return jax.tree.leaves(self.carry)[0].shape[0]

    @property
    def lead(self) -> tuple[int, ...]:
        """The shape of one number per step: ``(T, B)``, or ``(T,)`` for a plain function."""
        return (self.num_steps, self.batch) if self.batched else (self.num_steps,)

    @property
    def happened(self) -> Bool[Array, "T B"]:
        """The mask ``[T, B]``; all True if there is none."""
        mask = self.inputs.mask
        return jnp.ones((self.num_steps, self.batch), bool) if mask is None else mask

    def vector(self, carry: Carry) -> Float[Array, " S"]:
        """Return the floating leaves of a carry as one vector ``[S]``; first real, then imaginary parts."""
        return as_vector(carry)

    def with_vector(self, carry: Carry, vector: Float[Array, " S"]) -> Any:
        """Return the carry with its floating leaves replaced by the entries of a vector ``[S]``."""
        return Coordinates(carry).tree(vector, carry)

    def flow(self, carry: Carry, x: X) -> Callable[[jax.Array], tuple[jax.Array, Any]]:
        """Return one step as a function of the carry's vector: ``vector -> (next vector, (next carry, y))``."""

        def function(vector: jax.Array) -> tuple[jax.Array, Any]:
            after, y = self.step(self.with_vector(carry, vector), x)
            return self.vector(after), (after, y)

        return function

    def jacobian(self, carry: Carry, x: X) -> Float[Array, "S S"]:
        """Return :math:`J_t` ``[S, S]`` at a carry."""
        return jax.jacfwd(self.flow(carry, x), has_aux=True)(self.vector(carry))[0]

    def enter(self, carry: Carry, initial: Any, reset: Any) -> Any:
        """Return the carry after the reset of this step, if the step has one."""
        return select(reset, initial, carry)

    def advance(self, carry: Carry, initial: Any, now: Inputs) -> tuple[Any, Any]:
        """Run one whole step (reset, step, mask) and return ``(carry, y)``."""
        carry = self.enter(carry, initial, now.reset)
        after, y = self.step(carry, now.x)
        return (after if now.mask is None else select(now.mask, after, carry)), keep(now.mask, y)

    def trajectory(self) -> tuple[Any, Any, Any]:
        """Return the last carry, the carry entering each step after its reset ``[T, B, ...]``, and the outputs."""

        def body(carry: Carry, now: Inputs) -> tuple[Any, Any]:
            entering = jax.vmap(self.enter)(carry, self.initial, now.reset)
            after, y = jax.vmap(self.advance)(entering, self.initial, now._replace(reset=None))
            return after, (entering, y)

        last, (entering, ys) = jax.lax.scan(body, self.carry, self.inputs, length=self.num_steps)
        return last, entering, ys

    def squeeze(self, tree: Any, axis: int = 0) -> Any:
        """Remove the batch axis from the results of a plain function."""
        return tree if self.batched else jax.tree.map(lambda a: jnp.squeeze(a, axis), tree)


def prepare(who: str, bound: Callable, batch: Any, *, carry: Carry = None, initial: Any = None) -> System:
    """Check the arguments of a probe and convert them to a `System`.

    Args:
        who: the name of the probe, for errors.
        bound: the result of `bind`, or a plain function ``(carry, x) -> (carry, y)`` without batch axes.
        batch: a `seqjax.Batch` with leaves ``[T, B, ...]`` (``[T, ...]`` for a plain function). Arrays, and the number
            of steps of a plain function whose x is None, stand for ``Batch(xs, None)``.
        carry: the carry entering the first step; a bound layer has its initial carry as the default.
        initial: the carry that a reset restarts from. The default is the layer's initial carry, or the `carry` of a
            plain function.

    Raises:
        TypeError: for a step with another contract, a step that changes the form or dtype of its carry, or a plain
            function without a carry.
        ValueError: for shapes that do not fit, an empty sequence, a carry without floats, or data that is not finite.
    """
    batched = isinstance(bound, Bound)
    check_callable(who, bound)
    if batched and not bound.layer.causal:  # type: ignore[attr-defined]
        raise TypeError(
            f"{who}(bound): expected a causal layer, got {bound.layer!r}, which has no step: "  # type: ignore[attr-defined]
            "it reads the whole sequence."
        )
    batch = as_batch(batch)
    given = batch, carry, initial
    xs, num_steps = check_inputs(who, batch.xs, batched)
    if batch.context is not None and not batched:
        raise TypeError(
            f"{who}(batch): expected a batch without a context for a plain step function, got one."
        )
    if batched:
        # The step itself runs one example at a time, by the layer as it is; a context enters the carries alone.
        start, batch = conditioned(who, bound, batch, carry)  # type: ignore[arg-type]
        own = start.initial_carry(first_step(xs))
        carry = own if carry is None else carry
        initial = own if initial is None else initial
    elif carry is None:
        raise TypeError(
            f"{who}(carry): expected the carry entering the first step, as a plain step function has no initial carry, "
            "got None. Pass `carry=`."
        )
    carry = jax.tree.map(_strong, carry)
    initial = carry if initial is None else jax.tree.map(_strong, initial)
    if batched:
        check_batch(who, carry, xs)
    check_step(who, bound, carry, None if xs is None else first_step(xs))
    if form(initial) != form(carry):
        raise ValueError(
            f"{who}: expected initial in the form of the carry, {form(carry)}, got {form(initial)}."
        )
    space = Coordinates(carry, batch_ndim=int(batched))
    if space.size == 0:
        raise ValueError(f"{who}: expected a carry with floating numbers in it, got {form(carry)}.")
    axes = (num_steps, jax.tree.leaves(carry)[0].shape[0]) if batched else (num_steps,)
    inputs = _checked_inputs(who, xs, axes, *given)
    step = _one_example(bound) if batched else bound
    if not batched:
        carry, initial = jax.tree.map(lambda a: a[None], (carry, initial))
        inputs = jax.tree.map(lambda a: a[:, None], inputs)
    return System(step, carry, initial, inputs, num_steps, space.size, space.dtype, batched)


def _checked_inputs(
    who: str, xs: Xs, axes: tuple[int, ...], batch: Batch, carry: Carry, initial: Any
) -> Inputs:
    """Check the flags, and that the data is finite as it was given: under ``jax.jit`` converted arrays are traced."""
    flags = [check_flag(who, name, getattr(batch, name), axes) for name in ("reset", "mask")]
    check_finite(who, "xs", batch.xs, batch.mask)
    check_finite(who, "carry", carry)
    check_finite(who, "initial", initial)
    return Inputs(keep(flags[1], xs), *flags)


def _one_example(bound: Callable) -> Callable:
    """Return the step of a bound layer for one example without a batch axis."""

    def step(carry: Carry, x: X) -> Any:
        return first_step(bound(*jax.tree.map(lambda a: a[None], (carry, x))))

    return step


def own_params(who: str, bound: Any) -> Floating:
    """Return the params that a step holds as its leaves; raise a TypeError for a step without params."""
    own = Floating(bound)
    if not own.leaves:
        raise TypeError(
            f"{who}(bound): expected a step that holds its params, bind(layer, params) or "
            f"jax.tree_util.Partial(fn, params) with fn(params, carry, x) -> (carry, y), got {bound!r}."
        )
    return own


def check_data(
    who: str, bound: Bound, batch: Any, carry: Carry, batch_ndim: int | None = None
) -> tuple[Any, Batch]:
    """Return ``(carry, Batch)`` as arrays ``[T, *B, ...]``, checked; a carry of None stays None.

    Args:
        who: the name of the probe, for errors.
        bound: a bound layer.
        batch: as in `prepare`.
        carry: the carry entering the first step, or None.
        batch_ndim: the number of batch axes; None for any number.
    """
    batch = as_batch(batch)
    carry, xs, reset, mask = check_sequence(who, carry, batch.xs, batch.reset, batch.mask, batch_ndim)
    return carry, Batch(xs, batch.targets, reset, mask, batch.context)


def output_gradient(system: System, loss: Loss, ys: Any, targets: Any) -> tuple[jax.Array, Any]:
    """Return the loss of the outputs ``[T, B, ...]`` of a system, and its gradient with respect to them."""
    ys, mask = system.squeeze(ys, 1), system.squeeze(system.inputs.mask, 1)
    value, d_ys = loss_and_gradient(loss, ys, targets, mask, system.lead)
    return value, d_ys if system.batched else jax.tree.map(lambda a: a[:, None], d_ys)


def _strong(leaf: Any) -> jax.Array:
    """Return an array with a strong dtype; a Python number gives a weak one."""
    array = jnp.asarray(leaf)
    return array if jnp.issubdtype(array.dtype, jax.dtypes.extended) else jnp.asarray(array, array.dtype)
