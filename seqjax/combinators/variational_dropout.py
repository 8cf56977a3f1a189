"""Variational dropout: one dropout mask per sequence, before a layer or inside a cell."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, Int

from seqjax.base import Carry, Cell, Flags, Gated, GatedWeights, Key, Layer, Params, Step, X, Xs, Ys
from seqjax.checks import check_within
from seqjax.combinators.common import View, check_layers, composed
from seqjax.inputs import fold_in
from seqjax.ops.select import keep, select
from seqjax.ops.step import gated_step
from seqjax.values import definition

NOT_DRAWN, DROPPED, KEPT = -1, 0, 1


class DropoutCarry(NamedTuple):
    """The carry inside; and the mask, int8 in the shape of the dropped array: 1 kept, 0 dropped, -1 not drawn yet."""

    carry: Carry
    kept: Any


@definition
def variational_dropout(part: Any, rate: float) -> Any:
    r"""Dropout with one mask per sequence, the same at every step.

    Around a layer it drops entries of the input; inside a `Gated` cell it drops entries of the h that the recurrent
    product reads:

    .. math::
        x'_t = x_t \odot m / (1-p) \quad\text{(layer)}, \qquad
        r_t = (h_{t-1} \odot m / (1-p)) W_h + b_h \quad\text{(cell)}, \qquad m \sim \mathrm{Bernoulli}(1-p)

    so that the paper's RNN is ``variational_dropout(recurrent(variational_dropout(lstm(8), 0.3)), 0.3)``. All gates
    share the mask. m is part of the carry: it is drawn from the key of the first step that happens, and drawn again
    after a reset. Without a key nothing is dropped and m does not change.

    Deviation: dropout scales activations by 1/(1-p), whereas the paper scales weights by 1-p where nothing is dropped.

    Shapes: carry ``DropoutCarry(carry, kept)``; params are those of the part.

    Args:
        part: a layer with floating inputs, or a `Gated` cell; the result is a layer or a cell like the part.
        rate: p, the probability to drop an entry, 0 <= p < 1.

    Raises:
        TypeError: for a cell of another kind.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer, xs = sj.variational_dropout(sj.serial(), 0.5), jnp.ones((2, 1, 4))
        >>> layer.unroll((), layer.initial_carry((), xs[0]), xs, key=jax.random.key(1))[1][:, 0]
        Array([[2., 2., 0., 0.],
               [2., 2., 0., 0.]], dtype=float32)

    References:
        Gal, Ghahramani 2016, "A theoretically grounded application of dropout in recurrent neural networks",
        arXiv:1512.05287, section 4, eq. 7 (tied gates).
    """
    check_within("variational_dropout(rate)", rate)
    if isinstance(part, Cell):
        return _dropout_in_cell(part, rate)
    check_layers("variational_dropout", (part,))
    return _dropout_before_layer(part, rate)


def _not_drawn(x: X) -> Any:
    return jax.tree.map(lambda a: jnp.full_like(a, NOT_DRAWN, dtype=jnp.int8), x)


def _draw(key: Key, rate: float, shape: tuple[int, ...]) -> Int[Array, "..."]:
    return jax.random.bernoulli(key, 1 - rate, shape).astype(jnp.int8)


def _apply_mask(x: Inexact[Array, "*S"], kept: jax.Array, rate: float) -> Inexact[Array, "*S"]:
    return jnp.where(kept == DROPPED, jnp.zeros_like(x), x / (1 - rate))


def _dropout_before_layer(layer: Layer, rate: float) -> Layer:
    def initial_carry(params: Params, x: X) -> DropoutCarry:
        return DropoutCarry(layer.initial_carry(params, x), _not_drawn(x))

    def apply(view: View, params: Params, carry: DropoutCarry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        xs = keep(flags.mask, xs)

        def body(kept: Any, inputs: Any) -> Any:
            x, reset, mask, key = inputs
            kept = select(reset, _not_drawn(kept), kept)
            if key is None:
                return kept, ()
            leaves, treedef = jax.tree.flatten(kept)
            drawn = [
                jnp.where(k == NOT_DRAWN, _draw(jax.random.fold_in(key, i), rate, k.shape), k)
                for i, k in enumerate(leaves)
            ]
            now = jax.tree.unflatten(treedef, drawn)
            return (now if mask is None else select(mask, now, kept)), now

        own_key = fold_in(flags.key, 1)
        first_leaf = jax.tree.leaves(xs)[:1]
        kept, masks = view.scan(body, carry.kept, (first_leaf, flags.reset, flags.mask, own_key))
        if flags.key is not None:
            xs = jax.tree.map(lambda x, m: _apply_mask(x, m, rate), xs, masks)
        inner, ys = view.run(layer, params, carry.carry, xs, flags.part_key(0).of(lambda tap: tap.carry))
        return DropoutCarry(inner, kept), ys

    return composed(apply, parts=(layer,), initial_carry=initial_carry, time_shardable=False)


def _dropout_in_cell(cell: Cell, rate: float) -> Cell:
    gated = cell.recurrence
    if not isinstance(gated, Gated):
        raise TypeError(
            f"variational_dropout({cell!r}): expected a Gated cell, whose recurrent product reads h, got a "
            f"{type(gated).__name__} recurrence. Drop inputs instead: variational_dropout(recurrent(cell), rate)."
        )

    def initial_carry(params: Params, x: X) -> DropoutCarry:
        carry = cell.initial_carry(params, x)
        return DropoutCarry(carry, _not_drawn(jax.tree.leaves(carry)[-1]))

    def project(params: Params, xs: Xs, key: Key | None = None) -> Any:
        if key is None:
            return cell.project(params, xs), None
        shape = jax.eval_shape(cell.initial_carry, params, xs)
        drawn = _draw(jax.random.fold_in(key, 1), rate, jax.tree.leaves(shape)[-1].shape)
        return cell.project(params, xs, jax.random.fold_in(key, 0)), drawn

    def step(params: Params, carry: DropoutCarry, inputs: Any) -> Any:
        u, drawn = inputs
        weights = GatedWeights(*gated.weights(params))
        if drawn is None:
            after, h = gated_step(gated, weights, carry.carry, u)
            return DropoutCarry(after, carry.kept), h
        kept = jnp.where(carry.kept == NOT_DRAWN, drawn, carry.kept)
        after, h = gated_step(gated, weights, carry.carry, u, on_h=lambda h: _apply_mask(h, kept, rate))
        return DropoutCarry(after, kept), h

    readout = cell.readout
    return Cell(
        init=cell.init, initial_carry=initial_carry, recurrence=Step(step), project=project, readout=readout
    )
