r"""The curse of memory: the longer the memory of a network, the more sensitive its state to its params.

.. math::
    V_t = E\, |\partial s_t / \partial \theta|_F^2

over random inputs. For a memory of 1/(1 - lambda) steps, V grows as the cube of that length or faster, although no
gradient along the state explodes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seqjax.base import Carry, X
from seqjax.ops.tap import norm
from seqjax.ops.vectors import Floating
from seqjax.probes.internals.adjoint import tangent
from seqjax.probes.internals.directions import probing_directions
from seqjax.probes.internals.scaled import Scaled, logarithm, sum_of_squares, unscaled
from seqjax.probes.internals.system import own_params, prepare


class MemorySensitivity(NamedTuple):
    """Result of `memory_sensitivity`.

    Attributes:
        log_square: natural logarithm ``[T]`` of :math:`V_t`, the mean over examples of the squared Frobenius norm.
        relative_error: the standard error of :math:`V_t` over :math:`V_t`, ``[T]``, from the spread over examples and
            over random vectors; NaN for a single example, or a single random vector.
    """

    log_square: Float[Array, " T"]
    relative_error: Float[Array, " T"]


def memory_sensitivity(
    bound: Callable,
    batch: Any,
    *,
    carry: Carry = None,
    num_probes: int | None = 16,
    key: jax.Array | None = None,
    initial: Any = None,
) -> MemorySensitivity:
    r"""Estimate the squared sensitivity of the state to the params after each step, by forward mode.

    With k vectors v of random signs over the params, :math:`|A|_F^2 = E\,|A v|^2` without bias. All examples share the
    vectors, so more examples do not replace more vectors. Cost: k forward passes, computed in parallel. The carries at
    the start and at resets are constants. All floating leaves of the carry count.

    Args:
        bound: the result of `bind`, or ``jax.tree_util.Partial(fn, params)`` of a plain function
            ``fn: (params, carry, x) -> (carry, y)`` without batch axes. The leaves of `bound` are the params.
        batch: a `seqjax.Batch` with leaves ``[T, B, ...]`` (``[T, ...]``, one example, for a plain function); its
            targets are ignored. Arrays stand for its xs, as does the number of steps of a function whose x is None. A
            masked step leaves the sensitivity unchanged.
        carry: the carry entering the first step. A bound layer has its initial carry as the default; a plain function
            has no default.
        num_probes: k; None for the exact norm from all unit vectors, for few params.
        key: draws the signs.
        initial: the carry that a reset restarts from. The default is the layer's initial carry, or the `carry` of a
            plain function.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> step = jax.tree_util.Partial(lambda decay, h, x: (decay * h + x,) * 2, jnp.asarray(0.5))
        >>> found = memory_sensitivity(step, jnp.ones(3), carry=jnp.zeros(()), num_probes=None)
        >>> jnp.exp(found.log_square)                                           # dh/dlambda: 0, 1, 2
        Array([0., 1., 4.], dtype=float32)

    References:
        Zucchet and Orvieto 2024, "Recurrent neural networks: vanishing and exploding gradients are not the end of the
        story", arXiv:2405.21064 (the curse of memory).
    """
    who = "memory_sensitivity"
    system = prepare(who, bound, batch, carry=carry, initial=initial)
    own = own_params(who, bound)
    directions = probing_directions(who, own.leaves, num_probes, key, 1, 0)
    entering = system.trajectory()[1]
    x, reset, mask = system.inputs
    start = [unscaled(jnp.zeros_like(leaf), 1) for leaf in Floating(system.carry).leaves]

    def of_one(direction: list[jax.Array]) -> list[Scaled]:
        def drive(before: Any, x: X) -> list[jax.Array]:
            def of_params(leaves: list[jax.Array]) -> list[jax.Array]:
                act = own.with_leaves(leaves)
                return Floating((act if system.batched else jax.vmap(act))(before, x)[0]).leaves

            return jax.jvp(of_params, (own.leaves,), (direction,))[1]

        def read(v: list[Scaled]) -> list[Scaled]:
            return [Scaled(norm(s.mantissa, 1), s.exponent) for s in v]

        step = jax.vmap(system.step)
        return tangent(step, entering, x, start, read, reset=reset, mask=mask, batch_ndim=1, drive=drive)[1]

    norms = jax.vmap(of_one)(directions)
    # Move the examples of [k, T, B] to the front: they share one exponent.
    by_example = [Scaled(*(jnp.moveaxis(a, 2, 0) for a in s)) for s in norms]
    flat = [Scaled(*(a.reshape(-1, a.shape[-1]) for a in s)) for s in by_example]
    squares, exponent = sum_of_squares(flat)
    squares = squares.reshape(system.batch, -1, system.num_steps)
    squares = jnp.sum(squares, 1, keepdims=True) if num_probes is None else squares
    mean = jnp.mean(squares, (0, 1))
    error = jnp.sqrt(_variance(squares, exact=num_probes is None))
    return MemorySensitivity(logarithm(mean, 2 * exponent), error / jnp.where(mean > 0, mean, 1))


def _variance(values: jax.Array, exact: bool) -> jax.Array:
    """Return the variance ``[T]`` of the mean of values ``[B, k, T]`` over random examples and random vectors.

    This is the two-way analysis of variance: both factors add to the variance, and the residual is subtracted once. If
    the vectors are exact, only the examples vary.
    """
    examples, probes, _ = values.shape
    if examples == 1 or (probes == 1 and not exact):
        return jnp.full_like(values[0, 0], jnp.nan)
    by_example, by_probe = jnp.mean(values, 1), jnp.mean(values, 0)
    of_examples = jnp.var(by_example, 0, ddof=1) / examples
    if exact:
        return of_examples
    of_probes = jnp.var(by_probe, 0, ddof=1) / probes
    rest = values - by_example[:, None] - by_probe[None] + jnp.mean(values, (0, 1))
    both = jnp.sum(jnp.square(rest), (0, 1)) / ((examples - 1) * (probes - 1) * examples * probes)
    return jnp.maximum(of_examples + of_probes - both, jnp.maximum(of_examples, of_probes))


def curse_of_memory(decay: float, correlation: float = 0.0) -> float:
    r"""Return :math:`E (dh/d\lambda)^2` of :math:`h_t = \lambda h_{t-1} + x_t` in its stationary state, in closed form.

    .. math::
        \frac{(1 + \lambda^2)(1 - \lambda^2 \rho^2) + 2 (1 - \lambda^2) \lambda \rho}
             {(1 - \lambda^2)^3 (1 - \lambda \rho)^2}

    for inputs of unit variance and autocorrelation :math:`\rho^\mathrm{lag}`.

    Args:
        decay: lambda, in (-1, 1).
        correlation: rho, in (-1, 1); 0 for independent inputs.

    Example:
        >>> round(curse_of_memory(0.9), 3), round(curse_of_memory(0.95, 0.9), 1)
        (263.887, 34815.1)

    References:
        Zucchet and Orvieto 2024, arXiv:2405.21064.
    """
    for name, value in (("decay", decay), ("correlation", correlation)):
        if not -1 < value < 1:
            raise ValueError(f"curse_of_memory({name}): expected a number in (-1, 1), got {value!r}.")
    square, product = decay**2, decay * correlation
    above = (1 + square) * (1 - product**2) + 2 * (1 - square) * product
    return above / ((1 - square) ** 3 * (1 - product) ** 2)
