r"""Measure how far roundings alone change a result: the reference in float64, and its response to noise.

Two correct implementations differ by their roundings. How much these change a result depends on the function (on the
length of its memory and on what it amplifies), hence on T. So the effect is measured. The step runs in float64, and
again with noise, which is the probabilistic model of rounding. The noise multiplies every number that passes between
steps (carry, input, output, and their cotangents in the backward pass) by :math:`1 + v \xi`, with :math:`\xi` uniform
in (-1, 1) and independent for every number and step. It also multiplies the result of each operation inside the step by
:math:`1 + 3 v \xi / 4`. That matters most where the step cancels what it has computed, as a norm cancels the size of
its input. The size of the noise is

.. math::
    v^2 = u^2 + n\, u_{32}^2

with u the unit roundoff of the coarser dtype, :math:`u_{32}` that of float32 (of float64 for a side that computes in
float64), and n the longest product: a sum of n terms collects about :math:`\sqrt{n}` roundings, in float32 at least.
Per quantity and step, in the norm over batch and features, the tolerance is

.. math::
    \mathrm{tolerance}_t^2 = K^2 (1 + v'^2 / v^2) (1 + \sqrt{\ln T / k})^2
    \left(r_t^2 + \tfrac{1}{3} u^2 |q_t|^2 + m\, u_{32}^2\, \overline{|q|^2}\right)

Here r is the root mean square response, and v' is the size of the finer side's roundings, which are independent of
those of the coarser side. So the tolerance of a kernel in bfloat16 is smaller by :math:`\sqrt{2}` against a
specification in float32 than against one in bfloat16. In the last bracket, the second term is the rounding of the
result, and the third is the rounding of the sum of m terms that makes it: m = T B for a gradient with respect to the
params, m = n for the other quantities. The largest of T norms of k numbers each is about :math:`1 + \sqrt{\ln T / k}`
times a typical norm (T = 1 for a quantity without a time axis). The growth of r with T is a property of the dynamics: r
is constant where memory is short, grows as :math:`\sqrt{T}` where memory is long, and grows exponentially where the
dynamics expands.

Hence an implementation that sums the gradient of a weight over T steps in bfloat16 exceeds the tolerance of bfloat16 at
large T, and so does an implementation that keeps decays in bfloat16. Both are findings.

References:
    Higham and Mary 2019, "A new approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 41.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import jaxprs
from seqjax.compare.evaluate import Outcome, evaluate, gradients_of
from seqjax.compare.implementation import System
from seqjax.compat import bind
from seqjax.ops.select import cast_inexact

FACTOR = 4.0
"""K: a step rounds about a dozen numbers besides the few that pass between steps, and not evenly."""
INSIDE = 0.75
"""Factor of the noise inside a step. All of its roundings are modeled there, so three standard deviations suffice."""
REPEATS = 4

# These primitives move numbers or choose among them, and round nothing.
EXACT = frozenset(
    "abs broadcast_in_dim clamp complex concatenate conj convert_element_type copy dynamic_slice dynamic_update_slice "
    "gather imag iota max min neg pad real reduce_max reduce_min reshape rev select_n sign slice sort split squeeze "
    "stack stop_gradient transpose unstack".split()
)


class NoReference(Exception):
    """The step does not compute in float64."""


def responses(
    system: System, xs: Any, cotangents: Any, noise: float, seed: int
) -> tuple[Outcome, list[Outcome]]:
    """Return the reference outcome in float64 on a CPU, and the outcomes with noise."""
    device = jax.devices("cpu")[0]
    with jax.enable_x64(True), jax.default_device(device):
        params, inputs = cast_inexact(system.params, "float64"), cast_inexact(xs, "float64")
        run = jax.jit(gradients_of(_noisy_unroll(system.step)))
        assert system.initial is not None
        carry = system.initial(params, jax.tree.map(lambda leaf: leaf[0], inputs))
        outcomes = []
        for repeat in range(REPEATS + 1):
            size = jnp.asarray(noise if repeat else 0.0, jnp.float64)
            key = jax.random.fold_in(jax.random.key(seed), repeat)
            try:
                outcomes.append(evaluate(run, params, carry, inputs, cotangents, key, size))
            except Exception as error:
                if system.is_layer:
                    raise
                # The step has a fixed dtype: lax.scan refuses a carry of another dtype, or an operation refuses two.
                raise NoReference(str(error)) from error
    return outcomes[0], outcomes[1:]


def _noisy_unroll(step: Any) -> Any:
    def unroll(params: Any, carry: Any, xs: Any, key: jax.Array, size: jax.Array) -> Any:
        length = jax.tree.leaves(xs)[0].shape[0]

        def body(carry: Any, inputs: Any) -> Any:
            x, key = inputs
            keys = jax.random.split(key, 4)
            inside = _noisy_inside(step, keys[3], INSIDE * size)
            carry, y = inside(params, _noisy(carry, keys[0], size), _noisy(x, keys[1], size))
            return carry, _noisy(y, keys[2], size)

        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(length))
        return jax.lax.scan(body, carry, (xs, keys))

    return unroll


def _noisy(tree: Any, key: jax.Array, size: jax.Array) -> Any:
    leaves, form = jax.tree.flatten(tree)
    draws = _draws(key, leaves)
    return jax.tree.unflatten(form, [_with_noise(leaf, draws, size) for leaf in leaves])


def _noisy_inside(function: Callable, key: jax.Array, size: jax.Array) -> Callable:
    """Return the function with noise in the results of its operations.

    A loop counts as one operation, and so does a function with a custom derivative.
    """

    def run(*args: Any) -> Any:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        draws = _draws(key, list(_rounded(closed.jaxpr)))

        def apply(equation: Any, operands: list) -> list:
            if jaxprs.is_jit(equation):
                return jaxprs.evaluate(equation.params["jaxpr"], operands, apply)
            results = bind(equation, operands)
            if equation.primitive.name in EXACT:
                return results
            return [_with_noise(result, draws, size) for result in results]

        results = jaxprs.evaluate(closed, jax.tree.leaves(args), apply)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return run


def _rounded(jaxpr: Any) -> Iterator[Any]:
    """Yield the results of a program that are rounded, in the order of evaluation."""
    for equation in jaxprs.equations(jaxpr, enter=jaxprs.is_jit):
        if not jaxprs.is_jit(equation) and equation.primitive.name not in EXACT:
            yield from (result.aval for result in equation.outvars)


def _draws(key: jax.Array, leaves: list) -> Iterator[jax.Array]:
    """Yield forward and backward noise ``[2, ...]`` for each inexact leaf; all of it is drawn by one call."""
    shapes = [leaf.shape for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    ends = list(itertools.accumulate(map(math.prod, shapes), initial=0))
    everything = jax.random.uniform(key, (2, ends[-1]), jnp.float32, -1.0, 1.0)
    return (
        everything[:, start:end].reshape(2, *shape)
        for start, end, shape in zip(ends, ends[1:], shapes, strict=False)
    )


def _with_noise(leaf: jax.Array, draws: Iterator[jax.Array], size: jax.Array) -> jax.Array:
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return leaf
    there, back = (1 + (size * draw).astype(jnp.finfo(leaf.dtype).dtype) for draw in next(draws))
    return _scaled(leaf, there, back)


@jax.custom_vjp
def _scaled(x: jax.Array, there: jax.Array, back: jax.Array) -> jax.Array:
    """Return ``x * there``; its cotangent is multiplied by ``back``."""
    return x * there


def _scaled_forward(x: jax.Array, there: jax.Array, back: jax.Array) -> Any:
    return x * there, (there, back)


def _scaled_backward(kept: Any, g: jax.Array) -> Any:
    there, back = kept
    return g * back, jnp.zeros_like(there), jnp.zeros_like(back)


_scaled.defvjp(_scaled_forward, _scaled_backward)
