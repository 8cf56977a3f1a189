"""Layers side by side on the same input."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import affine
from seqjax.base import Carry, Flags, Key, Layer, Params, X, Xs, Ys
from seqjax.checks import check_one_of
from seqjax.combinators.common import View, check_layers, composed
from seqjax.ops.select import keep
from seqjax.values import definition


class ParallelParams(NamedTuple):
    """Params of ``parallel(..., merge="gate")``: branches, a tuple of n; w_gate ``[D, n]``, b_gate ``[n]``."""

    branches: tuple
    w_gate: jax.Array
    b_gate: jax.Array


@definition
def parallel(
    *layers: Layer,
    merge: Literal["concatenate", "sum", "gate", "tuple"] = "concatenate",
    param_dtype: Any = jnp.float32,
) -> Layer:
    r"""Layers side by side on the same input.

    With ``merge="gate"`` a softmax over the n branches weights their outputs, which must have one width. The gate is
    computed from the input at each step:

    .. math::
        g_t = \mathrm{softmax}(x_t W_g + b_g), \qquad y_t = \sum_{i=1}^n g_{t,i}\, y_{t,i}

    W_g and b_g start at zero, so that all branches start with the same share 1/n.

    Shapes: x ``[*B, D]`` -> y ``[*B, H_1 + ... + H_n]`` ("concatenate"), the n outputs ("tuple"), or ``[*B, H]``. The
    carry is a tuple, one entry per layer; so are the params, or `ParallelParams` for "gate".

    Args:
        layers: one or more, of any kind.
        merge: "concatenate" on the last axis, "sum", "gate", or "tuple". A tuple has the
            outputs unchanged, of any shapes, for a cell whose inputs have several parts, or a function in `pointwise`.
        param_dtype: of the params of the gate.

    Raises:
        ValueError: for outputs of different shapes with "sum" or "gate".

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.parallel(sj.recurrent(sj.lstm(8)), sj.recurrent(sj.lru(8)), merge="gate")
        >>> xs = jnp.ones((10, 4, 3))
        >>> params = layer.init(jax.random.key(0), xs[0])
        >>> params.w_gate.shape, layer.unroll(params, layer.initial_carry(params, xs[0]), xs)[1].shape
        ((3, 2), (10, 4, 8))

    References:
        Shazeer et al. 2017, "Outrageously large neural networks", arXiv:1701.06538, eq. 1-2 (a dense softmax gate over
        branches) and appendix A (gates start at zero).
    """
    check_one_of("parallel(merge)", merge, ("concatenate", "sum", "gate", "tuple"))
    if not layers:
        raise ValueError("parallel: expected one layer or more, got none.")
    check_layers("parallel", layers)
    gated = merge == "gate"

    def init(key: Key, x: X) -> Params:
        branches = tuple(h.init(jax.random.fold_in(key, i), x) for i, h in enumerate(layers))
        if not gated:
            return branches
        if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"parallel(merge='gate'): expected floating x [*B, D], from which the gate is computed, got {x!r}. "
                "Turn tokens into vectors first."
            )
        n = len(layers)
        return ParallelParams(branches, jnp.zeros((x.shape[-1], n), param_dtype), jnp.zeros(n, param_dtype))

    def initial_carry(params: Params, x: X) -> tuple:
        branches = params.branches if gated else params
        return tuple(h.initial_carry(p, x) for h, p in zip(layers, branches, strict=True))

    def apply(view: View, params: Params, carry: tuple, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        branches = params.branches if gated else params
        pairs = [view.run(h, branches[i], carry[i], xs, flags.part(i)) for i, h in enumerate(layers)]
        after, outs = zip(*pairs, strict=True)
        if merge == "tuple":
            return after, outs
        if merge == "concatenate":
            return after, jnp.concatenate(outs, -1)
        if len({y.shape for y in outs}) > 1:
            shapes = ", ".join(str(list(y.shape)) for y in outs)
            raise ValueError(f"parallel(merge={merge!r}): expected outputs of one shape, got {shapes}.")
        if merge == "sum":
            return after, sum(outs[1:], outs[0])
        safe = keep(flags.mask, xs)
        shares = jax.nn.softmax(affine(safe, params.w_gate, params.b_gate), -1).astype(outs[0].dtype)
        weighted = [shares[..., i : i + 1] * y for i, y in enumerate(outs)]
        return after, sum(weighted[1:], weighted[0])

    return composed(apply, parts=layers, init=init, initial_carry=initial_carry)
