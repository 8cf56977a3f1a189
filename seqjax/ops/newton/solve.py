r"""Newton's method for a nonlinear recurrence: the solution for all time steps in parallel, and the backward pass.

The states :math:`s_t = F_t(s_{t-1})` are the root of the residual :math:`r_t = F_t(s_{t-1}) - s_t`. From a guess of the
whole trajectory, each iteration linearizes all steps in parallel and solves a linear recurrence
(`seqjax.ops.newton.linear`):

.. math::
    \delta_t &= A_t \, \delta_{t-1} + r_t, \qquad A_t \approx F_t'(s_{t-1}), \quad \delta_{-1} = 0 \\
    s_t &\leftarrow F_t(s_{t-1}) + A_t \, \delta_{t-1}

:math:`F_t` includes the flags. A reset step starts from `initial`, by selection, so the recurrence restarts there. A
masked step is the identity, with :math:`A_t = I`. With exact Jacobians convergence is quadratic, and a linear
recurrence needs one iteration. With any A the first k steps are exact after k iterations, because the update is
:math:`F_t` itself where :math:`\delta_{t-1} = 0`. So T iterations always suffice. An entry whose update is not finite
becomes :math:`F_t(s_{t-1})`, which preserves this bound.

**Convergence.** An entry has converged if :math:`|r_t|` is at most the tolerance times the largest finite
:math:`|F_t(s_{t-1})|` or :math:`|s_{t-1}|` in the entry's leaf of the carry, at the same step of the same example. It
has also converged if both sides are the same infinity or both are NaN. By induction, a converged trajectory equals the
trajectory of the loop wherever the loop's values are finite. The measure is relative and local. So gradients that
vanish over decades are solved relative to their own size, and NaN before a reset does not affect the measure after the
reset. Below ``tiny / eps**2`` of the dtype, where roundings are no longer relative, the measure is absolute.

**Gradient.** The cotangents of the states obey the linear recurrence
:math:`\lambda_t = g_t + (F_{t+1}')^\top \lambda_{t+1}`. `solve` solves this recurrence too, in reversed time, with
the transposed A. The full form needs one iteration, which is one parallel prefix. In the other forms
:math:`(F')^\top \lambda` is a vector-Jacobian product without a matrix, and A only accelerates the iteration. So the
gradient is exact and takes no more memory than the solution. Then one product over all steps gives the gradients of
params and inputs. Higher derivatives, of any order, are computed in the same way. Forward mode is not supported.

**Safe range.** The prefix multiplies Jacobians. These products overflow if states or gradients expand by more than the
dtype's range. The residual then exceeds the tolerance, and the loop over time runs instead (`Settings.fallback`).

**Sharded over time** (`Settings.shards`), each device has one shard of the steps. In each iteration a device needs the
state before its shard, the linear solution that enters its shard (one all-gather of the affine maps of all shards), and
the largest residual of all devices. If the fallback is needed, every device runs the loop for the whole sequence.

Work of one iteration: the prefix and the Jacobians. Depth: 2 log2 T plus the depth of a step. Memory for the backward
pass: inputs and states.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Inexact, Shaped

from seqjax.base import Carry, Flags, Hs, Us
from seqjax.ops.newton.linear import Form, apply, largest_in_leaf, linear_entering, masked, transposed
from seqjax.ops.select import keep, select
from seqjax.ops.tap import norm
from seqjax.ops.time_sharded.shards import Shards
from seqjax.ops.vectors import Coordinates, Floating


class NewtonReport(NamedTuple):
    """Statistics of a solution, as scalars.

    Attributes:
        iterations: the number of updates of the trajectory, without the final evaluation of the residual.
        residual: the largest relative residual of the last iterate.
        converged: whether the residual is within the tolerance.
        fell_back: whether the loop over time replaced the iteration.
    """

    iterations: jax.Array
    residual: jax.Array
    converged: jax.Array
    fell_back: jax.Array


class System(NamedTuple):
    """A recurrence to solve.

    ``step: (theta, carry, u) -> (carry, h)``; ``jacobian: (theta, space, entering, us) -> A`` returns the Jacobians of
    all steps in the given form, from packed states ``[T, *B, S]``.
    """

    step: Callable
    jacobian: Callable
    form: Form


class Settings(NamedTuple):
    """Settings of the solver.

    The solver multiplies the Jacobians by ``1 - damping``. `shards` describes a sequence that is sharded over time.
    """

    tolerance: float | None
    damping: float
    fallback: bool
    batch_ndim: int
    shards: Shards | None = None


class Operands(NamedTuple):
    """The arguments of a solution, with flags without keys.

    `limit` is the maximal number of iterations, int32; `guess` has the carries after each step.
    """

    theta: Any
    us: Us
    carry: Carry
    flags: Flags
    limit: Any
    guess: Any


class Solution(NamedTuple):
    """The carries after each step, leaves ``[T, *B, ...]``; the outputs of the steps; the statistics."""

    states: Any
    hs: Hs
    report: NewtonReport


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def solve(system: System, settings: Settings, operands: Operands) -> Solution:
    """Solve a recurrence for the states of all time steps in parallel.

    Args:
        system: the recurrence.
        settings: the settings of the solver.
        operands: T of at least 1; carry leaves ``[*B, ...]`` real or complex, in at least float32.
    """
    theta, us, carry, flags, limit, guess = operands
    reset, mask = flags.reset, flags.mask
    space = Coordinates(carry, batch_ndim=settings.batch_ndim)
    info = jnp.finfo(space.dtype)
    shards = settings.shards
    tolerance = settings.tolerance or (1e-12 if info.bits == 64 else 1e-5)
    first, fresh = space.vector(carry), space.vector(flags.initial)

    def evaluate(s: Float[Array, "T *B S"]) -> tuple:
        """Return the entering states, the states after the steps, the outputs of the steps, and the residual."""
        entering = _entering(s, first, fresh, reset, shards)
        states, hs = _all_steps(system, theta, space.tree(entering), us, mask)
        f = space.vector(states)
        scale = largest_in_leaf(space, jnp.where(jnp.abs(entering) > jnp.abs(f), entering, f))
        ratio = jnp.abs(f - s) / jnp.maximum(scale, jnp.asarray(info.tiny / info.eps**2, space.dtype))
        ratio = jnp.where(jnp.isnan(ratio), jnp.full_like(ratio, jnp.inf), ratio)
        same = (f == s) | (jnp.isnan(f) & jnp.isnan(s))
        largest = jnp.max(jnp.where(same, jnp.zeros_like(ratio), ratio), initial=0)
        return entering, f, hs, shards.max_over_devices(largest) if shards else largest

    def iterate(now: tuple) -> tuple:
        count, s, (entering, f, _, _) = now
        a = system.jacobian(theta, space, entering, us)
        a = masked(system.form, a * (1 - settings.damping) if settings.damping else a, mask)
        before = linear_entering(system.form, a, f - s, reset, shards)
        s = f + apply(system.form, a, before if reset is None else keep(~reset, before))
        s = jnp.where(jnp.isfinite(s), s, f)
        return count + 1, s, evaluate(s)

    def unsolved(now: tuple) -> Bool[Array, ""]:
        count, _, (_, _, _, residual) = now
        return (count < limit) & ~(residual <= tolerance)

    s = space.vector(jax.lax.stop_gradient(guess))
    count, _, (_, f, hs, residual) = jax.lax.while_loop(
        unsolved, iterate, (jnp.zeros_like(limit), s, evaluate(s))
    )
    converged = residual <= tolerance
    states = space.tree(f)
    if settings.fallback:

        def loop() -> tuple[Any, Any]:
            if shards is None:
                return _loop(system, theta, carry, us, flags)
            whole, over_time = shards.gather_sequence((us, Flags(reset, mask)))
            results = _loop(system, theta, carry, whole, over_time._replace(initial=flags.initial))
            return shards.local_shard(results)

        states, hs = jax.lax.cond(converged, lambda: (states, hs), loop)
    fell_back = ~converged if settings.fallback else jnp.zeros_like(converged)
    return Solution(states, hs, NewtonReport(count, residual, converged, fell_back))


def _forward(system: System, settings: Settings, operands: Operands) -> tuple[Solution, tuple]:
    # Calls `solve`, so that higher derivatives use this rule again.
    solution = solve(system, settings, operands)
    return solution, (operands, solution.states, solution.report.fell_back)


class _AdjointInputs(NamedTuple):
    """Inputs of a step of the adjoint: the inputs of the forward step and the cotangents of its outputs."""

    entering: Any
    u: Any
    mask: Any
    d_state: Any
    d_h: list


def _backward(system: System, settings: Settings, residuals: tuple, cotangents: Solution) -> tuple[Operands]:
    operands, states, fell_back = residuals
    theta, us, carry, (reset, mask, _, tap, initial), limit, _ = operands
    d_states, d_hs, _ = cotangents
    d_hs = [d for d in jax.tree.leaves(d_hs) if d.dtype != jax.dtypes.float0]
    shards = settings.shards
    entering = jax.tree.map(partial(_entering, reset=reset, shards=shards), states, carry, initial)
    cut = None if reset is None else _following(reset, shards)
    zero = jax.tree.map(jnp.zeros_like, carry)
    full = system.form == "full"
    solution = solve(
        adjoint_of(system),
        settings._replace(
            damping=0.0 if full else settings.damping, shards=shards.reversed() if shards else None
        ),
        Operands(
            theta,
            _reverse_time(_AdjointInputs(entering, us, mask, d_states, d_hs)),
            zero,
            Flags(reset=_reverse_time(cut), initial=zero),
            jnp.where(fell_back, jnp.zeros_like(limit), limit),  # the adjoint would diverge like the solution
            jax.tree.map(jnp.zeros_like, states),
        ),
    )
    into = jax.tree.map(jnp.conj, _reverse_time(solution.states))
    carried = jax.tree.map(partial(_following, shards=shards), into)
    total = jax.tree.map(jnp.add, d_states, carried if cut is None else keep(~cut, carried))

    def steps(theta: Any, us: Us) -> tuple:
        states, hs = _all_steps(system, theta, entering, us, mask)
        return states, Floating(hs).leaves

    d_theta, d_us = jax.vjp(steps, theta, us)[1]((total, d_hs))
    at_start = jax.tree.map(lambda a: a[0], into)
    d_carry = at_start if reset is None else keep(~reset[0], at_start)
    if shards is not None:
        d_carry = jax.tree.map(lambda d: jnp.where(shards.is_first(), d, jnp.zeros_like(d)), d_carry)
    d_initial = None if reset is None else jax.tree.map(lambda a: jnp.sum(a, 0), keep(reset, into))
    d_tap = None if tap is None else _norms(into, tap)
    return (Operands(d_theta, d_us, d_carry, Flags(tap=d_tap, initial=d_initial), None, None),)


solve.defvjp(_forward, _backward)


def adjoint_of(system: System) -> System:
    """Return the recurrence of the cotangents of the carries that enter the steps, for inputs in reversed time.

    The states of this recurrence are conjugate cotangents. JAX's cotangent of a complex leaf is the cotangent of the
    real part minus i times the cotangent of the imaginary part, but the packed Jacobian is transposed for the pair.
    """

    def step(theta: Any, state: Any, inputs: _AdjointInputs) -> tuple[Any, tuple]:
        def forward(entering: Any) -> tuple:
            after, h = system.step(theta, entering, inputs.u)
            after = after if inputs.mask is None else select(inputs.mask, after, entering)
            return after, Floating(h).leaves

        total = jax.tree.map(lambda d, c: d + jnp.conj(c), inputs.d_state, state)
        (d_entering,) = jax.vjp(forward, inputs.entering)[1]((total, inputs.d_h))
        return jax.tree.map(jnp.conj, d_entering), ()

    def jacobian(
        theta: Any, space: Coordinates, state: Float[Array, "T *B S"], inputs: _AdjointInputs
    ) -> Float[Array, "T ..."]:
        a = system.jacobian(theta, space, space.vector(inputs.entering), inputs.u)
        return transposed(system.form, masked(system.form, a, inputs.mask))

    return System(step, jacobian, system.form)


def _all_steps(system: System, theta: Any, entering: Any, us: Us, mask: Any) -> tuple[Any, Any]:
    """Run every step from the carry that enters the step, and return ``(states, hs)``."""
    states, hs = jax.vmap(system.step, (None, 0, 0))(theta, entering, us)
    return (states if mask is None else select(mask, states, entering)), hs


def _loop(system: System, theta: Any, carry: Carry, us: Us, flags: Flags) -> tuple[Any, Any]:
    """Run the steps in sequence and return ``(states, hs)``."""

    def body(carry: Carry, inputs: Any) -> tuple[Any, Any]:
        u, now = inputs
        carry = select(now.reset, flags.initial, carry)
        after, h = system.step(theta, carry, u)
        after = after if now.mask is None else select(now.mask, after, carry)
        return after, (after, h)

    return jax.lax.scan(body, carry, (us, Flags(flags.reset, flags.mask)))[1]


def _entering(
    states: Inexact[Array, "T *BS"],
    carry: Inexact[Array, "*BS"],
    initial: Inexact[Array, "*BS"],
    reset: Bool[Array, "T *B"] | None,
    shards: Shards | None,
) -> Inexact[Array, "T *BS"]:
    """Return the state that enters each step: the previous state, or `initial` at a reset."""
    first = shards.from_previous(states[-1], carry) if shards else carry
    before = jnp.concatenate([first[None], states[:-1]])
    return before if reset is None else select(reset, jnp.broadcast_to(initial, before.shape), before)


def _following(array: Shaped[Array, "T ..."], shards: Shards | None) -> Shaped[Array, "T ..."]:
    """Return for each step the entry of the next step, zero for the last step."""
    last = jnp.zeros_like(array[:1])
    last = shards.reversed().from_previous(array[:1], last) if shards else last
    return jnp.concatenate([array[1:], last])


def _reverse_time(tree: Any) -> Any:
    return jax.tree.map(lambda a: a[::-1], tree)


def _norms(into: Any, tap: Any) -> Any:
    """Return the norm of the cotangent of each leaf of the carries, in the structure of the dummies."""
    dummies, treedef = jax.tree.flatten(tap, is_leaf=lambda d: d is None)
    norms = [
        None if d is None else norm(a, d.ndim).astype(d.dtype)
        for d, a in zip(dummies, jax.tree.leaves(into), strict=True)
    ]
    return jax.tree.unflatten(treedef, norms)
