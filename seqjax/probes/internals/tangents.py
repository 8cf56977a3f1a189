r"""Tangents along a trajectory: k vectors pushed through the Jacobians and orthogonalized by QR.

.. math::
    J_t Q_{t-1} = Q_t R_t, \qquad R_t \text{ upper triangular with a diagonal} \ge 0

The diagonal of :math:`R_t` is the growth of each tangent orthogonal to the tangents before it. The logarithms add up
over time without overflow at any T. The backward direction replaces :math:`J_t` by :math:`J_t^\top`, from the last step
to the first.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from seqjax.base import Carry, X
from seqjax.checks import check_whole
from seqjax.ops.select import select
from seqjax.probes.internals.system import Inputs, System

PARTS = 16  # of a block: sums of sums have smaller rounding errors than one long sum
LEAST_ACROSS = 0.1  # adaptive mode: share of a tangent's length orthogonal to the tangents before it
LONGEST = 1e6  # tangents without QR stay between this and its inverse; float32 holds the squares


class Counting(NamedTuple):
    """The steps that count, and the block to which each belongs.

    Attributes:
        part: ``[T, B]`` int32: the part of a block that a step belongs to; ``blocks * PARTS`` if the step does not
            count.
        steps: ``[B]``: the number of steps that count.
        closing: ``[T]`` bool: a block or segment ends with this step for some example.
        opening: ``[T]`` bool: a block or segment begins with this step for some example.
        blocks: the number of blocks.
    """

    part: Int[Array, "T B"]
    steps: Int[Array, " B"]
    closing: Bool[Array, " T"]
    opening: Bool[Array, " T"]
    blocks: int


def count_steps(system: System, warm_up: int, blocks: int) -> Counting:
    """Count the steps that happen, except the first `warm_up` steps after the start and after each reset."""
    happened, reset = system.happened, system.inputs.reset
    so_far = jnp.cumsum(happened, 0, dtype=jnp.int32)
    at_reset = jnp.zeros_like(so_far)
    if reset is not None:
        at_reset = jax.lax.cummax(jnp.where(reset, so_far - happened, 0))
    warm = so_far - at_reset > warm_up  # true at masked steps after one that counts, which have no effect
    index = jnp.maximum(jnp.cumsum(happened & warm, 0, dtype=jnp.int32) - 1, 0)
    steps = jnp.sum(happened & warm, 0, dtype=jnp.int32)
    parts = blocks * PARTS
    share = parts / jnp.maximum(steps, 1).astype(jnp.float32)
    part = jnp.minimum((index * share).astype(jnp.int32), parts - 1)
    part = jnp.where(warm, part, parts)
    block = part // PARTS
    ends = jnp.any(block[1:] != block[:-1], 1)
    if reset is not None:
        ends |= jnp.any(reset[1:], 1)
    edge = jnp.ones(1, bool)
    return Counting(part, steps, jnp.concatenate([ends, edge]), jnp.concatenate([edge, ends]), blocks)


def start_tangents(system: System, k: int, key: jax.Array | None) -> Float[Array, "S k"]:
    """Return the first tangents ``[S, k]``, also after resets: unit vectors for k = S without a key, else random."""
    if key is None and k == system.size:
        return jnp.eye(k, dtype=system.dtype)
    key = jax.random.key(0) if key is None else key
    return orthonormalize(jax.random.normal(key, (system.size, k), system.dtype))[0]


def log_growth(
    system: System,
    counting: Counting,
    k: int,
    *,
    qr_every: int | Literal["adaptive"] = 1,
    key: jax.Array | None = None,
    backward: bool = False,
) -> Float[Array, "T B k"]:
    r"""Return the logarithms ``[T, B, k]`` of the diagonals of R, zero at steps without QR.

    If QR does not run at every step, it runs at the steps where a segment, a block or the counting begins for some
    example. ``"adaptive"`` runs QR when less than a tenth of a tangent's length is orthogonal to the tangents before
    it. The Cholesky factor of the Gram matrix measures this share at a fraction of the work of a QR. The rounding error
    is then at most ten times that of a QR at every step.

    The result is differentiable if the diagonal of R has no zeros. The backward pass stores the carry and tangents of
    each step.
    """
    basis = start_tangents(system, k, key)
    tangents = jnp.broadcast_to(basis, (system.batch, *basis.shape))
    forced = counting.opening if backward else counting.closing
    if qr_every != "adaptive":
        forced |= (jnp.arange(system.num_steps) + 1) % qr_every == 0
    mask = system.inputs.mask

    def measure(
        moved: jax.Array, before: jax.Array, due: jax.Array, now: Inputs
    ) -> tuple[jax.Array, jax.Array]:
        if qr_every == 1:
            q, log_r = orthonormalize(moved)
            # A masked step leaves every bit of the tangents unchanged.
            if mask is None:
                return q, log_r
            return select(now.mask, (q, log_r), (before, jnp.zeros_like(log_r)))
        if qr_every == "adaptive":
            due |= jnp.any(jax.vmap(ill_conditioned)(moved))
        return jax.lax.cond(due, orthonormalize, lambda v: (v, jnp.zeros_like(v[:, 0])), moved)

    def forward(state: Any, step: Any) -> tuple[Any, jax.Array]:
        carry, tangents = state
        now, due = step

        def push(carry: Carry, initial: Any, tangents: jax.Array, now: Inputs) -> Any:
            carry, tangents = select(now.reset, (initial, basis), (carry, tangents))
            flow = system.flow(carry, now.x)
            _, jacobian, (after, _) = jax.linearize(flow, system.vector(carry), has_aux=True)
            moved = jax.vmap(jacobian, 1, 1)(tangents)
            if now.mask is not None:
                after, moved = select(now.mask, (after, moved), (carry, tangents))
            return after, moved, tangents

        after, moved, before = jax.vmap(push)(carry, system.initial, tangents, now)
        tangents, log_r = measure(moved, before, due, now)
        return (after, tangents), log_r

    def from_the_end(tangents: jax.Array, step: Any) -> tuple[jax.Array, jax.Array]:
        entering, now, due = step

        def pull(entering: Any, tangents: jax.Array, now: Inputs) -> jax.Array:
            flow = system.flow(entering, now.x)
            _, transposed = jax.vjp(lambda v: flow(v)[0], system.vector(entering))
            moved = jax.vmap(lambda u: transposed(u)[0], 1, 1)(tangents)
            return moved if now.mask is None else select(now.mask, moved, tangents)

        moved = jax.vmap(pull)(entering, tangents, now)
        after, log_r = measure(moved, tangents, due, now)
        if now.reset is not None:
            after = select(now.reset, jnp.broadcast_to(basis, after.shape), after)
        return after, log_r

    if backward:
        steps = (system.trajectory()[1], system.inputs, forced)
        return jax.lax.scan(from_the_end, tangents, steps, reverse=True)[1]
    body = jax.checkpoint(forward, prevent_cse=False)
    return jax.lax.scan(body, (system.carry, tangents), (system.inputs, forced))[1]


def orthonormalize(tangents: Float[Array, "*B S k"]) -> tuple[Float[Array, "*B S k"], Float[Array, "*B k"]]:
    """Return Q ``[..., S, k]`` and the logarithms ``[..., k]`` of the non-negative diagonal of R."""
    q, r = jnp.linalg.qr(tangents)
    diagonal = jnp.diagonal(r, axis1=-2, axis2=-1)
    sign = jnp.where(diagonal < 0, -1, 1).astype(q.dtype)
    return q * sign[..., None, :], jnp.log(jnp.abs(diagonal))


def ill_conditioned(tangents: Float[Array, "S k"]) -> Bool[Array, ""]:
    """Return whether tangents ``[S, k]`` are nearly dependent, or near the limits of the range of floats."""
    lengths = jnp.linalg.norm(tangents, axis=0)
    unit = tangents / jnp.where(lengths > 0, lengths, 1)
    gram = jnp.matmul(unit.T, unit, precision=jax.lax.Precision.HIGHEST)
    across = jnp.diagonal(jnp.linalg.cholesky(gram))  # NaN for dependent tangents
    fine = (across > LEAST_ACROSS) & (lengths < LONGEST) & (lengths > 1 / LONGEST)
    return ~jnp.all(fine)


def log_determinants(system: System) -> Float[Array, "T B"]:
    r"""Return :math:`\log |\det J_t|` ``[T, B]`` from the whole Jacobian of each step; zero at masked steps."""

    def one(entering: Any, x: X) -> jax.Array:
        return jnp.linalg.slogdet(system.jacobian(entering, x))[1]

    def body(carry: Carry, now: Inputs) -> tuple[Any, jax.Array]:
        entering = jax.vmap(system.enter)(carry, system.initial, now.reset)
        after, _ = jax.vmap(system.advance)(entering, system.initial, now._replace(reset=None))
        log_determinant = jax.vmap(one)(entering, now.x)
        return after, log_determinant if now.mask is None else jnp.where(now.mask, log_determinant, 0)

    return jax.lax.scan(body, system.carry, system.inputs, length=system.num_steps)[1]


def sum_parts(counting: Counting, values: Float[Array, "T B ..."]) -> Float[Array, "B blocks ..."]:
    """Sum values ``[T, B, ...]`` over the counted steps of each block: ``[B, blocks, ...]``."""
    parts = counting.blocks * PARTS

    def one(values: jax.Array, part: jax.Array) -> jax.Array:
        sums = jax.ops.segment_sum(values, part, parts + 1)[:parts]
        return jnp.sum(sums.reshape(counting.blocks, PARTS, *sums.shape[1:]), 1)

    return jax.vmap(one, (1, 1))(values, counting.part)


def check_qr_every(who: str, qr_every: Any) -> None:
    """Raise a ValueError unless `qr_every` is a whole number or "adaptive"."""
    if qr_every != "adaptive":
        check_whole(f"{who}(qr_every)", qr_every, 1, note=', or "adaptive"')
