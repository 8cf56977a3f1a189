"""Prepare both sides of a comparison: give them the same numbers, and check a user's function before it runs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Layer
from seqjax.compare.implementation import CONTRACT, Implementation, System, takes_params
from seqjax.compare.trees import coarser, doubled, named, rounded, same, shapes, shown, transplant
from seqjax.ops.select import cast_inexact


def prepare(a: Implementation, b: Implementation, xs: Any, seed: int) -> tuple[System, System, list[str]]:
    """Return both sides with params rounded to the coarser of the two dtypes, and remarks for the reader.

    Args:
        a: one side.
        b: the other side.
        xs: inputs ``[T, B, ...]``, NumPy.
        seed: seed of the initial params of layers.
    """
    x = jax.tree.map(lambda leaf: leaf[0], xs)
    first = _make(a, x, seed, None)
    second = _make(b, x, seed, first.params if first else None)
    first = first or _make(a, x, seed, second.params if second else None)
    if first is None or second is None:
        raise ValueError(
            f"compare: expected one build() without an argument, got {a} and {b}, which both convert the params of the "
            "other side. Make the params in one build()."
        )
    coarse = coarser(first.dtype, second.dtype)
    first, second = (each._replace(params=rounded(each.params, coarse)) for each in (first, second))
    remarks = []
    if first.is_layer and second.is_layer:
        if shapes(first.params) != shapes(second.params):
            raise ValueError(
                f"compare: expected two implementations of one function, got params {shapes(first.params)} of {a} "
                f"and {shapes(second.params)} of {b}. Compare methods, dtypes or devices of one cell."
            )
        second = second._replace(params=first.params)
    elif takes_params(a) or takes_params(b):
        remarks.append(
            "build(params) converts the params of the other side, and gradients are with respect to the latter."
        )
        if takes_params(a):
            first = first._replace(params=second.params)
        else:
            second = second._replace(params=first.params)
    elif shapes(first.params) == shapes(second.params):
        if first.is_layer or second.is_layer:
            own, given = (second, first) if first.is_layer else (first, second)
            given = given._replace(params=transplant(given.params, own.params))
            first, second = (given, own) if first.is_layer else (own, given)
        elif not same(first.params, second.params):
            remarks.append(
                "Each side made its own params, and their values differ, so the functions differ as well."
            )
    else:
        remarks.append(
            "The params of the two sides differ in structure or shape, so each side keeps its own. Both sides compute "
            "one function only if build() chose the params so. Use build(params) to convert those of the other side."
        )
    return first, second, remarks


def with_carries(a: System, b: System) -> tuple[System, System]:
    """Return both sides with an initial carry: a side without one gets that of the other side."""
    if a.initial is None and b.initial is None:
        raise ValueError(
            f"compare: expected a first carry from one side, got none from {a.name} and {b.name}. "
            "Return (params, step, carry) from build()."
        )
    return _with_carry(a, b), _with_carry(b, a)


def _with_carry(system: System, other: System) -> System:
    if system.initial is not None:
        return system

    def initial(params: Any, x: Any) -> Any:
        assert other.initial is not None
        dtype = jax.tree.leaves(x)[0].dtype
        return cast_inexact(other.initial(cast_inexact(other.params, dtype), x), dtype)

    return system._replace(initial=initial)


def check_step(system: System, carry: Any, xs: Any) -> None:
    """Raise a ValueError or TypeError where a user's step breaks the contract of `lax.scan` on these inputs."""
    if system.is_layer:
        return
    x = jax.tree.map(lambda leaf: leaf[0], xs)
    given = f"carry {shown(carry, 1)} and x {shown(x, 1)}"
    try:
        found = jax.eval_shape(system.step, cast_inexact(system.params, system.dtype), carry, x)
    except Exception as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{system.name}: step(params, carry, x) failed on {given}: {type(error).__name__}: "
            f"{first_line.rstrip('.')}. Expected {CONTRACT}."
        ) from error
    if not isinstance(found, tuple) or len(found) != 2:
        raise TypeError(f"{system.name}: expected {CONTRACT}; step returned {type(found).__name__}.")
    if shown(found[0], 1) != shown(carry, 1):
        raise ValueError(
            f"{system.name}: expected step to return a carry with the shapes and dtypes of its argument, "
            f"{shown(carry, 1)}, got {shown(found[0], 1)}. Cast inside step, or pass another dtype."
        )


def _make(implementation: Implementation, x: Any, seed: int, other: Any) -> System | None:
    """Return the system of one side; None where its build needs params that are not known yet."""
    made, name = implementation.make, str(implementation)
    converts = takes_params(implementation)
    if converts and other is None:
        return None
    if not isinstance(made, Layer):
        with jax.enable_x64(implementation.dtype == "float64"):
            if not converts:
                made = made()
                is_layer = isinstance(made, Layer)
                return _layer(implementation, made, x, seed) if is_layer else _own(implementation, made)
            given = cast_inexact(other, implementation.dtype or "float32")
            try:
                jax.eval_shape(lambda params: _checked(name, made(params))[0], given)
            except jax.errors.JAXTypeError as error:
                raise TypeError(
                    f"{name}: build(params) must convert params with jax.numpy, since gradients are taken through it; "
                    f"it failed: {str(error).splitlines()[0]}"
                ) from error
            dtype = implementation.dtype or "float32"
            return _system(implementation, other, lambda params: made(params), len(made(given)) == 3, dtype)
    return _layer(implementation, made, x, seed)


def _layer(implementation: Implementation, layer: Layer, x: Any, seed: int) -> System:
    name, dtype = str(implementation), implementation.dtype or "float32"
    if not layer.causal:
        raise TypeError(f"{name}: expected a causal layer: its step gives the reference.")
    with jax.enable_x64(False):
        params = doubled(layer.init(jax.random.key(seed), cast_inexact(x, "float32")))
    views = layer.initial_carry, layer.step, layer.unroll
    return System(name, True, params, *views, dtype, implementation.device)


def _own(implementation: Implementation, made: Any) -> System:
    """Return the system of a ``build()`` that makes its own params."""
    name = str(implementation)
    params, step, *carry = _checked(name, made)
    floating = {path: a for path, a in named(params).items() if jnp.issubdtype(a.dtype, jnp.floating)}
    dtypes = {path: a.dtype.name for path, a in floating.items()}
    if implementation.dtype is None and len(set(dtypes.values())) > 1:
        listed = ", ".join(f"{path} {dtype}" for path, dtype in dtypes.items())
        raise ValueError(
            f"{name}: expected params of one dtype, got mixed dtypes: {listed}. Pass dtype=... to choose one."
        )
    dtype = implementation.dtype or next(iter(dtypes.values()), "float32")
    return _system(implementation, params, lambda params: (params, step, *carry), bool(carry), dtype)


def _system(
    implementation: Implementation, params: Any, build: Callable, has_carry: bool, dtype: str
) -> System:
    """Return the system of ``build(params) -> (params, step[, carry])``: mapped over the batch, scanned over time."""

    def step(params: Any, carry: Any, x: Any) -> Any:
        own, one_step = build(params)[:2]
        return jax.vmap(one_step, (None, 0, 0))(own, carry, x)

    def unroll(params: Any, carry: Any, xs: Any) -> Any:
        own, one_step = build(params)[:2]
        batched = jax.vmap(one_step, (None, 0, 0))
        return jax.lax.scan(lambda carry, x: batched(own, carry, x), carry, xs)

    def initial(params: Any, x: Any) -> Any:
        own, _, carry = build(params)
        leaf = jax.tree.leaves(x)[0]
        one = carry(own, jax.tree.map(lambda leaf: leaf[0], x)) if callable(carry) else carry
        one = cast_inexact(one, leaf.dtype)
        return jax.tree.map(lambda c: jnp.broadcast_to(c, (leaf.shape[0], *jnp.shape(c))), one)

    views = initial if has_carry else None, step, unroll
    return System(str(implementation), False, doubled(params), *views, dtype, implementation.device)


def _checked(name: str, made: Any) -> tuple:
    """Return the result of build, and raise a TypeError if it breaks the contract."""
    if isinstance(made, tuple) and len(made) in (2, 3) and callable(made[1]):
        return made
    parts = ", ".join(type(part).__name__ for part in made) if isinstance(made, tuple) else ""
    raise TypeError(
        f"{name}: expected {CONTRACT}; build() returned {f'({parts})' if parts else type(made).__name__}."
    )
