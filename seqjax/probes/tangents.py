r"""Tangents carried along a trajectory: k vectors pushed through the Jacobians, kept apart by QR.

.. math::
    J_t Q_{t-1} = Q_t R_t, \qquad R_t \text{ upper triangular with a diagonal} \ge 0

The diagonal of R_t says by how much each tangent grows across what those before it span. Its logarithms add up over
time without overflow, whatever T is. Backwards, the same with :math:`J_t^\top` from the last step to the first.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.checks import check_whole
from seqjax.ops.select import select
from seqjax.probes.system import Inputs, System

PARTS = 16  # of a block: sums of sums lose less than one long sum
LEAST_ACROSS = 0.1  # of its length that a tangent keeps across those before it, in the adaptive mode
LONGEST = 1e6  # tangents without QR stay between this and its inverse, whose squares float32 can hold


class Counting(NamedTuple):
    """Which steps count, and for what.

    Attributes:
        part: ``[T, B]`` int32: the part of a block that a step belongs to, ``blocks * PARTS`` where it does not count.
        steps: ``[B]``: how many steps count.
        closing: ``[T]`` bool: a part of the result ends with this step for some example.
        opening: ``[T]`` bool: the same for those who come from the end.
        blocks: how many.
    """

    part: jax.Array
    steps: jax.Array
    closing: jax.Array
    opening: jax.Array
    blocks: int


def count_steps(system: System, warm_up: int, blocks: int) -> Counting:
    """Count the steps that happen, without the first `warm_up` of them after the start and after each reset."""
    happened, reset = system.happened, system.inputs.reset
    so_far = jnp.cumsum(happened, 0, dtype=jnp.int32)
    at_reset = jnp.zeros_like(so_far)
    if reset is not None:
        at_reset = jax.lax.cummax(jnp.where(reset, so_far - happened, 0))
    warm = so_far - at_reset > warm_up  # true at masked steps after one that counts: they change nothing
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


def start_tangents(system: System, k: int, key: jax.Array | None) -> jax.Array:
    """The tangents ``[S, k]`` at the start and after resets: the unit vectors for k = S without key, else random."""
    if key is None and k == system.size:
        return jnp.eye(k, dtype=system.dtype)
    key = jax.random.key(0) if key is None else key
    return orthonormalise(jax.random.normal(key, (system.size, k), system.dtype))[0]


def log_growth(
    system: System,
    counting: Counting,
    k: int,
    *,
    qr_every: int | Literal["adaptive"] = 1,
    key: jax.Array | None = None,
    backward: bool = False,
) -> jax.Array:
    r"""The logarithms ``[T, B, k]`` of the diagonals of R, zero at steps without QR.

    A QR that does not happen at every step, ends at those steps where something begins for one of the examples: a
    segment, what counts, a block. ``"adaptive"`` does one when a tangent keeps less than a tenth of its length across
    those before it, measured by a Cholesky factor of their Gram matrix, which is a fraction of the work; rounding is
    then at most ten times that of a QR at every step.
    Differentiable where R has no zeros in its diagonal; one step is kept in memory as its carry and tangents.
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
            q, log_r = orthonormalise(moved)
            # A step that does not happen leaves the tangents as they are, to the last bit.
            return (
                (q, log_r) if mask is None else select(now.mask, (q, log_r), (before, jnp.zeros_like(log_r)))
            )
        if qr_every == "adaptive":
            due |= jnp.any(jax.vmap(ill_conditioned)(moved))
        return jax.lax.cond(due, orthonormalise, lambda v: (v, jnp.zeros_like(v[:, 0])), moved)

    def forward(state: Any, step: Any) -> tuple[Any, jax.Array]:
        carry, tangents = state
        now, due = step

        def push(carry: Any, initial: Any, tangents: jax.Array, now: Inputs) -> Any:
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


def orthonormalise(tangents: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Q ``[..., S, k]`` and the logarithms ``[..., k]`` of the diagonal of R, which is not negative."""
    q, r = jnp.linalg.qr(tangents)
    diagonal = jnp.diagonal(r, axis1=-2, axis2=-1)
    sign = jnp.where(diagonal < 0, -1, 1).astype(q.dtype)
    return q * sign[..., None, :], jnp.log(jnp.abs(diagonal))


def ill_conditioned(tangents: jax.Array) -> jax.Array:
    """Whether tangents ``[S, k]`` are about to depend on each other, or to leave the range of floats."""
    lengths = jnp.linalg.norm(tangents, axis=0)
    unit = tangents / jnp.where(lengths > 0, lengths, 1)
    gram = jnp.matmul(unit.T, unit, precision=jax.lax.Precision.HIGHEST)
    across = jnp.diagonal(jnp.linalg.cholesky(gram))  # NaN where they do depend on each other
    fine = (across > LEAST_ACROSS) & (lengths < LONGEST) & (lengths > 1 / LONGEST)
    return ~jnp.all(fine)


def log_determinants(system: System) -> jax.Array:
    r""":math:`\log |\det J_t|` ``[T, B]``, from the whole Jacobian of each step; zero where it does not happen."""

    def one(entering: Any, x: Any) -> jax.Array:
        return jnp.linalg.slogdet(system.jacobian(entering, x))[1]

    def body(carry: Any, now: Inputs) -> tuple[Any, jax.Array]:
        entering = jax.vmap(system.enter)(carry, system.initial, now.reset)
        after, _ = jax.vmap(system.advance)(entering, system.initial, now._replace(reset=None))
        log_determinant = jax.vmap(one)(entering, now.x)
        return after, log_determinant if now.mask is None else jnp.where(now.mask, log_determinant, 0)

    return jax.lax.scan(body, system.carry, system.inputs, length=system.num_steps)[1]


def sum_parts(counting: Counting, values: jax.Array) -> jax.Array:
    """Sums ``[B, blocks, ...]`` over each block of values ``[T, B, ...]``, of the steps that count."""
    parts = counting.blocks * PARTS

    def one(values: jax.Array, part: jax.Array) -> jax.Array:
        sums = jax.ops.segment_sum(values, part, parts + 1)[:parts]
        return jnp.sum(sums.reshape(counting.blocks, PARTS, *sums.shape[1:]), 1)

    return jax.vmap(one, (1, 1))(values, counting.part)


def check_qr_every(who: str, qr_every: Any) -> None:
    """Raise a ValueError unless it is a whole number or "adaptive"."""
    if qr_every != "adaptive":
        check_whole(f"{who}(qr_every)", qr_every, 1, note=', or "adaptive"')
