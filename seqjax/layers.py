"""Layers: a cell bound to a method, functions of one time step, dropout."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Attention, Cell, Dense, Flags, Layer, Method
from seqjax.checks import check_within
from seqjax.compat import vary_like
from seqjax.definition import definition
from seqjax.inputs import first_step, fold_in, num_steps, step_keys  # noqa: F401
from seqjax.methods import Auto, TimeSharded, at_step, check_method
from seqjax.ops.select import cast, keep, wide


@definition
def recurrent(cell: Cell, method: Method = Auto()) -> Layer:  # noqa: B008 (a frozen value)
    """A cell run over time by a method.

    Args:
        cell: what is computed.
        method: how it is run; see `seqjax.methods`.

    Raises:
        TypeError: when the method cannot run the cell's kind of recurrence.
        ValueError: from `unroll` and `step`, before anything runs, for shapes or dtypes that do not fit.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.recurrent(sj.lstm(8))
        >>> xs = jnp.ones((10, 4, 3))                                   # [T, B, D]
        >>> params = layer.init(jax.random.key(0), xs[0])
        >>> carry, ys = layer.unroll(params, layer.initial_carry(params, xs[0]), xs)
        >>> ys.shape, carry.c.shape
        ((10, 4, 8), (4, 8))
    """
    if not isinstance(cell, Cell):
        remedy = " It is a layer already." if isinstance(cell, Layer) else ""
        if callable(cell):
            remedy = " Call the factory: recurrent(lstm(256))."
        raise TypeError(f"recurrent(cell): expected a Cell such as lstm(256), got {cell!r}.{remedy}")
    check_method(method, cell)

    def step(params: Any, carry: Any, x: Any, flags: Flags) -> Any:
        _check_inputs(f"{cell!r}.step", cell, params, x, flags, time=())
        x = keep(flags.mask, x)
        initial = cell.initial_carry(params, x)
        carry = _in_dtypes_of(initial, carry)
        carry, y = at_step(cell, params, carry, x, flags._replace(initial=initial))
        return carry, keep(flags.mask, y)

    def unroll(params: Any, carry: Any, xs: Any, flags: Flags) -> Any:
        _check_inputs(f"{cell!r}.unroll", cell, params, xs, flags, time=(num_steps(xs),))
        _check_length(f"{cell!r}.unroll", cell, xs)
        xs = keep(flags.mask, xs)
        initial = cell.initial_carry(params, first_step(xs))
        carry = _in_dtypes_of(initial, carry)
        carry, initial = vary_like((carry, initial), xs, params)
        carry, ys = method.unroll(cell, params, carry, xs, flags._replace(initial=initial))
        return carry, keep(flags.mask, ys)

    return Layer(
        init=cell.init,
        initial_carry=cell.initial_carry,
        step_fn=step,
        unroll_fn=unroll,
        in_parts=isinstance(method, TimeSharded) and method.axis == "time",
        event_ndim=cell.event_ndim,
    )


def _in_dtypes_of(initial: Any, carry: Any) -> Any:
    """The carry in the dtypes that the cell runs in."""
    return jax.tree.map(lambda like, leaf: jnp.asarray(leaf).astype(like.dtype), initial, carry)


def stateless(init: Callable, apply: Callable) -> Layer:
    """A layer without a carry from ``apply: (params, xs, keys) -> ys``, which acts on each step by itself.

    ``apply`` is given one step ``x [*B, ...]`` and one key or None; it is mapped over time.
    """

    def step(params: Any, carry: Any, x: Any, flags: Flags) -> Any:
        return carry, keep(flags.mask, apply(params, keep(flags.mask, x), flags.key))

    def unroll(params: Any, carry: Any, xs: Any, flags: Flags) -> Any:
        axes = (None, 0, None if flags.key is None else 0)
        ys = jax.vmap(apply, axes)(params, keep(flags.mask, xs), flags.key)
        return carry, keep(flags.mask, ys)

    return Layer(init=init, initial_carry=lambda params, x: (), step_fn=step, unroll_fn=unroll, in_parts=True)


@definition
def pointwise(module: Callable, *, event_ndim: int | None = None) -> Layer:
    """A flax.linen module, or a plain function, applied to every time step of every example by itself.

    The module sees one example at one time step, so that a convolution, say, cannot mix rows of the batch or steps of
    time. Its params are cast to its own ``dtype``, or else to that of the inputs. Its `dropout` draws from the layer's
    key; a field ``deterministic`` is set by whether there is one.

    Args:
        module: a flax.linen module with params alone, or a function ``x -> y``.
        event_ndim: how many axes of the input are its own, after time and batch: by default none for integers
            (tokens), one for floats (features).

    Raises:
        TypeError: for a module with state other than params (BatchNorm), when `init` is called.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj, flax.linen as nn
        >>> head = sj.pointwise(nn.Dense(2))
        >>> head
        pointwise(module=Dense(features=2))
        >>> params = head.init(jax.random.key(0), jnp.ones((4, 3)))
        >>> head.unroll(params, (), jnp.ones((10, 4, 3)))[1].shape
        (10, 4, 2)
    """
    is_module = hasattr(module, "init") and hasattr(module, "apply")

    def one(params: Any, x: Any, key: Any) -> Any:
        """One example at one time step."""
        if not is_module:
            return module(x)
        acting: Any = module
        if hasattr(module, "deterministic"):
            acting = acting.clone(deterministic=key is None)
        leaf = jax.tree.leaves(x)[0]
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            dtype = jnp.dtype(getattr(module, "dtype", None) or leaf.dtype)
            params = cast(_spread_over_examples(params, leaf) if dtype.itemsize < 4 else params, dtype)
        return acting.apply({"params": params}, x, rngs=None if key is None else {"dropout": key})

    def batch_shape(x: Any) -> tuple[int, ...]:
        leaf = jax.tree.leaves(x)[0]
        floating = jnp.issubdtype(leaf.dtype, jnp.inexact)
        own = (1 if floating else 0) if event_ndim is None else event_ndim
        if leaf.ndim < own:
            raise ValueError(
                f"pointwise({module!r}): expected [*B, ...] with {own} axes per example, got {leaf.shape}."
            )
        return leaf.shape[: leaf.ndim - own]

    def init(key: jax.Array, x: Any) -> Any:
        if not is_module:
            return ()
        batch = len(batch_shape(x))
        example = jax.tree.map(lambda leaf: jnp.zeros_like(leaf, shape=leaf.shape[batch:]), x)
        module_: Any = module
        if hasattr(module_, "deterministic"):
            module_ = module_.clone(deterministic=True)
        variables = module_.init(key, example)
        other = sorted(set(variables) - {"params"})
        if other:
            raise TypeError(
                f"pointwise({module!r}): expected a module with params alone, got one with {', '.join(other)} as well. "
                "State over time belongs into a cell's carry; for normalisation use LayerNorm or RMSNorm."
            )
        return variables.get("params", {})

    def apply(params: Any, x: Any, key: Any) -> Any:
        shape = batch_shape(x)
        keys = None if key is None else jax.random.split(key, shape)
        fn = one
        for _ in shape:
            fn = jax.vmap(fn, (None, 0, None if keys is None else 0))
        return fn(params, x, keys)

    return stateless(init, apply)


def _spread_over_examples(params: Any, x: jax.Array) -> Any:
    """Params of one number per unit in float32, and under `jax.vmap` a copy for each x.

    What is cast to bfloat16 afterwards has gradients that add up over the copies, that is over steps and examples, in
    float32. They become copies by a condition that reads x, and never holds.
    """
    never = jnp.any(x != x) & False

    def spread(p: jax.Array) -> jax.Array:
        if p.ndim > 1 or not jnp.issubdtype(p.dtype, jnp.floating):
            return p
        p = p.astype(wide(p.dtype))
        return jnp.where(never, jnp.zeros_like(p), p)

    return jax.tree.map(spread, params)


@definition
def dropout(rate: float) -> Layer:
    r"""Independent dropout at every time step: :math:`y = x \odot m / (1 - p)`, m Bernoulli of 1 - p; none without key.

    Args:
        rate: p, the share that is dropped, 0 <= p < 1.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> layer = sj.dropout(0.5)
        >>> layer.unroll((), (), jnp.ones((1, 1, 4)), key=jax.random.key(1))[1]
        Array([[[0., 2., 0., 2.]]], dtype=float32)

    References:
        Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15.
    """
    check_within("dropout(rate)", rate)

    def apply(params: Any, x: jax.Array, key: Any) -> jax.Array:
        if key is None:
            return x
        kept = jax.random.bernoulli(key, 1 - rate, x.shape)
        return jnp.where(kept, x / (1 - rate), jnp.zeros_like(x))

    return stateless(lambda key, x: (), apply)


# ---------------------------------------------------------------- checks


def _check_length(who: str, cell: Cell, xs: Any) -> None:
    """Raise a ValueError for more steps than attention without a window has slots, under any method."""
    longest = cell.recurrence.max_length if isinstance(cell.recurrence, Attention) else None
    if longest is not None and num_steps(xs) > longest:
        raise ValueError(
            f"{who}: expected at most max_length={longest} steps, got xs {list(jax.tree.leaves(xs)[0].shape)}. "
            "Give a larger max_length, or a window."
        )


def _check_inputs(who: str, cell: Cell, params: Any, xs: Any, flags: Flags, *, time: tuple[int, ...]) -> None:
    """Raise a ValueError where inputs do not fit, from static shapes alone."""
    own = ["D"] if cell.event_ndim == 1 else [f"D{i + 1}" for i in range(cell.event_ndim)]
    letters = f"[{', '.join([*('T' for _ in time), '...', *own])}]"
    leaf, *others = jax.tree.leaves(xs)
    if leaf.ndim < len(time) + cell.event_ndim or leaf.shape[: len(time)] != time:
        raise ValueError(f"{who}: expected xs {letters}, got {list(leaf.shape)}.")
    batch = leaf.shape[: leaf.ndim - cell.event_ndim]
    for other in others:
        if other.shape[: len(batch)] != batch:
            raise ValueError(
                f"{who}: expected every part of xs to begin with {list(batch)}, as the first, {list(leaf.shape)}, "
                f"does; got {list(other.shape)}."
            )
    if isinstance(cell.project, Dense):
        w, _ = cell.project.weights(params)
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"{who}: expected floating xs {letters}, got {leaf.dtype}. Turn tokens into vectors first, for example "
                "with serial(pointwise(flax.linen.Embed(256, 64)), ...)."
            )
        if leaf.shape[-1] != w.shape[0]:
            wanted = letters.replace("D", str(w.shape[0]))
            raise ValueError(
                f"{who}: expected xs {wanted} (the input weights are {list(w.shape)}), got {list(leaf.shape)}."
            )
    else:
        try:
            x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[len(time) :], a.dtype), xs)
            jax.eval_shape(cell.project, params, x)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{who}: {error}") from error
    for name, flag in (("reset", flags.reset), ("mask", flags.mask)):
        if flag is not None and flag.shape != batch:
            raise ValueError(
                f"{who}: expected {name} {list(batch)}, as xs {list(leaf.shape)}, got {list(flag.shape)}."
            )
