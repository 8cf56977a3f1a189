r"""Influence of each carry on the last carry, and saliency of each input.

:math:`M_{T,t} = \partial s_T / \partial s_t = J_T \cdots J_{t+1}` has the index of the gradient profile: entry t
belongs to the carry *entering* step t, after the reset of step t. The influence is zero before a later reset and NaN at
masked steps.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seqjax.base import Carry
from seqjax.checks import check_whole
from seqjax.gradients.objective import Loss
from seqjax.ops.select import expand
from seqjax.ops.tap import norm
from seqjax.ops.vectors import Floating
from seqjax.probes.bound import as_batch
from seqjax.probes.internals.adjoint import adjoint, tangent
from seqjax.probes.internals.checks import check_loss
from seqjax.probes.internals.directions import probing_directions
from seqjax.probes.internals.scaled import Scaled, align, log_norm, logarithm, sum_of_squares, unscaled
from seqjax.probes.internals.system import System, prepare
from seqjax.probes.profile import system_adjoint


class TerminalInfluence(NamedTuple):
    """Result of `terminal_influence`.

    Attributes:
        log_norm: natural logarithm ``[T]`` (``[T, B]``) of the Frobenius norm.
        relative_error: the standard error of the squared norm over the squared norm, from the spread of the random
            vectors; zero if the norm is exact.
    """

    log_norm: Float[Array, "T *B"]
    relative_error: Float[Array, "T *B"]


class SpectralInfluence(NamedTuple):
    """Result of `spectral_influence`.

    Attributes:
        log_norm: natural logarithm ``[len(times)]`` (``[len(times), B]``) of a lower bound of the 2-norm.
        change: the change of `log_norm` in the last iteration, in nats. If the change is not small, increase
            `num_iterations`.
    """

    log_norm: Float[Array, "N *B"]
    change: Float[Array, "N *B"]


def terminal_influence(
    bound: Callable,
    batch: Any,
    *,
    carry: Carry = None,
    num_probes: int | None = 16,
    key: jax.Array | None = None,
    initial: Any = None,
) -> TerminalInfluence:
    r"""Estimate the Frobenius norm of :math:`\partial s_T / \partial s_t` for all t in one reverse scan.

    With k vectors v of random signs, :math:`|M|_F^2 = E\,|M^\top v|^2`. The estimate of the squared norm is unbiased
    and has a relative variance of at most 2/k. Cost: k backward passes, computed in parallel. The estimate is accurate
    at any depth, since each step splits off powers of two.

    Args:
        bound: the result of `bind`, or a plain function ``(carry, x) -> (carry, y)`` without batch axes.
        batch: a `seqjax.Batch` with leaves ``[T, B, ...]`` (``[T, ...]`` for a plain function); its targets are
            ignored. Arrays stand for its xs, as does the number of steps of a function whose x is None.
        carry: the carry entering the first step. A bound layer has its initial carry as the default; a plain function
            has no default.
        num_probes: k, 2 or more; None for the exact norm from all S unit vectors, for small states.
        key: draws the signs.
        initial: the carry that a reset restarts from. The default is the layer's initial carry, or the `carry` of a
            plain function.

    Example:
        >>> import jax.numpy as jnp
        >>> rotate = jnp.array([[0.0, -0.5], [0.5, 0.0]])
        >>> found = terminal_influence(lambda h, _: (rotate @ h, h), 3, carry=jnp.ones(2), num_probes=None)
        >>> [round(float(norm), 4) for norm in jnp.exp(found.log_norm)]                     # sqrt(2) / 2^n
        [0.1768, 0.3536, 0.7071]

    References:
        Hutchinson 1990, "A stochastic estimator of the trace of the influence matrix", Communications in Statistics 19.
    """
    system = prepare("terminal_influence", bound, batch, carry=carry, initial=initial)
    final, entering, _ = system.trajectory()
    leaves = Floating(final).leaves
    directions = probing_directions("terminal_influence", leaves, num_probes, key, 2, 1)

    def read(at_carry: list[Scaled], at_x: list[Scaled]) -> list[Scaled]:
        return [Scaled(norm(s.mantissa, 1), s.exponent) for s in at_carry]

    def of_one(direction: list[jax.Array]) -> list[Scaled]:
        return _pull(system, entering, [unscaled(d, 1) for d in direction], read)[1]

    squares, exponent = sum_of_squares(jax.vmap(of_one)(directions))
    if num_probes is None:
        square, error = jnp.sum(squares, 0), jnp.zeros_like(squares[0])
    else:
        square = jnp.mean(squares, 0)
        error = jnp.std(squares, 0, ddof=1) / jnp.sqrt(num_probes) / jnp.where(square > 0, square, 1)
    found = TerminalInfluence(logarithm(jnp.sqrt(square), exponent), error)
    return system.squeeze(jax.tree.map(lambda a: jnp.where(system.happened, a, jnp.nan), found), 1)


def spectral_influence(
    bound: Callable,
    batch: Any,
    *,
    times: Sequence[int],
    key: jax.Array,
    carry: Carry = None,
    num_iterations: int = 20,
    initial: Any = None,
) -> SpectralInfluence:
    r"""Estimate the 2-norm of :math:`\partial s_T / \partial s_t` at given t by power iteration on :math:`M^\top M`.

    Each iteration takes one forward and one backward pass per time. The estimate grows towards the norm, and its error
    shrinks by :math:`(\sigma_2 / \sigma_1)^4` per iteration.

    Args:
        bound: as in `terminal_influence`.
        batch: as in `terminal_influence`.
        times: the steps t; each stands for the carry entering step t.
        key: draws the vector that the iteration starts from.
        carry: as in `terminal_influence`.
        num_iterations: the number of iterations.
        initial: as in `terminal_influence`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> stretch = jnp.array([0.5, 0.25])
        >>> found = spectral_influence(
        ...     lambda h, _: (stretch * h, h), 3, carry=jnp.ones(2), times=[0, 2], key=jax.random.key(0))
        >>> jnp.exp(found.log_norm)
        Array([0.125, 0.5  ], dtype=float32)
    """
    who = "spectral_influence"
    system = prepare(who, bound, batch, carry=carry, initial=initial)
    check_whole(f"{who}(num_iterations)", num_iterations, 2)
    if key is None:
        raise ValueError(
            f"{who}(key): expected a key for the first vector, such as jax.random.key(0), got None. Pass `key=`."
        )
    chosen = [operator.index(t) for t in times]
    if not chosen or not all(0 <= t < system.num_steps for t in chosen):
        raise ValueError(f"{who}(times): expected steps from 0 to {system.num_steps - 1}, got {chosen}.")
    final, entering, _ = system.trajectory()
    leaves = Floating(final).leaves
    keys = [jax.random.fold_in(key, i) for i in range(len(leaves))]
    start = [jax.random.normal(k, leaf.shape, leaf.dtype) for k, leaf in zip(keys, leaves, strict=True)]
    when = jnp.arange(system.num_steps)[:, None]

    def of_one(t: jax.Array) -> SpectralInfluence:
        # Without the steps before t and the resets up to t, the product of Jacobians begins at t.
        x, reset, _ = system.inputs
        mask = system.happened & (when >= t)
        reset = None if reset is None else reset & (when > t)

        def iterate(v: list[jax.Array], _: Any) -> tuple[list[jax.Array], jax.Array]:
            pushed, _ = tangent(
                jax.vmap(system.step), entering, x, [unscaled(leaf, 1) for leaf in v], lambda v: None,
                reset=reset, mask=mask, batch_ndim=1,
            )  # fmt: skip
            u, log_size = _unit(pushed)
            # A pullback in JAX is the transpose without the conjugate.
            conjugate = [unscaled(jnp.conj(leaf), 1) for leaf in u]
            pulled, _ = _pull(system, entering, conjugate, lambda c, x: None, reset=reset, mask=mask)
            return [jnp.conj(leaf) for leaf in _unit(pulled)[0]], log_size

        unit = _unit([unscaled(leaf, 1) for leaf in start])[0]
        sizes = jax.lax.scan(iterate, unit, length=num_iterations)[1]
        change = jnp.where(sizes[-1] == sizes[-2], 0, sizes[-1] - sizes[-2])
        found = SpectralInfluence(sizes[-1], change)
        return jax.tree.map(lambda a: jnp.where(system.happened[t], a, jnp.nan), found)

    return system.squeeze(jax.vmap(of_one)(jnp.asarray(chosen)), 1)


def input_saliency(bound: Callable, loss: Loss, batch: Any, *, carry: Any = None, initial: Any = None) -> Any:
    r"""Return the log norm of the gradient of the loss with respect to each input, :math:`|\partial L / \partial x_t|`.

    The norm is accurate at any depth.

    Args:
        bound: as in `terminal_influence`.
        loss: ``(ys, targets) -> losses``, see `seqjax.gradients.objective`; without batch axes for a plain function.
        batch: a `seqjax.Batch` with leaves ``[T, B, ...]`` (``[T, ...]`` for a plain function). Arrays stand for its
            xs.
        carry: as in `terminal_influence`.
        initial: as in `terminal_influence`.

    Returns:
        A tree like xs of natural logarithms ``[T]`` (``[T, B]``): None for integers (tokens), NaN at masked steps.

    Example:
        >>> import jax.numpy as jnp
        >>> step = lambda h, x: (h / 2 + 3 * x, h / 2 + 3 * x)
        >>> jnp.exp(input_saliency(step, lambda ys, _: ys[-1], jnp.ones(3), carry=jnp.zeros(())))
        Array([0.75, 1.5 , 3.  ], dtype=float32)

    References:
        Simonyan et al. 2013, "Deep inside convolutional networks", arXiv:1312.6034 (saliency as the input's gradient).
    """
    check_loss("input_saliency", loss)
    system = prepare("input_saliency", bound, batch, carry=carry, initial=initial)

    def read(at_carry: list[Scaled], at_x: list[Scaled]) -> list[jax.Array]:
        return [log_norm(scaled, 1) for scaled in at_x]

    _, _, log_norms = system_adjoint(system, loss, as_batch(batch).targets, read)
    log_norms = [jnp.where(system.happened, n, jnp.nan) for n in log_norms]
    return system.squeeze(Floating(system.inputs.x).tree_of(log_norms), 1)


def _pull(
    system: System, entering: Any, d_final: list[Scaled], read: Callable, **flags: Any
) -> tuple[list[Scaled], Any]:
    """Pull a gradient with respect to the final carry back to the first carry."""
    x, reset, mask = system.inputs
    flags = {"reset": reset, "mask": mask, **flags}
    step = jax.vmap(system.step)
    return adjoint(step, entering, x, None, read, batch_ndim=1, d_final=d_final, **flags)


def _unit(vector: list[Scaled]) -> tuple[list[jax.Array], jax.Array]:
    """Divide a vector in several leaves ``[B, ...]`` by its norm; zero stays zero. Also return the log norm ``[B]``."""
    brought, exponent = align(vector, 1)
    size = norm(jnp.stack([norm(leaf, 1) for leaf in brought], -1), 1)
    safe = jnp.where(size > 0, size, 1)
    return [leaf / expand(safe, leaf.ndim).astype(leaf.dtype) for leaf in brought], logarithm(size, exponent)
