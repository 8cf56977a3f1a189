"""Binomial checkpointing: the backward pass of a loop with s stored carries and the fewest recomputed steps.

`schedule` makes the plan and `reversed_loop` executes it. Each pass is one ``lax.scan``, so the compiled program
contains the step three times (forward, recomputed, taped), whatever T and s are.
"""

import functools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Carry, Params, X
from seqjax.ops.select import wide
from seqjax.ops.vectors import Floating


class Action(NamedTuple):
    """One step of a plan.

    First load the carry from slot ``load``, unless ``load`` is -1. Then run step ``step``: forward, or forward and
    backward if ``taped``. After a forward step, store the carry in slot ``store``, unless ``store`` is -1.
    """

    taped: bool
    step: int
    load: int
    store: int


@functools.lru_cache(maxsize=64)
def schedule(num_steps: int, slots: int) -> tuple[Action, ...]:
    r"""Return the plan with the fewest forward steps that reverses T steps with s slots; slot 0 has the first carry.

    The taped steps run in the order T-1, ..., 0. The number of forward steps is

    .. math::
        r T - \binom{s+r}{s+1}, \qquad r = \min\{r : \binom{s+r}{s} \ge T\}

    The first T - 1 of these form the first sweep, which precedes the first taped step. A range of l steps is split
    after m steps: store the carry there, reverse the last l - m steps with s - 1 slots, then the first m steps with s
    slots. The split is optimal if m steps need r - 2 or r - 1 sweeps with s slots, and l - m steps need r - 1 or r
    sweeps with s - 1 slots: :math:`\binom{s+r-2}{s} \le m \le \binom{s+r-1}{s}` and
    :math:`\binom{s+r-2}{s-1} \le l - m \le \binom{s+r-1}{s-1}`.

    Example:
        >>> from seqjax.ops.revolve import schedule
        >>> [len([a for a in schedule(1000, s) if not a.taped]) for s in (10, 20, 32)]
        [3636, 2747, 2405]

    References:
        Griewank, Walther 2000, "Algorithm 799: Revolve", ACM Trans. Mathematical Software 26: eq. 1-3 and theorem 6.1.
    """
    actions: list[Action] = []

    def forward(begin: int, count: int, load: int, store: int) -> None:
        for i in range(count):
            actions.append(Action(False, begin + i, load if i == 0 else -1, store if i == count - 1 else -1))

    # A stack of ranges (begin, length, slot of the carry at begin) replaces the recursion.
    pending = [(0, num_steps, 0)] if num_steps else []
    while pending:
        begin, length, slot = pending.pop()
        free = slots - slot
        if length == 1:
            actions.append(Action(True, begin, slot, -1))
        elif free == 1:
            for last in reversed(range(length)):
                forward(begin, last, slot, -1)
                actions.append(Action(True, begin + last, -1 if last else slot, -1))
        else:
            split = _split(length, free)
            forward(begin, split, slot, slot + 1)
            pending.append((begin, split, slot))
            pending.append((begin + split, length - split, slot + 1))
    return tuple(actions)


def fewest_forward_steps(num_steps: int, slots: int) -> int:
    """Return the number of forward steps, by the closed form in `schedule`."""
    sweeps = _sweeps(num_steps, slots)
    return sweeps * num_steps - math.comb(slots + sweeps, slots + 1)


def _sweeps(length: int, slots: int) -> int:
    sweeps = 0
    while math.comb(slots + sweeps, slots) < length:
        sweeps += 1
    return sweeps


def _split(length: int, slots: int) -> int:
    sweeps = _sweeps(length, slots)
    least = math.comb(slots + sweeps - 2, slots) if sweeps > 1 else 0
    return max(1, least, length - math.comb(slots + sweeps - 1, slots - 1))


def reversed_loop(
    step: Callable[[Any, Any, Any], tuple[Any, Any]], params: Params, carry: Carry, inputs: Any, slots: int
) -> tuple[Any, Any]:
    r"""Run ``step: (params, carry, input) -> (carry, out)`` over the first axis of the inputs: ``(carry, outs)``.

    Values equal those of ``lax.scan``; the backward pass follows `schedule`.

    Memory: s + 2 carries and the residuals of one step, besides params, inputs, outputs and their gradients. Work: T
    forward steps (one more than the first sweep of the plan, since this pass also computes the last output), the other
    forward steps of the plan, and T taped steps. The gradient with respect to params passes through a branch at every
    action, which may copy it. Reverse mode of any order; no forward mode.

    Args:
        step: a function that differentiates only through its arguments, not through closed-over values.
        params: any pytree.
        carry: any pytree.
        inputs: leaves ``[T, ...]`` with T of at least 1. Only floating leaves of the three trees have gradients.
        slots: s.
    """
    plan = _plan(len(jax.tree.leaves(inputs)[0]), slots)

    @jax.custom_vjp
    def run(params: Params, carry: Carry, inputs: Any) -> tuple[Any, Any]:
        return jax.lax.scan(lambda c, x: step(params, c, x), carry, inputs)

    run.defvjp(partial(_forward, step, plan), partial(_backward, step, plan))
    return run(params, carry, inputs)


class _Plan(NamedTuple):
    """A schedule as arrays.

    `store_before`: for each step t, the slot that stores the carry entering t in the first sweep. `actions`: the
    actions after the first sweep. A slot index of `slots` is out of range, so the write is dropped.
    """

    num_steps: int
    slots: int
    store_before: np.ndarray
    actions: tuple[Action, ...]


def _plan(num_steps: int, slots: int) -> _Plan:
    actions = schedule(num_steps, slots)
    first_sweep = num_steps - 1
    store_before = np.full(num_steps, slots)
    store_before[0] = 0
    for action in actions[:first_sweep]:
        if action.store >= 0:
            store_before[action.step + 1] = action.store
    return _Plan(num_steps, slots, store_before, actions[first_sweep:])


def _forward(step: Callable, plan: _Plan, params: Params, carry: Carry, inputs: Any) -> Any:
    def body(state: Any, now: Any) -> Any:
        carry, _, buffers = state
        store, x = now
        after, out = step(params, carry, x)
        return (after, carry, _put(buffers, store, carry)), out

    buffers = jax.tree.map(lambda c: jnp.zeros((plan.slots, *c.shape), c.dtype), carry)
    (after, before, buffers), outs = jax.lax.scan(
        body, (carry, carry, buffers), (jnp.asarray(plan.store_before), inputs)
    )
    return (after, outs), (params, before, buffers, inputs)


def _backward(step: Callable, plan: _Plan, residuals: Any, cotangents: Any) -> Any:
    params, before, buffers, inputs = residuals
    of_params, of_inputs, of_carry = Floating(params), Floating(inputs), Floating(before)
    some = of_params.leaves
    d_after, d_outs = cotangents
    d_outs_floating = [d for d in jax.tree.leaves(d_outs) if d.dtype != jax.dtypes.float0]
    d_carry = [_like(d, c) for d, c in zip(of_carry.leaves_of(d_after), of_carry.leaves, strict=True)]
    # Sums over time, in at least float32.
    d_params = [jnp.zeros(p.shape, wide(p.dtype)) for p in some]
    d_inputs = [jnp.zeros_like(a) for a in of_inputs.leaves]

    def body(state: Any, action: Any) -> Any:
        working, buffers, d_carry, d_params, d_inputs = state
        taped, t, load, store = action
        loaded = _at(buffers, jnp.maximum(load, 0))
        working = jax.tree.map(lambda a, b: jnp.where(load >= 0, a, b), loaded, working)
        x = _at(inputs, t)
        of_x, of_working = Floating(x), Floating(working)

        def advance(d_carry: Any, d_params: Any) -> Any:
            after, _ = step(params, working, x)
            return after, d_carry, d_params, [jnp.zeros_like(a) for a in of_x.leaves]

        def tape(d_carry: Any, d_params: Any) -> Any:
            def floating(p: Any, c: Any, x: X) -> Any:
                after, out = step(of_params.with_leaves(p), of_working.with_leaves(c), of_x.with_leaves(x))
                return Floating(after).leaves, Floating(out).leaves

            _, pull = jax.vjp(floating, some, of_working.leaves, of_x.leaves)
            d_p, d_c, d_x = pull((d_carry, _at(d_outs_floating, t)))
            d_params = [a + b.astype(a.dtype) for a, b in zip(d_params, d_p, strict=True)]
            return working, d_c, d_params, d_x

        working, d_carry, d_params, d_x = jax.lax.cond(taped, tape, advance, d_carry, d_params)
        place = jnp.where(taped, t, plan.num_steps)
        d_inputs = [b.at[place].set(d, mode="drop") for b, d in zip(d_inputs, d_x, strict=True)]
        return (working, _put(buffers, store, working), d_carry, d_params, d_inputs), None

    taped, steps, loads, stores = (jnp.asarray(column) for column in np.asarray(plan.actions).T)
    actions = (taped.astype(bool), steps, loads, jnp.where(stores >= 0, stores, plan.slots))
    state = (before, buffers, d_carry, d_params, d_inputs)
    (_, _, d_carry, d_params, d_inputs), _ = jax.lax.scan(body, state, actions)
    d_params = [d.astype(p.dtype) for d, p in zip(d_params, some, strict=True)]
    return of_params.tree_of(d_params), of_carry.tree_of(d_carry), of_inputs.tree_of(d_inputs)


def _put(buffers: Any, slot: Any, carry: Carry) -> Any:
    return jax.tree.map(lambda b, c: b.at[slot].set(c, mode="drop"), buffers, carry)


def _at(tree: Any, i: Any) -> Any:
    return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, i, keepdims=False), tree)


def _like(cotangent: Any, leaf: Any) -> jax.Array:
    return jnp.asarray(cotangent, leaf.dtype)
