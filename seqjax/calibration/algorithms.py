"""Checks of exact algorithms: checkpoints, adjoints, methods, Newton's iterations (C25, C28)."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Cell, Method
from seqjax.calibration.base import Check, Values, roundings
from seqjax.calibration.exact import gaussian, orthogonal
from seqjax.cells.elman import ElmanCarry, ElmanParams, elman
from seqjax.cells.gru import gru
from seqjax.cells.lru import lru
from seqjax.layers.recurrent import recurrent
from seqjax.methods import AssociativeScan, Chunked, Scan
from seqjax.ops import revolve
from seqjax.probes.bound import bind
from seqjax.probes.parallel import Parallelizability, parallelizability

SLOTS = (10, 20, 32)
# The first method runs reverse mode, possibly with a custom derivative; the second runs forward mode of the loop.
KINDS: tuple[tuple[Cell, Method, Method], ...] = (
    (gru(2), Scan(), Scan(gradient="autodiff")),
    (lru(2), AssociativeScan(), Scan(gradient="autodiff")),
)


def revolve_advances(dtype: Any) -> Values:
    """Count the steps that the schedule runs forward without a tape."""

    def closed_form(num_steps: int, slots: int) -> int:
        repeats = next(r for r in range(num_steps) if math.comb(slots + r, slots) >= num_steps)
        return repeats * num_steps - math.comb(slots + repeats, slots + 1)

    measured = [sum(not action.taped for action in revolve.schedule(1000, slots)) for slots in SLOTS]
    return Values([closed_form(1000, slots) for slots in SLOTS], measured)


def adjointness(dtype: Any) -> Values:
    r"""Compare :math:`\langle Jv, w\rangle` (forward mode) with :math:`\langle v, J^\top w\rangle` (reverse mode)."""
    forward, reverse = [], []
    for number, (cell, by_hand, autodiff) in enumerate(KINDS):
        xs = jnp.asarray(gaussian(number, 6, 2, 3), dtype)
        params = jax.tree.map(lambda p: p.astype(dtype), jax.jit(cell.init)(jax.random.key(number), xs[0]))

        def outputs(method: Method, params: Any, xs: Any, cell: Cell = cell) -> Any:
            return recurrent(cell, method).unroll(params, cell.initial_carry(params, xs[0]), xs)[1]

        @jax.jit
        def products(params: Any, xs: Any, of: Any = outputs, pair: Any = (by_hand, autodiff)) -> Any:
            v = _gaussian_like((params, xs), 7)
            ys, jv = jax.jvp(functools.partial(of, pair[1]), (params, xs), v)
            w = _gaussian_like(ys, 8)
            _, pull = jax.vjp(functools.partial(of, pair[0]), params, xs)
            scale = _dot(jv, jv) ** 0.5 * _dot(w, w) ** 0.5
            return _dot(jv, w) / scale, _dot(v, pull(w)) / scale

        one, other = products(params, xs)
        forward.append(float(one))
        reverse.append(float(other))
    return Values(forward, reverse)


def _gaussian_like(tree: Any, seed: int) -> Any:
    leaves, treedef = jax.tree.flatten(tree)
    drawn = [jnp.asarray(gaussian(seed + i, *leaf.shape), leaf.dtype) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(treedef, drawn)


def _dot(a: Any, b: Any) -> jax.Array:
    products = [jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)]
    return sum(products[1:], products[0])


LENGTH = 1024


def methods_agree(dtype: Any) -> Values:
    """Compare an LRU in parallel over time with the loop: outputs and input gradients, over the largest entry."""
    cell = lru(4, r_max=0.99, param_dtype=dtype)
    xs = jnp.asarray(gaussian(0, LENGTH, 1, 4), dtype)
    params = jax.jit(cell.init)(jax.random.key(0), xs[0])
    weights = jnp.asarray(gaussian(1, LENGTH, 1, 4), dtype)

    def run(method: Method) -> list[np.ndarray]:
        def loss(xs: Any) -> Any:
            ys = recurrent(cell, method).unroll(params, cell.initial_carry(params, xs[0]), xs)[1]
            return jnp.sum(weights * ys), ys

        gradient, ys = jax.jit(jax.grad(loss, has_aux=True))(xs)
        return [np.asarray(ys, np.float64), np.asarray(gradient, np.float64)]

    exact = run(Scan())
    errors = [
        np.max(np.abs(a - b)) / np.max(np.abs(b))
        for method in (AssociativeScan(), Chunked(64))
        for a, b in zip(run(method), exact, strict=True)
    ]
    return Values(np.zeros(len(errors)), errors)


def newton_on_a_linear_cell(dtype: Any) -> Values:
    """Count the iterations of Newton's method on a linear cell."""
    return Values(1, _newton(elman(4, activation="identity"), 0.9, dtype).iterations[0])


def newton_on_a_chaotic_cell(dtype: Any) -> Values:
    """Count the iterations beyond T; infinite without convergence."""
    found = _newton(elman(4), 3.0, dtype)
    excess = max(int(found.iterations[0]) - int(found.lengths[0]), 0)
    return Values(0, excess if found.converged[0] else math.inf)


def _newton(cell: Cell, gain: float, dtype: Any) -> Parallelizability:
    w_h = gain * orthogonal(0, 4)
    params = ElmanParams(*(jnp.asarray(a, dtype) for a in (gaussian(1, 2, 4), w_h, gaussian(2, 4))))
    xs = jnp.asarray(gaussian(3, 32, 1, 2), dtype)
    carry = ElmanCarry(jnp.zeros((1, 4), dtype))
    return parallelizability(bind(recurrent(cell), params), xs, carry=carry)


CHECKS = (
    Check("C25", "Revolve: forward steps for T=1000 and s=10, 20, 32 slots", revolve_advances, 0, 0),
    # Both are sums of some hundred products of numbers after 6 steps.
    Check("C28", "<Jv, w> = <v, J'w>: GRU, LRU", adjointness, 1e-13, 1e-4),
    # One rounding at each of the log2 T = 10 levels of the prefix sum, and as many in the loop.
    Check(
        "C28",
        f"LRU: associative and chunked against sequential, T={LENGTH}, eps log2 T",
        methods_agree,
        *roundings(2 * math.log2(LENGTH)),
    ),
    Check("C28", "Newton on a linear cell: iterations", newton_on_a_linear_cell, 0, 0),
    Check("C28", "Newton on a chaotic cell: iterations beyond T", newton_on_a_chaotic_cell, 0, 0),
)
