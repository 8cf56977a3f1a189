"""The method that solves a nonlinear recurrence for all time steps in parallel, by Newton's method."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from seqjax.base import Carry, Cell, Flags, Gated, GatedWeights, Params, Step, Us, Xs, Ys
from seqjax.checks import check_above, check_one_of, check_whole_or_none, check_within
from seqjax.compat import vary_like
from seqjax.inputs import first_step, num_steps, step_keys
from seqjax.methods.common import at_step, project_inputs
from seqjax.ops.forward_mode import reverse_mode_alone
from seqjax.ops.newton import linear
from seqjax.ops.newton.solve import NewtonReport, Operands, Settings, System, solve
from seqjax.ops.select import cast, keep, wide, widen
from seqjax.ops.step import step_of
from seqjax.ops.time_sharded.shards import Shards
from seqjax.values import Value


@dataclass(frozen=True, kw_only=True, repr=False)
class Newton(Value):
    r"""Solves a nonlinear recurrence for all time steps in parallel, by Newton's method.

    From a guess of the whole trajectory, every iteration linearizes all steps and solves the linear recurrence by a
    parallel prefix. The gradient is one more linear recurrence, solved in the same way. Values and gradients (reverse
    mode, of any order) equal those of `Scan` up to the tolerance. Newton's method is efficient on parallel hardware,
    for long sequences and small states. The number of iterations is small for a contracting cell and grows with T for a
    chaotic cell, up to T. See `seqjax.ops.newton.solve` for the mathematics.

    ============ ==================================== =================== ====================================
    jacobian     entries of each Jacobian             memory of iteration exact for
    ============ ==================================== =================== ====================================
    "full"       all                                  T B S^2             every cell; convergence is quadratic
    "block"      leaves of one unit by one another    T B H L^2           diagonal recurrent weights, `Gated`
    "diagonal"   each number by itself                T B S               the same, with one leaf
    ============ ==================================== =================== ====================================

    The carry has S numbers per example, in L leaves of size H. The backward pass takes as much memory as the forward
    pass, and its result does not depend on the form.

    Attributes:
        jacobian: "full" is DEER. "diagonal" is quasi-DEER, with more and cheaper iterations. "block" is in between, for
            `Gated` cells.
        damping: k of scale-ELK, 0 to 1; the Jacobians are multiplied by 1 - k. Damping stabilizes an iteration that
            overshoots and slows other iterations. With k = 1 only the steps themselves are iterated. ELK with a Kalman
            smoother (2407.19115, section 4) is not implemented.
        tolerance: tolerance of the residual, relative to the carry (`seqjax.ops.newton.solve`). None is 1e-12 in
            float64 and 1e-5 in float32 (84 roundings).
        max_iterations: maximal number of iterations; None is T, which always suffices.
        fallback: whether to run the loop of `Scan` if the iteration has not converged. Without fallback, `solve`
            returns the last iterate with ``converged`` False, and the gradients are not those of a solution.
        guess: the carry repeated over time ("initial"), or "zeros".
        batch_ndim: number of batch axes of the inputs of a `Step` cell. None takes the number from reset, mask or tap,
            and assumes one without them. (`Gated` cells determine the number.) A number that is too small gives correct
            results, but merges examples into one state.

    Inputs in half precision are computed in float32 and rounded at the end. `tap` is supported. Forward mode is not
    supported: use ``Scan(gradient="autodiff")``. Under ``jax.vmap`` the fallback always runs, so use a batch axis
    instead.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> cell, xs = sj.gru(4), jnp.ones((100, 2, 3))
        >>> params = cell.init(jax.random.key(0), xs[0])
        >>> carry, ys, report = sj.Newton().solve(cell, params, cell.initial_carry(params, xs[0]), xs)
        >>> ys.shape, bool(report.converged), int(report.iterations) < 10
        ((100, 2, 4), True, True)

    References:
        Lim et al. 2024, "Parallelizing non-linear sequential models over the sequence length", arXiv:2309.12252,
        section 3 (DEER).
        Gonzalez et al. 2024, "Towards scalable and stable parallelization of nonlinear RNNs", arXiv:2407.19115,
        section 3 (quasi-DEER), proposition 1 (T iterations suffice), appendix A.4 (scale-ELK).
        Danieli et al. 2025, "ParaRNN: unlocking parallel training of nonlinear RNNs for large language models",
        arXiv:2510.21450 (blocks over the carry's leaves).
        Gonzalez et al. 2025, "Predictability enables parallelization of nonlinear state space models",
        arXiv:2508.16817 (iterations and the largest Lyapunov exponent).
    """

    kinds: ClassVar[tuple[type, ...]] = (Step, Gated)
    jacobian: Literal["full", "block", "diagonal"] = "full"
    damping: float = 0.0
    tolerance: float | None = None
    max_iterations: int | None = 100
    fallback: bool = True
    guess: Literal["initial", "zeros"] = "initial"
    batch_ndim: int | None = None

    def __post_init__(self) -> None:
        check_whole_or_none("Newton(max_iterations)", self.max_iterations)
        check_whole_or_none("Newton(batch_ndim)", self.batch_ndim, least=0)
        check_one_of("Newton(jacobian)", self.jacobian, ("full", "block", "diagonal"))
        check_one_of("Newton(guess)", self.guess, ("initial", "zeros"))
        check_within("Newton(damping)", self.damping, "[0, 1]")
        if self.tolerance is not None:
            check_above("Newton(tolerance)", self.tolerance, note=", or None")
        super().__post_init__()

    def solve(
        self,
        cell: Cell,
        params: Params,
        carry: Carry,
        xs: Xs,
        *,
        reset: Any = None,
        mask: Any = None,
        key: Any = None,
        guess: Any = None,
    ) -> tuple[Any, Any, NewtonReport]:
        """Run a cell as a layer's unroll does, and return ``(carry, ys, report)``.

        Args:
            cell: a cell of kind `Step` or `Gated`.
            params: params of the cell.
            carry: carry before the first step; leaves ``[*B, ...]``.
            xs: ``[T, *B, D]``.
            reset: ``[T, *B]`` bool.
            mask: ``[T, *B]`` bool.
            key: one key, or one per step.
            guess: first iterate: carries after each step, leaves ``[T, *B, ...]``; for example the solution before a
                small change of the params.

        Raises:
            TypeError: for a cell of another kind, ``jacobian="block"`` with a `Step`, or a carry with integer leaves.
        """
        xs = keep(mask, xs)
        if num_steps(xs) == 0:
            y = jax.eval_shape(lambda c, x: at_step(cell, params, c, x, Flags())[1], carry, first_step(xs))
            ys = jax.tree.map(lambda a: jnp.zeros((0, *a.shape), a.dtype), y)
            report = NewtonReport(jnp.int32(0), jnp.float32(0), jnp.asarray(True), jnp.asarray(False))
            return carry, ys, report
        initial = cell.initial_carry(params, first_step(xs))
        carry = jax.tree.map(lambda c, i: jnp.asarray(c, i.dtype), carry, initial)
        flags = Flags(reset, mask, step_keys(key, num_steps(xs)), initial=initial)
        carry, ys, report = self._run(cell, params, carry, xs, flags, guess=guess)
        return carry, keep(mask, ys), report

    def unroll(self, cell: Cell, params: Params, carry: Carry, xs: Xs, flags: Flags) -> tuple[Carry, Ys]:
        """See `seqjax.Method`."""
        return self._run(cell, params, carry, xs, flags)[:2]

    def unroll_shard(
        self, cell: Cell, params: Params, carry: Carry, xs: Xs, flags: Flags, shards: Shards
    ) -> tuple[Any, Any]:
        """Run one shard of a sequence that is sharded over time (`seqjax.TimeSharded`); return ``(carry, ys)``.

        The argument is the carry before the whole sequence. The result is the carry after this device's shard.
        """
        return self._run(cell, params, carry, xs, flags, shards=shards)[:2]

    def _run(
        self,
        cell: Cell,
        params: Params,
        carry: Carry,
        xs: Xs,
        flags: Flags,
        *,
        guess: Any = None,
        shards: Shards | None = None,
    ) -> tuple[Any, Any, NewtonReport]:
        self._check_carry(cell, carry)
        us, initial = project_inputs(cell, params, xs, flags.key), flags.initial
        first = jax.tree.leaves(xs)[0]
        narrow = first.dtype
        dtype = wide(narrow) if jnp.issubdtype(narrow, jnp.inexact) else narrow
        system, theta = self._system(cell, params, dtype)
        entered = carry
        if dtype != narrow:
            us, carry, initial = widen((us, carry, initial))
        repeated = jax.tree.map(lambda a: jnp.broadcast_to(a, (first.shape[0], *a.shape)), carry)
        if guess is None:
            guess = repeated if self.guess == "initial" else jax.tree.map(jnp.zeros_like, repeated)
        else:
            guess = jax.tree.map(lambda g, a: jnp.asarray(g, a.dtype).reshape(a.shape), guess, repeated)
        limit = jnp.asarray(self.max_iterations or first.shape[0], jnp.int32)
        batch_ndim = self._batch_ndim(cell, carry, xs, flags)
        settings = Settings(self.tolerance, self.damping, self.fallback, batch_ndim, shards)
        theta, carry, initial, guess = vary_like((theta, carry, initial, guess), us, carry)
        operands = Operands(theta, us, carry, flags._replace(key=None, initial=initial), limit, guess)
        if shards is not None:
            operands = shards.varying(operands)._replace(limit=limit)
        with reverse_mode_alone("unroll by Newton"):
            states, hs, report = solve(system, settings, operands)
        after = jax.tree.map(lambda a: a[-1], states)
        if dtype != narrow:
            # Cast to the dtypes that the cell emits for inputs of this dtype.
            step = step_of(cell.recurrence, params, narrow)
            one = jax.tree.map(lambda a: a[0], project_inputs(cell, params, xs, flags.key))
            emitted = jax.eval_shape(step, entered, one)[1]
            after, hs = jax.tree.map(lambda a, like: a.astype(like.dtype), (after, hs), (entered, emitted))
        return after, cell.readout(params, hs, xs), report

    def _system(self, cell: Cell, params: Params, dtype: Any) -> tuple[System, Any]:
        """Return the recurrence with its Jacobians, and the weights that it reads, in the given dtype."""
        recurrence = cell.recurrence
        match recurrence:
            case Gated():
                theta: Any = GatedWeights(*cast(tuple(recurrence.weights(params)), dtype))
                of_weights = dataclasses.replace(recurrence, weights=_identity)

                def step(theta: Any, carry: Carry, u: Any) -> tuple[Any, Any]:
                    return step_of(of_weights, theta, dtype)(carry, u)
            case Step():
                if self.jacobian == "block":
                    raise TypeError(
                        f"{self!r} cannot run {cell!r}: its recurrence is Step; jacobian='block' needs Gated. "
                        "Use jacobian='full' or 'diagonal'."
                    )
                theta = cast(params, dtype)

                def step(theta: Any, carry: Carry, u: Any) -> tuple[Any, Any]:
                    return step_of(recurrence, theta, dtype)(carry, u)
            case _:
                raise TypeError(
                    f"{self!r} cannot run {cell!r}: its recurrence is {type(recurrence).__name__}; "
                    "Newton runs Step, Gated. Use `Scan`."
                )
        return System(step, self._jacobian(recurrence, step), self.jacobian), theta

    def _jacobian(self, recurrence: Any, step: Callable) -> Callable:
        """Return the function ``(theta, space, entering, us) -> A``."""

        def jacobian(theta: Any, space: Any, entering: jax.Array, us: Us) -> jax.Array:
            if self.jacobian != "full" and isinstance(recurrence, Gated):
                return linear.gated_jacobian(self.jacobian, recurrence, theta, space, entering, us)
            of = linear.full_jacobian if self.jacobian == "full" else linear.diagonal_jacobian
            return of(lambda carry, u: step(theta, carry, u), space, entering, us)

        return jacobian

    def _batch_ndim(self, cell: Cell, carry: Carry, xs: Xs, flags: Flags) -> int:
        leaves = jax.tree.leaves(carry)
        if isinstance(cell.recurrence, Gated):
            return leaves[0].ndim - 1
        for flag in jax.tree.leaves(flags.over_time()._replace(key=None)):
            return flag.ndim - 1
        if self.batch_ndim is not None:
            return self.batch_ndim
        shapes = [a.shape for a in leaves] + [a.shape[1:] for a in jax.tree.leaves(xs)]
        same = all(shape[:1] == shapes[0][:1] for shape in shapes)
        return int(same and max(map(len, shapes)) > 1)

    def _check_carry(self, cell: Cell, carry: Carry) -> None:
        for path, leaf in jax.tree_util.tree_leaves_with_path(carry):
            if not jnp.issubdtype(leaf.dtype, jnp.inexact):
                raise TypeError(
                    f"{self!r} cannot run {cell!r}: carry{jax.tree_util.keystr(path)} is {leaf.dtype}; "
                    "Newton needs a real or complex carry. Methods that can: Scan."
                )


def _identity(weights: Any) -> Any:
    return weights
