"""Noise and normalization inside cells: zoneout, variational dropout, layer normalization."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.affine import affine, spread
from seqjax.base import Cell, Dense, Diagonal, DiagonalInputs, Flags, Gated, GatedWeights, Layer, Step
from seqjax.cells.common.labels import elementwise
from seqjax.checks import check_within
from seqjax.combinators.common import View, check_layers, composed
from seqjax.inputs import fold_in
from seqjax.ops.select import keep, select, wide
from seqjax.ops.step import expand_left, gated_step, step_of
from seqjax.values import definition

NOT_DRAWN, DROPPED, KEPT = -1, 0, 1


class ZoneoutInputs(NamedTuple):
    """The cell's own inputs; which entries stay, a tuple like the floating leaves of the carry, or None."""

    us: Any
    stays: Any


@definition
def zoneout(cell: Cell, rate: float | tuple[float, ...]) -> Cell:
    r"""Entries of the carry stay as they were, at random, instead of being updated.

    .. math::
        \tilde c_t &= \mathrm{cell}(c_{t-1}, x_t) \\
        c_t &= d_t \odot c_{t-1} + (1 - d_t) \odot \tilde c_t, \qquad d_t \sim \mathrm{Bernoulli}(p)

    for each leaf of the carry with its own d and p, independent at every step; without a key
    :math:`c_t = p\,c_{t-1} + (1-p)\,\tilde c_t`, the expectation. Each leaf is computed from the others before their
    zoneout, as in the paper (an LSTM's h from its full c). An output that is a leaf of the carry is that leaf after
    zoneout. Integer leaves (positions) are always updated. Noise comes through `project`, from the key of the step.

    Gradients: with a share p of the entries they pass a step unchanged.

    Params are the cell's. A `Diagonal` recurrence stays one (:math:`a' = d + (1-d)a`, :math:`b' = (1-d)b`); all
    others become a `Step`.

    Args:
        cell: any cell.
        rate: p for all floating leaves, or one per leaf, in order: ``zoneout(lstm(8), (0.5, 0.05))`` for c and h.

    Raises:
        ValueError: for a rate outside [0, 1), or another number of rates than of leaves.

    Example:
        >>> import jax.numpy as jnp, seqjax as sj
        >>> from seqjax.cells import ElmanParams
        >>> layer = sj.recurrent(sj.zoneout(sj.elman(1, activation="identity"), 0.25))
        >>> params = ElmanParams(jnp.ones((1, 1)), jnp.zeros((1, 1)), jnp.zeros(1))
        >>> layer.unroll(params, layer.initial_carry(params, jnp.ones((1, 1))), jnp.ones((2, 1, 1)))[1].ravel()
        Array([0.75  , 0.9375], dtype=float32)

    References:
        Krueger et al. 2017, "Zoneout: regularizing RNNs by randomly preserving hidden activations", arXiv:1606.01305:
        eq. 4 (the operator), eq. 6 (the LSTM).
    """
    if not isinstance(cell, Cell):
        raise TypeError(f"zoneout(cell): expected a Cell such as lstm(256), got {cell!r}.")
    rates = rate if isinstance(rate, tuple) else (rate,)
    for p in rates:
        check_within("zoneout(rate)", p)

    def rates_for(carry: Any) -> list[float]:
        floating = [leaf for leaf in jax.tree.leaves(carry) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
        if isinstance(rate, tuple) and len(rates) != len(floating):
            raise ValueError(
                f"zoneout({cell!r}): expected {len(floating)} rates, one per floating leaf of the carry, got {rate}."
            )
        return list(rates) if isinstance(rate, tuple) else [*rates] * len(floating)

    def initial_carry(params: Any, x: Any) -> Any:
        carry = cell.initial_carry(params, x)
        rates_for(carry)
        return carry

    def mix(before: Any, after: Any, stays: Any) -> Any:
        """The carry after zoneout, and its leaves before it, to find the output among them."""
        leaves, treedef = jax.tree.flatten(after)
        places = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
        old = jax.tree.leaves(before)
        mixed = list(leaves)
        for n, (i, p) in enumerate(zip(places, rates_for(after), strict=True)):
            new = leaves[i].astype(old[i].dtype)
            mixed[i] = p * old[i] + (1 - p) * new if stays is None else jnp.where(stays[n], old[i], new)
        return jax.tree.unflatten(treedef, mixed), leaves, mixed

    def step(params: Any, before: Any, inputs: ZoneoutInputs) -> Any:
        after, h = _inner_step(cell, params)(before, inputs.us)
        carry, leaves, mixed = mix(before, after, inputs.stays)
        same = [new for old, new in zip(leaves, mixed, strict=True) if old is h]
        return carry, same[-1] if same else h

    def draw(params: Any, x: Any, key: Any) -> Any:
        carry = jax.eval_shape(initial_carry, params, x)
        shapes = [c.shape for c in jax.tree.leaves(carry) if jnp.issubdtype(c.dtype, jnp.inexact)]
        return tuple(
            jax.random.bernoulli(jax.random.fold_in(key, 1 + n), p, shape)
            for n, (p, shape) in enumerate(zip(rates_for(carry), shapes, strict=True))
        )

    def project(params: Any, xs: Any, key: Any = None) -> Any:
        if key is None:
            us, stays = cell.project(params, xs), None
        else:  # of one step
            us, stays = cell.project(params, xs, jax.random.fold_in(key, 0)), draw(params, xs, key)
        if not isinstance(cell.recurrence, Diagonal):
            return ZoneoutInputs(us, stays)
        a, b = us
        if stays is None:
            return DiagonalInputs(rates[0] + (1 - rates[0]) * a, (1 - rates[0]) * b)
        a = jnp.broadcast_to(expand_left(a, b.ndim), b.shape).astype(b.dtype)
        return DiagonalInputs(jnp.where(stays[0], jnp.ones_like(a), a), keep(~stays[0], b))

    return Cell(
        init=cell.init,
        initial_carry=initial_carry,
        recurrence=cell.recurrence if isinstance(cell.recurrence, Diagonal) else Step(step),
        project=project,
        readout=cell.readout,
    )


class DropoutCarry(NamedTuple):
    """The carry inside; the mask, int8 in the shape of what it drops from: 1 kept, 0 dropped, -1 not drawn yet."""

    carry: Any
    kept: Any


@definition
def variational_dropout(part: Any, rate: float) -> Any:
    r"""Dropout with one mask per sequence, the same at every step.

    Around a layer it drops entries of the input, inside a `Gated` cell entries of the h that the recurrent product
    reads:

    .. math::
        x'_t = x_t \odot m / (1-p) \quad\text{(layer)}, \qquad
        r_t = (h_{t-1} \odot m / (1-p)) W_h + b_h \quad\text{(cell)}, \qquad m \sim \mathrm{Bernoulli}(1-p)

    so that the paper's RNN is ``variational_dropout(recurrent(variational_dropout(lstm(8), 0.3)), 0.3)``. All gates
    share the mask. m is part of the carry: drawn from the key of the first step that happens, kept until a reset,
    drawn anew after it. Without a key nothing is dropped and m stays as it is.

    Deviation: activations are scaled by 1/(1-p) where they are dropped, instead of weights by 1-p where they are not.

    Shapes: carry ``DropoutCarry(carry, kept)``; params are those of the part.

    Args:
        part: a layer with floating inputs, or a `Gated` cell; the result is of the same sort.
        rate: p, the share that is dropped, 0 <= p < 1.

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


def _not_drawn(x: Any) -> Any:
    return jax.tree.map(lambda a: jnp.full_like(a, NOT_DRAWN, dtype=jnp.int8), x)


def _draw(key: Any, rate: float, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.bernoulli(key, 1 - rate, shape).astype(jnp.int8)


def _apply_mask(x: jax.Array, kept: jax.Array, rate: float) -> jax.Array:
    return jnp.where(kept == DROPPED, jnp.zeros_like(x), x / (1 - rate))


def _dropout_before_layer(layer: Layer, rate: float) -> Layer:
    def initial_carry(params: Any, x: Any) -> DropoutCarry:
        return DropoutCarry(layer.initial_carry(params, x), _not_drawn(x))

    def apply(view: View, params: Any, carry: DropoutCarry, xs: Any, flags: Flags) -> Any:
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

    return composed(apply, parts=(layer,), init=layer.init, initial_carry=initial_carry, time_shardable=False)


def _dropout_in_cell(cell: Cell, rate: float) -> Cell:
    gated = cell.recurrence
    if not isinstance(gated, Gated):
        raise TypeError(
            f"variational_dropout({cell!r}): expected a Gated cell, whose recurrent product reads h, got a "
            f"{type(gated).__name__} recurrence. Drop inputs instead: variational_dropout(recurrent(cell), rate)."
        )

    def initial_carry(params: Any, x: Any) -> DropoutCarry:
        carry = cell.initial_carry(params, x)
        return DropoutCarry(carry, _not_drawn(jax.tree.leaves(carry)[-1]))

    def project(params: Any, xs: Any, key: Any = None) -> Any:
        if key is None:
            return cell.project(params, xs), None
        shape = jax.eval_shape(cell.initial_carry, params, xs)
        drawn = _draw(jax.random.fold_in(key, 1), rate, jax.tree.leaves(shape)[-1].shape)
        return cell.project(params, xs, jax.random.fold_in(key, 0)), drawn

    def step(params: Any, carry: DropoutCarry, inputs: Any) -> Any:
        u, drawn = inputs
        weights = GatedWeights(*gated.weights(params))
        if drawn is None:
            after, h = gated_step(gated, weights, carry.carry, u)
            return DropoutCarry(after, carry.kept), h
        kept = jnp.where(carry.kept == NOT_DRAWN, drawn, carry.kept)
        after, h = gated_step(gated, weights, carry.carry, u, on_h=lambda h: _apply_mask(h, kept, rate))
        return DropoutCarry(after, kept), h

    return Cell(
        init=cell.init,
        initial_carry=initial_carry,
        recurrence=Step(step),
        project=project,
        readout=cell.readout,
    )


@elementwise("gain_x", "gain_h", "gain_s", "shift_s")
class NormalizedParams(NamedTuple):
    """The cell's; gain_x, gain_h ``[G*H]``; gain_s, shift_s ``[H]``, or () for a cell whose output is its state."""

    cell: Any
    gain_x: jax.Array
    gain_h: jax.Array
    gain_s: Any
    shift_s: Any


@definition
def normalized(cell: Cell, *, epsilon: float = 1e-5, param_dtype: Any = jnp.float32) -> Cell:
    r"""Layer normalization inside a `Gated` cell with a `Dense` projection, in three places.

    .. math::
        u_t &= g_x \odot N(x_t W_x) + b, \qquad r_t = g_h \odot N(h_{t-1} W_h) + b_h \\
        h_t &= \mathrm{emit}(g_s \odot N(s_t) + \beta_s, \dots), \qquad
        N(z) = (z - \mathrm{mean}(z)) / \sqrt{\mathrm{var}(z) + \epsilon}

    N runs over all G*H pre-activations of an example at a step, and over the H entries of the state that `emit` reads
    (an LSTM's c on its way to tanh; what is carried on is not normalized). A cell without `emit` (GRU, elman) has no
    third place; nor has one with several states, whose scales belong together. The shifts of the first two places are
    the cell's own biases. Statistics are computed in float32 at least.

    Gradients: those through the recurrent product do not depend on the scale of W_h; along c they are the cell's.

    Shapes: as the cell; params `NormalizedParams`. The recurrence is a `Step`.

    Args:
        cell: a `Gated` cell.
        epsilon: added to the variance.
        param_dtype: of the gains and shifts, which start at 1 and 0.

    Raises:
        TypeError: for a cell of another kind, or whose projection is not declared as `Dense`.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> params = sj.normalized(sj.lstm(3)).init(jax.random.key(0), jnp.ones((5, 2)))
        >>> params.gain_x.shape, params.gain_s.shape
        ((12,), (3,))

    References:
        Ba, Kiros, Hinton 2016, "Layer normalization", arXiv:1607.06450: eq. 4 (the RNN, where N is over the sum of both
        products), eq. 20-22 of the supplement (the LSTM, which this is).
    """
    if not isinstance(cell, Cell):
        raise TypeError(f"normalized(cell): expected a Cell such as lstm(256), got {cell!r}.")
    gated, dense = cell.recurrence, cell.project
    if not isinstance(gated, Gated) or not isinstance(dense, Dense):
        raise TypeError(
            f"normalized({cell!r}): expected a Gated cell with a Dense projection, got "
            f"{type(gated).__name__} with {type(dense).__name__}. Normalize its inputs or outputs instead: "
            "serial(pointwise(flax.linen.LayerNorm()), recurrent(cell))."
        )

    def normalize(z: jax.Array, gain: jax.Array, shift: Any) -> jax.Array:
        wider = z.astype(wide(z.dtype))
        centered = wider - jnp.mean(wider, -1, keepdims=True)
        scale = jax.lax.rsqrt(jnp.mean(jnp.square(centered), -1, keepdims=True) + epsilon)
        unit = (centered * scale).astype(z.dtype)
        out = unit * spread(gain, z)
        return out if shift is None else out + spread(shift, z)

    def init(key: jax.Array, x: jax.Array) -> NormalizedParams:
        params = cell.init(key, x)
        w, _ = dense.weights(params)
        carry = jax.eval_shape(cell.initial_carry, params, x)
        width, hidden = w.shape[-1], jax.tree.leaves(carry)[-1].shape[-1]
        third = gated.emit is not None and len(jax.tree.leaves(carry)) == 2
        gain, shift = jnp.ones(width, param_dtype), ()
        return NormalizedParams(
            params,
            gain,
            jnp.ones(width, param_dtype),
            jnp.ones(hidden, param_dtype) if third else (),
            jnp.zeros(hidden, param_dtype) if third else shift,
        )

    def project(params: NormalizedParams, xs: jax.Array, key: Any = None) -> jax.Array:
        w, b = dense.weights(params.cell)
        if xs.shape[-1] != w.shape[0]:
            raise ValueError(
                f"expected xs [..., {w.shape[0]}] (the input weights are {list(w.shape)}), got {list(xs.shape)}."
            )
        return normalize(affine(xs, w), params.gain_x, b)

    def step(params: NormalizedParams, carry: Any, u: jax.Array) -> Any:
        weights = GatedWeights(*gated.weights(params.cell))
        third = not isinstance(params.gain_s, tuple)
        return gated_step(
            gated,
            weights._replace(b_h=None),
            carry,
            u,
            on_r=lambda r: normalize(r, params.gain_h, weights.b_h),
            on_state=(lambda s: normalize(s, params.gain_s, params.shift_s)) if third else None,
        )

    return Cell(
        init=init,
        initial_carry=lambda params, x: cell.initial_carry(params.cell, x),
        recurrence=Step(step),
        project=project,
        readout=lambda params, hs, xs: cell.readout(params.cell, hs, xs),
    )


def _inner_step(cell: Cell, params: Any) -> Any:
    """The cell's own step; params have been cast already."""
    if isinstance(cell.recurrence, Step):
        fn = cell.recurrence.fn
        return lambda carry, u: fn(params, carry, u)
    if isinstance(cell.recurrence, Gated):
        weights = GatedWeights(*cell.recurrence.weights(params))
        return lambda carry, u: gated_step(cell.recurrence, weights, carry, u)
    return step_of(cell.recurrence, params, jnp.float32)
