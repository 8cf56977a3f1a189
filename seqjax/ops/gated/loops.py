"""The two sequential loops of a `Gated` recurrence, forward and adjoint, by ``jax.lax.scan``."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from seqjax.base import Gated, GatedWeights
from seqjax.ops.gated.adjoint import Layout, Partials, adjoint_step, pull_back_product
from seqjax.ops.gated.step import advance, arguments_of, gates_of, recurrent
from seqjax.ops.select import select

STEPS_PER_ITERATION = 8
"""On a GPU, of 2, 4, 8 and 16 the least that is near the fastest (``benchmarks/results/h200/levers.md``)."""


@dataclass(frozen=True)
class Scans:
    """Both loops as scans.

    Attributes:
        unroll: steps per iteration of the compiled loops. On a GPU more steps per iteration mean fewer kernels per
            step, since an iteration writes its results at once.
    """

    unroll: int = 1

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
        """Return the carry after the chunk, and ``(history, gates)``.

        The history has the leaves of the carry after every step, ``[C, N, H]`` each. The gates are the block of
        `gates_of` for every step, or None.
        """

        def body(carry: tuple, inputs: Any) -> tuple[tuple, tuple]:
            u, reset, mask = inputs
            carry = select(reset, initial, carry)
            gates = gates_of(cell, u, recurrent(cell, weights, carry[-1]))
            after = advance(cell, weights, carry, *arguments_of(cell, gates))
            after = after if mask is None else select(mask, after, carry)
            return after, (after, gates if keep_gates else None)

        return jax.lax.scan(body, carry, (us, reset, mask), unroll=self.unroll)

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
        """Run `adjoint_step` from the last step to the first; return the totals and what `Layout.unpack` returns."""
        pull_back = pull_back_product(weights, layout.gates, totals[0][-1])

        def body(totals: Any, inputs: Any) -> tuple[Any, jax.Array]:
            totals, found = adjoint_step(cell, pull_back, totals, inputs)
            return totals, jnp.concatenate(layout.blocks(found), -1)

        inputs = (partials, d_hs, reset_after, mask)
        totals, stacked = jax.lax.scan(body, totals, inputs, reverse=True, unroll=self.unroll)
        return totals, layout.unpack(stacked)
