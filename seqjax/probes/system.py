r"""Systems: what the probes of a state over time measure, in one form.

A *system* is a step with lax.scan's contract, ``step(carry, x) -> (carry, y)``. It is a plain function without batch
axes, such as a map or an ODE step, or a layer with its params (`bind`), whose carry and inputs have one batch axis.
`prepare` brings both into one form, `System`: one example at a time, its carry as a vector in :math:`R^S`.

The Jacobian of step t is :math:`J_t = \partial s_t / \partial s_{t-1}`. Where ``reset`` holds, the carry restarts from
the initial one before the step, so that the Jacobian across it is zero; where ``mask`` does not, the step does not
happen, and its Jacobian is the identity. A reset happens at masked steps, too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Cell, Layer
from seqjax.layers import first_step
from seqjax.ops.select import keep, select
from seqjax.ops.vectors import Coordinates, as_vector
from seqjax.probes.checks import (
    check_batch,
    check_callable,
    check_finite,
    check_flag,
    check_inputs,
    check_step,
    form,
)


@partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["layer"])
@dataclass(frozen=True)
class Bound:
    """A layer with its params: ``(carry, x) -> (carry, y)``, batch axis included, without noise. A pytree of params."""

    layer: Layer
    params: Any

    def __call__(self, carry: Any, x: Any) -> tuple[Any, Any]:
        return self.layer.step(self.params, carry, x)

    def initial_carry(self, x: Any) -> Any:
        """The carry of the layer before the first step."""
        return self.layer.initial_carry(self.params, x)


def bind(layer: Layer, params: Any) -> Bound:
    """A layer with its params as a system: ``step(carry, x) -> (carry, y)``, as all probes of a state take it.

    Carry and inputs have one batch axis. Nothing is drawn: dropout is off. The result is a pytree, so that it may pass
    through ``jax.jit`` and be differentiated by its params.

    Args:
        layer: a causal layer.
        params: its params.

    Raises:
        TypeError: for something else than a layer, or for one that is not causal and so has no step.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> from seqjax.probes import bind
        >>> layer = sj.recurrent(sj.elman(4))
        >>> step = bind(layer, layer.init(jax.random.key(0), jnp.ones((2, 3))))
        >>> carry, y = step(step.initial_carry(jnp.ones((2, 3))), jnp.ones((2, 3)))
        >>> y.shape
        (2, 4)
    """
    if not isinstance(layer, Layer):
        hint = " Bind the cell to a method first: recurrent(cell)." if isinstance(layer, Cell) else ""
        raise TypeError(f"bind(layer): expected a Layer, got {layer!r}.{hint}")
    if not layer.causal:
        raise TypeError(
            f"bind(layer): expected a causal layer, got {layer!r}, which reads the whole sequence and has no step."
        )
    return Bound(layer, params)


class Inputs(NamedTuple):
    """What goes into the steps ``[T, B, ...]``, or into one; each may be None."""

    x: Any
    reset: Any
    mask: Any


@dataclass(frozen=True)
class System:
    """A step and its data, with exactly one batch axis B: one of size 1 is added for plain functions.

    The methods act on one example, without batch axis; ``jax.vmap`` maps them.

    Attributes:
        step: ``(carry, x) -> (carry, y)`` of one example.
        carry: entering the first step, leaves ``[B, ...]``.
        initial: what a reset restarts from, leaves ``[B, ...]``.
        inputs: leaves ``[T, B, ...]``; inputs of masked steps are zeros.
        num_steps: T.
        size: S, how many real numbers the carry of one example holds, integers aside.
        dtype: real, of the carry as a vector; float32 at least.
        batched: False for plain functions.
    """

    step: Callable
    carry: Any
    initial: Any
    inputs: Inputs
    num_steps: int
    size: int
    dtype: Any
    batched: bool

    @property
    def batch(self) -> int:
        """B."""
        return jax.tree.leaves(self.carry)[0].shape[0]

    @property
    def happened(self) -> jax.Array:
        """The mask, or True for all steps: ``[T, B]``."""
        mask = self.inputs.mask
        return jnp.ones((self.num_steps, self.batch), bool) if mask is None else mask

    def vector(self, carry: Any) -> jax.Array:
        """The floating leaves of a carry as one vector ``[S]``; complex ones as all real, then all imaginary parts."""
        return as_vector(carry)

    def with_vector(self, carry: Any, vector: jax.Array) -> Any:
        """The carry with its floating leaves taken from a vector ``[S]``."""
        return Coordinates(carry).tree(vector, carry)

    def flow(self, carry: Any, x: Any) -> Callable[[jax.Array], tuple[jax.Array, Any]]:
        """One step as a function of the carry's vector: ``vector -> (vector after it, (carry after it, y))``."""

        def function(vector: jax.Array) -> tuple[jax.Array, Any]:
            after, y = self.step(self.with_vector(carry, vector), x)
            return self.vector(after), (after, y)

        return function

    def jacobian(self, carry: Any, x: Any) -> jax.Array:
        """:math:`J_t` ``[S, S]`` at a carry."""
        return jax.jacfwd(self.flow(carry, x), has_aux=True)(self.vector(carry))[0]

    def enter(self, carry: Any, initial: Any, reset: Any) -> Any:
        """The carry after the reset of this step, if there is one."""
        return select(reset, initial, carry)

    def advance(self, carry: Any, initial: Any, now: Inputs) -> tuple[Any, Any]:
        """One whole step, ``(carry, y)``: reset, step, mask."""
        carry = self.enter(carry, initial, now.reset)
        after, y = self.step(carry, now.x)
        return (after if now.mask is None else select(now.mask, after, carry)), keep(now.mask, y)

    def trajectory(self) -> tuple[Any, Any, Any]:
        """The last carry, and of all steps ``[T, B, ...]`` the carries entering them, after resets, and the outputs."""

        def body(carry: Any, now: Inputs) -> tuple[Any, Any]:
            entering = jax.vmap(self.enter)(carry, self.initial, now.reset)
            after, y = jax.vmap(self.advance)(entering, self.initial, now._replace(reset=None))
            return after, (entering, y)

        last, (entering, ys) = jax.lax.scan(body, self.carry, self.inputs, length=self.num_steps)
        return last, entering, ys

    def squeeze(self, tree: Any, axis: int = 0) -> Any:
        """Results with a batch axis as the caller expects them: plain functions have none."""
        return tree if self.batched else jax.tree.map(lambda a: jnp.squeeze(a, axis), tree)


def prepare(
    who: str,
    step: Callable,
    carry: Any,
    xs_or_num_steps: Any,
    *,
    reset: Any = None,
    mask: Any = None,
    initial: Any = None,
) -> System:
    """Check what a probe was given and bring it into the form of a `System`.

    Args:
        who: the probe, for errors.
        step: what `bind` returns, or a plain function ``(carry, x) -> (carry, y)`` without batch axes.
        carry: entering the first step; for a bound layer None is its initial carry.
        xs_or_num_steps: inputs ``[T, ...]`` (``[T, B, ...]`` for a bound layer), or T alone for steps whose x is None.
        reset: bool ``[T]`` (``[T, B]``).
        mask: bool ``[T]`` (``[T, B]``).
        initial: what a reset restarts from; by default the layer's initial carry, for plain functions the carry given.

    Raises:
        TypeError: for a step with another contract, or one that changes the form or dtype of its carry.
        ValueError: for shapes that do not fit, an empty sequence, a carry without floats, or data that is not finite.
    """
    batched = isinstance(step, Bound)
    check_callable(who, step)
    xs, num_steps = check_inputs(who, xs_or_num_steps, batched)
    carry_given, initial_given = carry, initial
    if batched:
        own = step.initial_carry(first_step(xs))  # type: ignore[attr-defined]
        carry = own if carry is None else carry
        initial = own if initial is None else initial
    carry = jax.tree.map(_strong, carry)
    initial = carry if initial is None else jax.tree.map(_strong, initial)
    if batched:
        check_batch(who, carry, xs)
    check_step(who, step, carry, None if xs is None else first_step(xs))
    if form(initial) != form(carry):
        raise ValueError(
            f"{who}: expected initial in the form of the carry, {form(carry)}, got {form(initial)}."
        )
    space = Coordinates(carry, batch_ndim=int(batched))
    if space.size == 0:
        raise ValueError(f"{who}: expected a carry with floating numbers in it, got {form(carry)}.")
    batch = (jax.tree.leaves(carry)[0].shape[0],) if batched else ()
    flags = [
        check_flag(who, name, flag, (num_steps, *batch)) for name, flag in (("reset", reset), ("mask", mask))
    ]
    for name, given in (("xs", xs_or_num_steps), ("carry", carry_given), ("initial", initial_given)):
        check_finite(who, name, given, mask if name == "xs" else None)
    inputs = Inputs(keep(flags[1], xs), *flags)
    one = step
    if batched:

        def one(carry: Any, x: Any) -> Any:
            return first_step(step(*jax.tree.map(lambda a: a[None], (carry, x))))

    else:
        carry, initial = jax.tree.map(lambda a: a[None], (carry, initial))
        inputs = jax.tree.map(lambda a: a[:, None], inputs)
    return System(one, carry, initial, inputs, num_steps, space.size, space.dtype, batched)


def _strong(leaf: Any) -> jax.Array:
    """An array whose dtype does not give way to that of others, as that of a Python number does."""
    array = jnp.asarray(leaf)
    return array if jnp.issubdtype(array.dtype, jax.dtypes.extended) else jnp.asarray(array, array.dtype)
