r"""Linear recurrences over a sequence whose parts lie on different devices.

Of the carry that enters its part, device i knows only what it makes of it: with no input the carry that leaves is
linear in it, with input affine,

.. math:: c_{i+1} = A_i c_i + b_i,

where :math:`A_i` is the product of the part's decays (of a `Matrix` recurrence with erasure, a matrix) and :math:`b_i`
the carry that leaves when none enters. So all devices tell each other :math:`(A_i, b_i)` in one gather, each finds its
own :math:`c_i` by n small steps, and runs its part again from there. A reset in a part cuts it off from what came
before: :math:`c_{i+1} = b_i`, by selection.

The backward pass does the same from the last part to the first. With :math:`\mu_i` the gradient by :math:`c_i` of what
the part itself emits, the gradient by the carry that leaves part i is
:math:`\nu_i = A_{i+1}^\top \nu_{i+1} + \mu_{i+1}`: one more gather, of the :math:`\mu`, and each device pulls its own
cotangents back once more, together with :math:`\nu_i`.

Work: twice that of one device's share of the sequence, forward and backward; with erasure, by K + V instead of V
columns the first time. Two gathers of a carry's size (times (K + V) / V with erasure), none in a loop. Safe range: that
of a parallel prefix; a product of decays that overflows gives NaN where the carry is zero.

References:
    Blelloch 1990, "Prefix sums and their applications" (blocks, one after another between processors).
    Sun et al. 2024, "Linear attention sequence parallelism", arXiv:2404.02882 (the states of attention without erasure,
    passed on from device to device).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import DiagonalInputs, Flags, MatrixCarry
from seqjax.compat import vary_like
from seqjax.ops.select import expand, keep, select
from seqjax.ops.step import expand_left
from seqjax.ops.time_sharded.shards import Shards

Run = Callable[..., tuple[Any, Any]]


class Operands(NamedTuple):
    """Inputs of the recurrence ``[T/n, ...]``; the sequence's first carry; the flags of this part, without keys."""

    us: Any
    carry: Any
    flags: Flags


class Summary(NamedTuple):
    """What a part does to the carry that enters it: the carry that leaves when none enters, A, whether a reset cuts."""

    end: Any
    factor: Any
    cut: Any


Form = Literal["diagonal", "decay", "scaled", "erasure"]


def form_of(us: Any) -> Form:
    """Which kind of A the inputs of a recurrence lead to."""
    if isinstance(us, DiagonalInputs):
        return "diagonal"
    return "erasure" if us.erase is not None else "scaled" if us.log_input is not None else "decay"


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def time_shardable(run: Run, form: Form, shards: Shards, operands: Operands) -> tuple[Any, Any]:
    """``(carry that leaves this part, hs of this part)`` of a `Diagonal` or `Matrix` recurrence.

    Args:
        run: ``(us, carry, flags) -> (carry, hs)``, any way to run the recurrence on one device.
        form: of the inputs, by `form_of`.
        shards: where the parts are.
        operands: of this part, all marked as varying over the axis.
    """
    return _forward(run, form, shards, operands)[0]


def _forward(run: Run, form: Form, shards: Shards, operands: Operands) -> tuple[Any, Any]:
    us, first, flags = operands
    lead = us.b.ndim - 2 if form == "diagonal" else us.q.ndim - 2  # [*B], or [*B, N]
    summarize = {
        "diagonal": _of_decays,
        "decay": _of_log_decays,
        "scaled": _of_scaled,
        "erasure": _of_erasure,
    }
    summaries = shards.gathered(summarize[form](run, operands), lead)

    def onward(carry: Any, summary: Summary) -> tuple[Any, Any]:
        return _after(form, summary, carry), carry

    entering = jax.lax.scan(onward, vary_like(first, summaries), summaries)[1]
    carry = jax.tree.map(lambda a: a[shards.number()], entering)

    def of_part(us: Any, carry: Any, initial: Any, tap: Any) -> tuple[Any, Any]:
        return run(us, carry, flags._replace(initial=initial, tap=tap))

    results, pull = jax.vjp(of_part, us, carry, flags.initial, flags.tap)
    return results, (pull, summaries, entering)


def _backward(run: Run, form: Form, shards: Shards, residuals: Any, cotangents: Any) -> tuple[Operands]:
    pull, summaries, entering = residuals
    d_after, d_hs = cotangents
    own = pull((d_after, d_hs))[1]
    owns = shards.gathered(own, min(a.ndim for a in jax.tree.leaves(own)) - 1)

    def back(later: Any, part: Any) -> tuple[Any, Any]:
        summary, carry, own = part
        (through,) = jax.vjp(partial(_after, form, summary), carry)[1](later)
        return jax.tree.map(jnp.add, through, own), later

    none = vary_like(jax.tree.map(jnp.zeros_like, own), (owns, summaries))
    laters = jax.lax.scan(back, none, (summaries, entering, owns), reverse=True)[1]
    d_after = jax.tree.map(lambda d, later: d + later[shards.number()], d_after, laters)
    d_us, d_carry, d_initial, d_tap = pull((d_after, d_hs))
    d_carry = jax.tree.map(lambda d: jnp.where(shards.is_first(), d, jnp.zeros_like(d)), d_carry)
    return (Operands(d_us, d_carry, Flags(tap=d_tap, initial=d_initial)),)


time_shardable.defvjp(_forward, _backward)


# ---------------------------------------------------------------- what a part does to the carry that enters it


def _after(form: Form, summary: Summary, carry: Any) -> Any:
    """The carry that leaves a part."""
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
    """The factor is the log of A: ``[*B, N, K]``, or ``[*B, N, 1]``."""
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
    """The scale of nothing is the least, far enough from the least number that decays can be added to it."""
    m = operands.carry.m
    least = operands.carry._replace(m=jnp.full_like(m, jnp.finfo(m.dtype).min / 4))
    return _of_log_decays(lambda us, nothing, flags: run(us, nothing._replace(m=least.m), flags), operands)


def _of_erasure(run: Run, operands: Operands) -> Summary:
    """Columns that begin as the identity, and are never written to, end as the product of decays and erasures."""
    us, carry, flags = operands
    *lead, key_size, value_size = carry.shape
    one = jnp.eye(key_size, dtype=carry.dtype).reshape(*(1,) * len(lead), key_size, key_size)
    one = jnp.broadcast_to(one, (*lead, key_size, key_size))
    wider = us._replace(v=jnp.concatenate([us.v, jnp.zeros_like(us.k, dtype=us.v.dtype)], -1))
    start = jnp.concatenate([jnp.zeros_like(carry), one], -1)
    again = jnp.concatenate([flags.initial, jnp.zeros_like(one)], -1)
    end, _ = run(wider, vary_like(start, us), flags._replace(tap=None, initial=again))
    return Summary(end[..., :value_size], end[..., value_size:], _cut(flags.reset, end[..., 0, 0]))


def _cut(reset: Any, like: jax.Array) -> jax.Array:
    """Whether a reset lies in the part, in the shape of `like`, which has axes that flags do not have at its end."""
    if reset is None:
        return jnp.zeros_like(like, dtype=bool)
    return jnp.broadcast_to(expand(jnp.any(reset, 0), like.ndim), like.shape)
