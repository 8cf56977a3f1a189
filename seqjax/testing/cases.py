"""Random inputs for a layer, the compiled programs that the checks share, and comparisons of results.

Inputs and results are NumPy arrays: slicing or comparing JAX arrays would compile a program per operation and shape,
which took a third of the time of the checks.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Layer
from seqjax.ops.vectors import Floating

LENGTH = 13
RTOL = 1e-10


class Case(NamedTuple):
    """A layer with float64 params and random inputs, a non-zero carry, resets and masks; one row is all masked."""

    layer: Layer
    params: Any
    initial: Any
    carry: Any
    xs: Any
    weights: Any
    reset: np.ndarray
    mask: np.ndarray

    @property
    def never(self) -> np.ndarray:
        """Flags ``[T, B]`` without a reset."""
        return np.zeros_like(self.reset)

    @property
    def always(self) -> np.ndarray:
        """A mask ``[T, B]`` with every step."""
        return np.ones_like(self.mask)

    def run(self, *, xs: Any = None, reset: Any = None, mask: Any = None) -> "tuple[Outcome, Gradients]":
        """Return the outcome and the gradients of a compiled unroll; without flags, no reset and every step."""
        xs, reset = self.xs if xs is None else xs, self.never if reset is None else reset
        mask = self.always if mask is None else mask
        return run(unrolled(self.layer), self.params, self.carry, xs, reset, mask, self.weights)


class Outcome(NamedTuple):
    """Final carry and outputs."""

    carry: Any
    ys: Any


class Gradients(NamedTuple):
    """The gradients of the weighted sum of an `Outcome`."""

    params: Any
    carry: Any
    xs: Any


def run(program: Callable, *args: Any, **options: Any) -> Any:
    """Run a compiled program and return its results as NumPy arrays."""
    return jax.device_get(program(*args, **options))


@functools.lru_cache(maxsize=32)
def _cached_case(layer: Layer, treedef: Any, leaves: tuple, seed: int) -> Case:
    x = jax.tree.unflatten(treedef, [np.zeros(shape, dtype) for shape, dtype in leaves])
    random = np.random.default_rng(seed)
    batch = leaves[0][0][0]

    xs = _inputs(treedef, leaves, random)
    first = jax.tree.map(lambda a: a[0], xs)
    # The key is an argument, so that all keys share one program, in the compilation cache too.
    params = run(initialized(layer), jax.random.key(3), x)
    # Move the params away from their initial values, where biases are zero and symmetries hide errors.
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, jnp.float64), params)
    noise = random_like(shapes, seed + 1)
    params = jax.tree.map(lambda p, d: np.asarray(np.asarray(p, np.float64) + 0.1 * d), params, noise)
    initial = run(jax.jit(layer.initial_carry), params, first)
    carry = initial
    if not all(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(initial)):
        # Integers (positions) cannot be random; a few steps make them consistent with the rest of the carry.
        carry = run(compiled(layer), params, initial, jax.tree.map(lambda a: a[:3], xs))[0]

    def moved(leaf: np.ndarray, noise: np.ndarray) -> np.ndarray:
        # Counts and normalizers in a carry are positive.
        added = 0.5 * np.abs(noise) if jnp.issubdtype(leaf.dtype, jnp.floating) else noise
        return np.asarray(leaf + added, leaf.dtype)

    carry = jax.tree.map(moved, carry, random_like(carry, seed + 2))
    after, ys = jax.eval_shape(compiled(layer), params, carry, xs)
    weights = Outcome(random_like(after, seed + 3), random_like(ys, seed + 4))
    reset = random.random((LENGTH, batch)) < 0.2
    # Each row has the same number of steps, so that single rows share a program; the last row has none.
    mask = np.argsort(random.random((LENGTH, batch)), 0) < LENGTH - 4
    mask[:, 0] = np.arange(LENGTH) < LENGTH - 4
    mask[:, -1] = False
    return Case(layer, params, initial, carry, xs, weights, reset, mask)


def _inputs(treedef: Any, leaves: tuple, random: np.random.Generator) -> Any:
    """Return sequences of inputs: normal numbers, or zeros and ones for integers."""

    def draw(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        integer = jnp.issubdtype(dtype, jnp.integer)
        drawn = random.integers(0, 2, (LENGTH, *shape)) if integer else random.normal(size=(LENGTH, *shape))
        return np.asarray(drawn, dtype if integer else np.float64)

    return jax.tree.unflatten(treedef, [draw(*leaf) for leaf in leaves])


def make_case(layer: Layer, x: Any, seed: int = 0) -> Case:
    """Return the inputs that the checks of a layer share."""
    if not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        remedy = 'call jax.config.update("jax_enable_x64", True) first'
        raise ValueError(f"seqjax.testing: expected float64; {remedy}.")
    leaves, treedef = jax.tree.flatten(x)
    return _cached_case(layer, treedef, tuple((leaf.shape, leaf.dtype) for leaf in leaves), seed)


def other_inputs(x: Any) -> Any:
    """Return inputs ``xs`` of the form in `make_case`, with other numbers."""
    leaves, treedef = jax.tree.flatten(x)
    return _inputs(treedef, tuple((leaf.shape, leaf.dtype) for leaf in leaves), np.random.default_rng(1))


@functools.lru_cache(maxsize=32)
def initialized(layer: Layer) -> Callable:
    """Return the layer's init, compiled once per shape."""
    return jax.jit(layer.init)


@functools.lru_cache(maxsize=32)
def compiled(layer: Layer) -> Callable:
    """Return the layer's unroll, compiled once per shape."""
    return jax.jit(layer.unroll)


@functools.lru_cache(maxsize=32)
def stepped(layer: Layer) -> Callable:
    """Return the layer's step, compiled once per shape."""
    return jax.jit(layer.step)


@functools.lru_cache(maxsize=32)
def unrolled(layer: Layer) -> Callable:
    """Return ``(params, carry, xs, reset, mask, weights) -> (Outcome, Gradients)`` of the layer's unroll, compiled."""
    return jax.jit(functools.partial(_outcome_and_gradients, layer.unroll))


@functools.lru_cache(maxsize=32)
def looped(layer: Layer) -> Callable:
    """Return the function of `unrolled` for a scan of the layer's step."""

    def unroll(params: Any, carry: Any, xs: Any, *, reset: Any, mask: Any) -> Any:
        def body(carry: Any, inputs: Any) -> Any:
            x, reset, mask = inputs
            return layer.step(params, carry, x, reset=reset, mask=mask)

        return jax.lax.scan(body, carry, (xs, reset, mask))

    return jax.jit(functools.partial(_outcome_and_gradients, unroll))


@functools.lru_cache(maxsize=32)
def keyed(layer: Layer) -> Callable:
    """Return ``(params, carry, xs, key) -> (ys, ys)``: the unroll's outputs, and those of a scan of the step."""

    def both(params: Any, carry: Any, xs: Any, key: jax.Array) -> tuple[Any, Any]:
        def body(carry: Any, inputs: Any) -> Any:
            x, t = inputs
            return layer.step(params, carry, x, key=jax.random.fold_in(key, t))

        times = jnp.arange(len(jax.tree.leaves(xs)[0]))
        return layer.unroll(params, carry, xs, key=key)[1], jax.lax.scan(body, carry, (xs, times))[1]

    return jax.jit(both)


def loop_by_hand(layer: Layer, params: Any, carry: Any, xs: Any) -> Outcome:
    """Run the layer's step in a Python loop, without flags."""
    step, ys = stepped(layer), []
    for t in range(LENGTH):
        carry, y = step(params, carry, jax.tree.map(lambda a, t=t: a[t], xs))
        ys.append(jax.device_get(y))
    return Outcome(jax.device_get(carry), jax.tree.map(lambda *a: np.stack(a), *ys))


def weighted_loss(
    unroll: Callable, params: Any, carry: Any, xs: Any, reset: Any, mask: Any, weights: Outcome
) -> jax.Array:
    """Return the loss whose gradients `unrolled` computes."""
    return _weighted(Outcome(*unroll(params, carry, xs, reset=reset, mask=mask)), weights)


def _outcome_and_gradients(
    unroll: Callable, params: Any, carry: Any, xs: Any, reset: Any, mask: Any, weights: Outcome
) -> tuple[Outcome, Gradients]:
    floating = Floating(xs)

    def loss(params: Any, carry: Any, some: Any) -> tuple[jax.Array, Outcome]:
        outcome = Outcome(*unroll(params, carry, floating.with_leaves(some), reset=reset, mask=mask))
        return _weighted(outcome, weights), outcome

    grad = jax.grad(loss, (0, 1, 2), has_aux=True, allow_int=True)
    gradients, outcome = grad(params, carry, floating.leaves)
    return outcome, Gradients(*gradients)


def _weighted(outcome: Outcome, weights: Outcome) -> jax.Array:
    """Return a loss that is nonlinear in the outputs, so that second derivatives by them count too."""
    terms = [
        jnp.sum(jnp.real(w * a) + 0.5 * jnp.abs(w) * jnp.real(a * jnp.conj(a)))
        for w, a in zip(jax.tree.leaves(weights), jax.tree.leaves(outcome), strict=True)
        if jnp.issubdtype(a.dtype, jnp.inexact)
    ]
    return sum(terms[1:], terms[0])


def random_like(tree: Any, seed: int) -> Any:
    """Return standard normal numbers in the shapes and dtypes of a tree, NumPy arrays; zeros for integers."""
    random = np.random.default_rng(seed)

    def draw(a: Any) -> np.ndarray:
        if not jnp.issubdtype(a.dtype, jnp.inexact):
            return np.zeros(a.shape, a.dtype)
        complex_part = 1j * random.normal(size=a.shape) if jnp.iscomplexobj(a) else 0
        return np.asarray(random.normal(size=a.shape) + complex_part, a.dtype)

    return jax.tree.map(draw, tree)


def form(tree: Any) -> list:
    """Return names, shapes and dtypes of a tree's leaves."""
    return [(jax.tree_util.keystr(p), a.shape, a.dtype) for p, a in jax.tree_util.tree_leaves_with_path(tree)]


def assert_true(check: str, layer: Layer, holds: Any, found: Any) -> None:
    """Raise an AssertionError unless the condition holds."""
    if not holds:
        raise AssertionError(f"{check}: {layer!r}: {found}")


def assert_close(check: str, layer: Layer, found: Any, expected: Any, rtol: float = RTOL) -> None:
    """Raise an AssertionError unless each leaf is finite and within rtol of the expected leaf's largest entry."""
    paths = jax.tree_util.tree_leaves_with_path(found)
    for (path, a), b in zip(paths, jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        if a.dtype.names or a.dtype == jax.dtypes.float0:
            continue
        if a.dtype == bool:
            a, b = a.astype(int), b.astype(int)
        scale = max(1.0, float(np.max(np.abs(b), initial=0)))
        error = float(np.max(np.abs(a - b), initial=0)) if a.shape == b.shape else np.inf
        if not error <= rtol * scale:
            raise AssertionError(
                f"{check}: {layer!r}: result{jax.tree_util.keystr(path)} differs by {error:.3g}, "
                f"allowed {rtol * scale:.3g}."
            )
