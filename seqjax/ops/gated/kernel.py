"""The two sequential loops of a `Gated` recurrence, forward and adjoint, as one GPU kernel each.

A loop in XLA starts several kernels per time step, two microseconds each, whatever they compute. Here one program of
the GPU runs all steps of one row of the batch (of one head, if the recurrent weights are block-diagonal): it loads its
recurrent weights into registers once, and keeps the carry there. Everything that is not sequential stays outside, as
for `seqjax.ops.gated.loops.Scans`: projection, partial derivatives, weight gradients.

The kernels are traced from `update` and `emit` and run the functions of the scans, `advance_by_gate` and
`adjoint_step`. Recurrent products are exact float32 sums, whatever ``jax_default_matmul_precision`` is. Values narrower
than float32 are widened inside a step; the carry is rounded after each.

Work, depth and memory are those of the scans. One prototype of the forward loop took 0.6 microseconds per step, at
B = 8 and H = 64 on an H200 (``benchmarks/results/h200/levers.md``).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seqjax.base import Gated, GatedWeights
from seqjax.ops.gated.adjoint import Layout, Partials, adjoint_step
from seqjax.ops.gated.loops import STEPS_PER_ITERATION, Scans
from seqjax.ops.gated.units import Units, units_of
from seqjax.ops.select import select, widen
from seqjax.ops.step import advance_by_gate
from seqjax.ops.triton import block, differentiated_as, on_gpu, run_programs

# The operands of the kernels that all rows of the batch share.
WEIGHTS = ("w_h", "b_h", "w")


@dataclass(frozen=True)
class Kernels:
    """Both loops as kernels, and as scans where the program is not compiled for an NVIDIA GPU.

    Attributes:
        interpret: run the kernels by Pallas' interpreter, on any device.
    """

    interpret: bool = False

    def forward(
        self,
        cell: Gated,
        weights: GatedWeights,
        carry: tuple,
        initial: tuple,
        us: Float[Array, "C N GH"],
        reset: Any,
        mask: Any,
        *,
        keep_gates: bool,
    ) -> tuple[tuple, tuple[tuple, Any]]:
        """See `Scans.forward`; the gates are not kept."""
        plain = partial(self._scans().forward, cell, keep_gates=False)
        kernel = partial(forward_kernel, cell, interpret=self.interpret)
        return self._run(kernel, plain, us.size, weights, carry, initial, us, reset, mask)

    def adjoint(
        self,
        cell: Gated,
        weights: GatedWeights,
        layout: Layout,
        totals: tuple[tuple, Any],
        partials: Partials,
        d_hs: Float[Array, "C N H"],
        reset_after: Any,
        mask: Any,
    ) -> tuple[tuple[tuple, Any], tuple]:
        """See `Scans.adjoint`."""
        plain = partial(_reordered, self._scans().adjoint, cell, layout)
        kernel = partial(_reordered, partial(adjoint_kernel, interpret=self.interpret), cell, layout)
        return self._run(kernel, plain, d_hs.size, weights, totals, partials, d_hs, reset_after, mask)

    def _scans(self) -> Scans:
        return Scans(1 if self.interpret else STEPS_PER_ITERATION)  # unrolled loops take long to compile

    def _run(self, kernel: Any, plain: Any, size: int, *args: Any) -> Any:
        if size == 0:
            return plain(*args)
        if self.interpret:
            return differentiated_as(plain, kernel)(*args)
        return differentiated_as(plain, partial(on_gpu, kernel, plain))(*args)


def _reordered(adjoint: Any, cell: Gated, layout: Layout, weights: GatedWeights, *rest: Any) -> Any:
    return adjoint(cell, weights, layout, *rest)


def forward_kernel(
    cell: Gated,
    weights: GatedWeights,
    carry: tuple,
    initial: tuple,
    us: Float[Array, "C N GH"],
    reset: Any,
    mask: Any,
    *,
    interpret: bool,
) -> tuple[tuple, tuple[tuple, Any]]:
    """Run the forward loop as one kernel; see `Scans.forward`."""
    num_gates, (length, batch, _) = len(cell.activations), us.shape
    size = carry[-1].shape[-1]
    units = units_of(weights, num_gates, size)

    def by_gate(array: jax.Array) -> jax.Array:
        return units.split(array.reshape(*array.shape[:-1], num_gates, size))

    operands = {
        "w_h": units.by_gate(weights.w_h, num_gates),
        "b_h": None if weights.b_h is None else jnp.moveaxis(by_gate(weights.b_h), 1, 0),
        "w": jax.tree.map(lambda a: units.split(jnp.broadcast_to(a, size)), weights.w),
        "us": by_gate(us),
        "carry": jax.tree.map(units.split, carry),
        "initial": None if reset is None else jax.tree.map(units.split, initial),
        "reset": _flags(reset),
        "mask": _flags(mask),
    }
    history = tuple(
        jax.ShapeDtypeStruct((length, batch, units.programs, units.width), leaf.dtype) for leaf in carry
    )

    def kernel(refs: dict, results: tuple) -> None:
        w_h = _weights(refs["w_h"], units, num_gates)
        b_h = None if refs["b_h"] is None else widen([refs["b_h"][g][None] for g in range(num_gates)])
        w = jax.tree.map(lambda ref: widen(ref[...])[None], refs["w"])
        initial = widen(_load(refs["initial"]))

        def load(t: Any) -> list:
            return [refs["us"][t, :, g] for g in range(num_gates)]

        def body(t: Any, state: tuple) -> tuple:
            carry, us = state
            following = load(jnp.minimum(t + 1, length - 1))  # the memory answers during this step
            before = widen(carry)
            if refs["reset"] is not None:
                before = select(refs["reset"][t] != 0, initial, before)
            rs = _products(units, before[-1], w_h())
            if b_h is not None:
                rs = [r + b for r, b in zip(rs, b_h, strict=True)]
            states = before if cell.emit is None else before[:-1]
            after, _ = advance_by_gate(cell, w, states, widen(us), rs)
            if refs["mask"] is not None:
                after = select(refs["mask"][t] != 0, after, before)
            after = tuple(a.astype(c.dtype) for a, c in zip(after, carry, strict=True))
            for result, leaf in zip(results, after, strict=True):
                result[t] = leaf
            return after, following

        jax.lax.fori_loop(0, length, body, (_load(refs["carry"]), load(0)))

    found = run_programs(
        kernel,
        (batch, units.programs),
        operands,
        history,
        (_blocks(operands), _blocks(history)),
        warps=units.plan.warps,
        interpret=interpret,
        name="gated_forward",
    )
    found = tuple(units.join(leaf, size) for leaf in found)
    return tuple(leaf[-1] for leaf in found), (found, None)


def adjoint_kernel(
    cell: Gated,
    weights: GatedWeights,
    layout: Layout,
    totals: tuple[tuple, Any],
    partials: Partials,
    d_hs: Float[Array, "C N H"],
    reset_after: Any,
    mask: Any,
    *,
    interpret: bool,
) -> tuple[tuple[tuple, Any], tuple]:
    """Run the adjoint loop as one kernel; see `Scans.adjoint`."""
    num_gates, (length, batch, size) = layout.gates, d_hs.shape
    units = units_of(weights, num_gates, size)
    operands = {
        "w_h": units.by_gate(weights.w_h, num_gates, transposed=True),
        "inputs": jax.tree.map(units.split, (partials, d_hs)),
        "totals": jax.tree.map(units.split, totals),
        "reset_after": _flags(reset_after),
        "mask": _flags(mask),
    }

    def like(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*shape, units.programs, units.width), d_hs.dtype)

    counts = (layout.split, layout.gates, layout.states, layout.h, layout.carry)
    results = {
        "blocks": [like(length, batch, count) if count else None for count in counts],
        "totals": jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), operands["totals"]),
    }

    def kernel(refs: dict, results: dict) -> None:
        w_h = _weights(refs["w_h"], units, num_gates)

        def load(t: Any) -> Any:
            return jax.tree.map(lambda ref: ref[t], refs["inputs"])

        def body(step: Any, state: tuple) -> tuple:
            totals, loaded = state
            t = length - 1 - step
            following = load(jnp.maximum(t - 1, 0))
            flags = (None if refs[name] is None else refs[name][t] != 0 for name in ("reset_after", "mask"))
            pull_back = partial(_pull_back, units, w_h())
            totals, found = adjoint_step(cell, pull_back, totals, (*widen(loaded), *flags))
            kinds = (found.u, found.r, found.states, [found.h], found.entering)
            for result, arrays in zip(results["blocks"], kinds, strict=True):
                if result is not None:
                    for i, array in enumerate(arrays):
                        result[t, :, i] = array.astype(result.dtype)
            return totals, following

        totals, _ = jax.lax.fori_loop(0, length, body, (widen(_load(refs["totals"])), load(length - 1)))
        jax.tree.map(_store, results["totals"], totals)

    found = run_programs(
        kernel,
        (batch, units.programs),
        operands,
        results,
        (_blocks(operands), _blocks(results)),
        warps=units.plan.warps,
        interpret=interpret,
        name="gated_adjoint",
    )
    d_us, d_rs, d_states, d_h, d_entering = (
        None if a is None else units.join(a, size) for a in found["blocks"]
    )

    def flat(array: Any) -> Any:
        return None if array is None else array.reshape(length, batch, -1)

    def apart(array: Any) -> list:
        return [] if array is None else [array[:, :, i] for i in range(array.shape[2])]

    totals = jax.tree.map(lambda a: units.join(a, size), found["totals"])
    return totals, (flat(d_us), flat(d_rs), apart(d_states), flat(d_h), apart(d_entering))


def _blocks(arrays: Any) -> Any:
    """Return which part of each array the program of a row and a head sees; weights are under names of their own.

    Carries are ``[N, P, W]``, sequences ``[C, N, ..., P, W]`` and flags ``[C, N]``.
    """

    def one(path: tuple, array: Any) -> Any:
        if getattr(path[0], "key", None) in WEIGHTS:
            return block(array.shape, one={0: 1})
        heads = {} if array.ndim == 2 else {array.ndim - 2: 1}
        return block(array.shape, one=heads, row=0 if array.ndim == 3 else 1)

    return jax.tree_util.tree_map_with_path(one, arrays)


def _weights(ref: Any, units: Units, num_gates: int) -> Any:
    """Return a function that returns the weights of each gate: some held in registers, the others read at each call."""
    held = [ref[g] for g in range(min(num_gates, units.plan.gates_held))]
    return lambda: [*held, *(ref[g] for g in range(len(held), num_gates))]


def _products(units: Units, h: Float[Array, "1 W"], w_h: list) -> list:
    """Return the recurrent product of each gate, ``[1, W]``."""
    if units.diagonal:
        return [h * w[None].astype(h.dtype) for w in w_h]
    if units.size < units.width:  # units that only fill up may hold NaN, such as 0 / 0
        h = jnp.where(jax.lax.broadcasted_iota(jnp.int32, h.shape, 1) < units.size, h, 0)
    return [jnp.sum(h[:, :, None] * w[None].astype(h.dtype), axis=1) for w in w_h]


def _pull_back(units: Units, w_h: list, d_r: list) -> Float[Array, "1 W"]:
    """Return the transpose of `_products`, with one sum for all gates."""
    if units.diagonal:
        terms = [d * w[None].astype(d.dtype) for d, w in zip(d_r, w_h, strict=True)]
        return sum(terms[1:], terms[0])
    terms = [d[:, :, None] * w[None].astype(d.dtype) for d, w in zip(d_r, w_h, strict=True)]
    return jnp.sum(sum(terms[1:], terms[0]), axis=1)


def _flags(flags: Any) -> Any:
    """Return flags as bytes, which a kernel can load."""
    return None if flags is None else flags.astype(jnp.int8)


def _load(refs: Any) -> Any:
    return jax.tree.map(lambda ref: ref[...], refs)


def _store(ref: Any, array: jax.Array) -> None:
    ref[...] = array.astype(ref.dtype)
