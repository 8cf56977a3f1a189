r"""Linear recurrences over a sequence that is sharded over time.

The carry :math:`c_{i+1}` after shard i is an affine function of the carry :math:`c_i` that enters the shard:

.. math:: c_{i+1} = A_i c_i + b_i.

Here :math:`A_i` is the product of the shard's decays (a matrix for a `Matrix` recurrence with erasure), and :math:`b_i`
is the carry after the shard for an entering carry of zero. Each device computes its :math:`(A_i, b_i)`. One all-gather
distributes all pairs, each device computes its own :math:`c_i` by n small steps, and then runs its shard from
:math:`c_i`. A reset in a shard makes :math:`c_{i+1}` independent of :math:`c_i`: :math:`c_{i+1} = b_i`, by selection.

The backward pass runs from the last shard to the first. Let :math:`\mu_i` be the gradient of shard i's own outputs with
respect to :math:`c_i`. The gradient with respect to the carry that leaves shard i is
:math:`\nu_i = A_{i+1}^\top \nu_{i+1} + \mu_{i+1}`. One more all-gather distributes the :math:`\mu`, and each device
repeats the backward pass of its shard with :math:`\nu_i` added to its cotangents.

Work: each device processes its shard twice, forward and backward; with erasure the first pass has K + V instead of V
columns. Communication: two all-gathers of the size of a carry (times (K + V) / V with erasure), none in a loop. Safe
range: as for a parallel prefix; a product of decays that overflows gives NaN where the carry is zero.

References:
    Blelloch 1990, "Prefix sums and their applications" (blocks, in sequence between processors).
    Sun et al. 2024, "Linear attention sequence parallelism", arXiv:2404.02882 (the states of attention without erasure,
    passed on from device to device).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Shaped

from seqjax.base import Carry, DiagonalInputs, Flags, MatrixCarry, Us
from seqjax.compat import vary_like
from seqjax.ops.select import expand, keep, select
from seqjax.ops.step import expand_left
from seqjax.ops.time_sharded.shards import Shards

Run = Callable[..., tuple[Any, Any]]


class Operands(NamedTuple):
    """Inputs of this shard ``[T/n, ...]``; the carry before the whole sequence; flags of this shard, without keys."""

    us: Us
    carry: Carry
    flags: Flags


class Summary(NamedTuple):
    """The affine map of a shard, from the entering carry to the leaving carry.

    `end` is the leaving carry for an entering carry of zero, `factor` is A, and `cut` is True if a reset lies in the
    shard.
    """

    end: Any
    factor: Any
    cut: Any


Form = Literal["diagonal", "decay", "scaled", "erasure"]


def form_of(us: Us) -> Form:
    """Return the form of A, which follows from the inputs of a recurrence."""
    if isinstance(us, DiagonalInputs):
        return "diagonal"
    return "erasure" if us.erase is not None else "scaled" if us.log_input is not None else "decay"


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def run_sharded(run: Run, form: Form, shards: Shards, operands: Operands) -> tuple[Any, Any]:
    """Return ``(carry that leaves this shard, hs of this shard)`` of a `Diagonal` or `Matrix` recurrence.

    Args:
        run: ``(us, carry, flags) -> (carry, hs)``, which runs the recurrence on one device.
        form: the result of `form_of` for the inputs.
        shards: the shards of the sequence.
        operands: the operands of this shard, all marked as varying over the axis.
    """
    return _forward(run, form, shards, operands)[0]


def _forward(run: Run, form: Form, shards: Shards, operands: Operands) -> tuple[Any, Any]:
    us, first, flags = operands
    lead = us.b.ndim - 2 if form == "diagonal" else us.q.ndim - 2  # [*B], or [*B, N]
    own = {"diagonal": _of_decays, "decay": _of_log_decays, "scaled": _of_scaled, "erasure": _of_erasure}
    summaries = shards.all_gather(own[form](run, operands), lead)

    def advance_shard(carry: Carry, summary: Summary) -> tuple[Any, Any]:
        return _after(form, summary, carry), carry

    entering = jax.lax.scan(advance_shard, vary_like(first, summaries), summaries)[1]
    carry = jax.tree.map(lambda a: a[shards.position()], entering)

    def run_shard(us: Us, carry: Carry, initial: Any, tap: Any) -> tuple[Any, Any]:
        return run(us, carry, flags._replace(initial=initial, tap=tap))

    results, pull = jax.vjp(run_shard, us, carry, flags.initial, flags.tap)
    return results, (pull, summaries, entering)


def _backward(run: Run, form: Form, shards: Shards, residuals: Any, cotangents: Any) -> tuple[Operands]:
    pull, summaries, entering = residuals
    d_after, d_hs = cotangents
    own = pull((d_after, d_hs))[1]
    owns = shards.all_gather(own, min(a.ndim for a in jax.tree.leaves(own)) - 1)

    def reverse_shard(later: Any, shard: Any) -> tuple[Any, Any]:
        summary, carry, own = shard
        (through,) = jax.vjp(partial(_after, form, summary), carry)[1](later)
        return jax.tree.map(jnp.add, through, own), later

    zero = vary_like(jax.tree.map(jnp.zeros_like, own), (owns, summaries))
    laters = jax.lax.scan(reverse_shard, zero, (summaries, entering, owns), reverse=True)[1]
    d_after = jax.tree.map(lambda d, later: d + later[shards.position()], d_after, laters)
    d_us, d_carry, d_initial, d_tap = pull((d_after, d_hs))
    d_carry = jax.tree.map(lambda d: jnp.where(shards.is_first(), d, jnp.zeros_like(d)), d_carry)
    return (Operands(d_us, d_carry, Flags(tap=d_tap, initial=d_initial)),)


run_sharded.defvjp(_forward, _backward)


# ---------------------------------------------------------------- the affine map of a shard


def _after(form: Form, summary: Summary, carry: Carry) -> Any:
    """Return the carry that leaves a shard."""
    end, factor, cut = summary
    match form:
        case "diagonal":
            return jnp.where(cut, end, factor * carry + end)
        case "decay":
            return select(cut, end, jnp.exp(factor)[..., None] * carry + end)
        case "scaled":
            decayed = factor[..., 0] + carry.m
            m = jnp.maximum(decayed, end.m)
            kept, added = (jnp.exp(scale - m)[..., None, None] for scale in (decayed, end.m))
            return select(cut, end, MatrixCarry(kept * carry.s + added * end.s, m))
        case "erasure":
            product = jnp.einsum("...ij,...jv->...iv", factor, carry, precision="highest")
            return select(cut, end, product + end)


def _of_decays(run: Run, operands: Operands) -> Summary:
    us, carry, flags = operands
    mask = flags.mask
    end, _ = run(us, jnp.zeros_like(carry), flags._replace(tap=None))
    a = us.a if us.a.ndim == us.b.ndim else expand_left(us.a, us.b.ndim)
    a = jnp.broadcast_to(a, us.b.shape).astype(carry.dtype)
    factor = jnp.prod(a if mask is None else select(mask, a, jnp.ones_like(a)), 0)
    return Summary(end, factor, _cut(flags.reset, factor[..., :1]))


def _of_log_decays(run: Run, operands: Operands) -> Summary:
    """Return a summary whose factor is the logarithm of A, ``[*B, N, K]`` or ``[*B, N, 1]``."""
    us, carry, flags = operands
    end, _ = run(us, jax.tree.map(jnp.zeros_like, carry), flags._replace(tap=None))
    dtype = jax.tree.leaves(carry)[0].dtype
    if us.log_decay is None:
        factor = jnp.zeros_like(us.q[0, ..., :1], dtype=dtype)
    else:
        factor = jnp.sum(keep(flags.mask, us.log_decay).astype(dtype), 0)
        factor = factor if us.log_decay.ndim == us.q.ndim else factor[..., None]
    return Summary(end, factor, _cut(flags.reset, factor[..., 0]))


def _of_scaled(run: Run, operands: Operands) -> Summary:
    """Start from a zero state with the smallest scale m that still leaves room for the addition of log decays."""
    m = operands.carry.m
    smallest = jnp.full_like(m, jnp.finfo(m.dtype).min / 4)
    return _of_log_decays(lambda us, zero, flags: run(us, zero._replace(m=smallest), flags), operands)


def _of_erasure(run: Run, operands: Operands) -> Summary:
    """Append columns that start as the identity and receive no values; they end as the product of decay and erasure."""
    us, carry, flags = operands
    *lead, key_size, value_size = carry.shape
    one = jnp.eye(key_size, dtype=carry.dtype).reshape(*(1,) * len(lead), key_size, key_size)
    one = jnp.broadcast_to(one, (*lead, key_size, key_size))
    wider = us._replace(v=jnp.concatenate([us.v, jnp.zeros_like(us.k, dtype=us.v.dtype)], -1))
    start = jnp.concatenate([jnp.zeros_like(carry), one], -1)
    again = jnp.concatenate([flags.initial, jnp.zeros_like(one)], -1)
    end, _ = run(wider, vary_like(start, us), flags._replace(tap=None, initial=again))
    return Summary(end[..., :value_size], end[..., value_size:], _cut(flags.reset, end[..., 0, 0]))


def _cut(reset: Bool[Array, "T *B"] | None, like: Shaped[Array, "..."]) -> Bool[Array, "..."]:
    """Return whether a reset lies in the shard, in the shape of `like`, which has more trailing axes than the flags."""
    if reset is None:
        return jnp.zeros_like(like, dtype=bool)
    return jnp.broadcast_to(expand(jnp.any(reset, 0), like.ndim), like.shape)
