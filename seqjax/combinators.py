"""Layers made of layers. Each keeps both views, `step` and `unroll`, where its parts have them."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from seqjax.base import Layer
from seqjax.definition import definition
from seqjax.layers import fold_in, num_steps, step_keys
from seqjax.ops.chunks import over_chunks
from seqjax.ops.select import keep


@definition
def serial(*layers: Layer) -> Layer:
    """Layers one after the other. Params and carry are tuples, one entry per layer.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj, flax.linen as nn
        >>> model = sj.serial(sj.pointwise(nn.Embed(256, 8)), sj.recurrent(sj.gru(16)), sj.pointwise(nn.Dense(256)))
        >>> tokens = jnp.zeros((10, 4), int)
        >>> params = model.init(jax.random.key(0), tokens[0])
        >>> carry, logits = model.unroll(params, model.initial_carry(params, tokens[0]), tokens)
        >>> logits.shape
        (10, 4, 256)
    """
    _check_layers("serial", layers)

    def init(key: jax.Array, x: Any) -> tuple:
        params = []
        for number, layer in enumerate(layers):
            params.append(layer.init(jax.random.fold_in(key, number), x))
            x = _output(layer, params[-1], x)
        return tuple(params)

    def initial_carry(params: tuple, x: Any) -> tuple:
        carries = []
        for layer, p in zip(layers, params, strict=True):
            carries.append(layer.initial_carry(p, x))
            x = _output(layer, p, x)
        return tuple(carries)

    def step(
        params: tuple, carry: tuple, x: Any, *, reset: Any = None, mask: Any = None, key: Any = None
    ) -> Any:
        after = []
        for number, layer in enumerate(layers):
            c, x = layer.step(
                params[number], carry[number], x, reset=reset, mask=mask, key=fold_in(key, number)
            )
            after.append(c)
        return tuple(after), x

    def unroll(
        params: tuple,
        carry: tuple,
        xs: Any,
        *,
        reset: Any = None,
        mask: Any = None,
        key: Any = None,
        tap: Any = None,
    ) -> Any:
        keys = step_keys(key, num_steps(xs))
        after = []
        for number, layer in enumerate(layers):
            c, xs = layer.unroll(
                params[number],
                carry[number],
                xs,
                reset=reset,
                mask=mask,
                key=fold_in(keys, number),
                tap=None if tap is None else tap[number],
            )
            after.append(c)
        return tuple(after), xs

    causal = all(layer.causal for layer in layers)
    return Layer(init=init, initial_carry=initial_carry, step=step, unroll=unroll, causal=causal)


@definition
def residual(layer: Layer) -> Layer:
    """The layer's output plus its input: ``y = x + layer(x)``.

    Raises:
        ValueError: when the two have different shapes.

    Example:
        >>> import seqjax as sj
        >>> sj.residual(sj.recurrent(sj.lstm(8)))
        residual(layer=recurrent(cell=lstm(hidden_size=8)))
    """
    _check_layers("residual", (layer,))

    def add(x: Any, y: Any) -> Any:
        if x.shape != y.shape:
            raise ValueError(
                f"residual({layer!r}): expected an output of the input's shape {list(x.shape)}, got {list(y.shape)}."
            )
        return x + y.astype(x.dtype)

    def step(params: Any, carry: Any, x: Any, *, reset: Any = None, mask: Any = None, key: Any = None) -> Any:
        x = keep(mask, x)
        carry, y = layer.step(params, carry, x, reset=reset, mask=mask, key=key)
        return carry, add(x, y)

    def unroll(
        params: Any,
        carry: Any,
        xs: Any,
        *,
        reset: Any = None,
        mask: Any = None,
        key: Any = None,
        tap: Any = None,
    ) -> Any:
        xs = keep(mask, xs)
        carry, ys = layer.unroll(params, carry, xs, reset=reset, mask=mask, key=key, tap=tap)
        return carry, add(xs, ys)

    return Layer(
        init=layer.init, initial_carry=layer.initial_carry, step=step, unroll=unroll, causal=layer.causal
    )


@definition
def bidirectional(
    forward: Layer, backward: Layer | None = None, *, merge: Literal["concatenate", "sum"] = "concatenate"
) -> Layer:
    """One layer forward in time and one backward; their outputs concatenated or summed.

    The backward half sees each row's own steps in reverse: padding is passed over, and a reset, which restarts the
    forward half before a step, restarts the backward half after the step before it. Params and carry are pairs.

    Args:
        forward: the layer that runs forward.
        backward: the layer that runs backward; by default the same definition with params of its own.
        merge: "concatenate" on the last axis, or "sum".

    Raises:
        TypeError: from `step`: the layer reads the whole sequence.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.bidirectional(sj.recurrent(sj.gru(8)))
        >>> xs = jnp.ones((10, 4, 3))
        >>> params = layer.init(jax.random.key(0), xs[0])
        >>> layer.unroll(params, layer.initial_carry(params, xs[0]), xs)[1].shape
        (10, 4, 16)

    References:
        Schuster, Paliwal 1997, "Bidirectional recurrent neural networks", IEEE Trans. Signal Processing 45.
    """
    if merge not in ("concatenate", "sum"):
        raise ValueError(f"bidirectional(merge): expected 'concatenate' or 'sum', got {merge!r}.")
    halves = (forward, forward if backward is None else backward)
    _check_layers("bidirectional", halves)

    def step(*args: Any, **options: Any) -> Any:
        raise TypeError(
            "bidirectional(...) has no step: it reads the whole sequence. Use unroll, or a causal layer for decoding."
        )

    def unroll(
        params: Any,
        carry: Any,
        xs: Any,
        *,
        reset: Any = None,
        mask: Any = None,
        key: Any = None,
        tap: Any = None,
    ) -> Any:
        keys = step_keys(key, num_steps(xs))
        taps = (None, None) if tap is None else (tap[0], _flip(tap[1]))
        carry_f, ys_f = halves[0].unroll(
            params[0], carry[0], xs, reset=reset, mask=mask, key=fold_in(keys, 0), tap=taps[0]
        )
        after = (
            None if reset is None else jnp.concatenate([reset[1:], jnp.zeros_like(reset[:1])])
        )  # restarts follow steps
        carry_b, ys_b = halves[1].unroll(
            params[1],
            carry[1],
            _flip(xs),
            reset=_flip(after),
            mask=_flip(mask),
            key=_flip(fold_in(keys, 1)),
            tap=taps[1],
        )
        ys_b = _flip(ys_b)
        ys = jnp.concatenate([ys_f, ys_b], -1) if merge == "concatenate" else ys_f + ys_b
        return (carry_f, carry_b), ys

    return Layer(
        init=lambda key, x: tuple(h.init(jax.random.fold_in(key, i), x) for i, h in enumerate(halves)),
        initial_carry=lambda params, x: tuple(
            h.initial_carry(p, x) for h, p in zip(halves, params, strict=True)
        ),
        step=step,
        unroll=unroll,
        causal=False,
    )


@definition
def checkpointed(layer: Layer, *, every: int) -> Layer:
    r"""Trade time for memory: keep the carry every K steps alone, and run each piece again in the backward pass.

    Memory for the backward pass of T steps, with carries of c bytes and r bytes of residuals per step, is
    :math:`(T/K)\,c + K\,r`, least at :math:`K = \sqrt{T c / r}`; the price is one more forward pass. Values and
    gradients stay the same.

    Args:
        layer: a causal layer.
        every: K.

    Raises:
        TypeError: for a layer that is not causal, which needs the whole sequence at once.

    Example:
        >>> import seqjax as sj
        >>> sj.checkpointed(sj.recurrent(sj.lstm(8)), every=64)
        checkpointed(layer=recurrent(cell=lstm(hidden_size=8)), every=64)

    References:
        Chen et al. 2016, "Training deep nets with sublinear memory cost", arXiv:1604.06174.
    """
    _check_layers("checkpointed", (layer,))
    if not layer.causal:
        raise TypeError(
            f"checkpointed({layer!r}): expected a causal layer, which can run piece by piece; this one reads the whole "
            "sequence. Checkpoint the causal layers inside it."
        )
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise ValueError(f"checkpointed(every): expected a whole number of at least 1, got {every!r}.")

    def unroll(
        params: Any,
        carry: Any,
        xs: Any,
        *,
        reset: Any = None,
        mask: Any = None,
        key: Any = None,
        tap: Any = None,
    ) -> Any:
        if num_steps(xs) == 0:
            return layer.unroll(params, carry, xs, reset=reset, mask=mask, key=key)

        @jax.checkpoint
        def piece(carry: Any, inputs: Any) -> Any:
            xs, reset, mask, keys, tap = inputs
            return layer.unroll(params, carry, xs, reset=reset, mask=mask, key=keys, tap=tap)

        return over_chunks(piece, carry, (xs, reset, mask, step_keys(key, num_steps(xs)), tap), every)

    return Layer(init=layer.init, initial_carry=layer.initial_carry, step=layer.step, unroll=unroll)


def _flip(tree: Any) -> Any:
    """A tree of arrays ``[T, ...]`` in reversed time."""
    return jax.tree.map(lambda a: a[::-1], tree)


def _output(layer: Layer, params: Any, x: Any) -> Any:
    """What a layer makes of one time step, as a shape."""

    def run(params: Any, x: Any) -> Any:
        ys = layer.unroll(params, layer.initial_carry(params, x), jax.tree.map(lambda a: a[None], x))[1]
        return jax.tree.map(lambda y: y[0], ys)

    return jax.eval_shape(run, params, x)


def _check_layers(who: str, layers: tuple[Any, ...]) -> None:
    for layer in layers:
        if not isinstance(layer, Layer):
            hint = " Bind a cell with recurrent(cell)." if type(layer).__name__ == "Cell" else ""
            hint = hint or (" Lift a module or function with pointwise(...)." if callable(layer) else "")
            raise TypeError(f"{who}: expected layers, got {layer!r}.{hint}")
