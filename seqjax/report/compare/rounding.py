r"""How far roundings alone can move a result: the reference in float64, and its response to noise of their size.

Two correct implementations differ by their roundings, and how much that moves a result depends on the function: on how
long it remembers and what it amplifies, hence on T. So it is measured. The step is run in float64, and again with every
number that passes between steps (carry, input, output; and their cotangents on the way back) multiplied by
:math:`1 + v \xi`, :math:`\xi` uniform in (-1, 1), independent for every number and step: the probabilistic model of
rounding. Its size is

.. math::
    v^2 = u^2 + n\, u_{32}^2

with u the unit roundoff of the coarser dtype, :math:`u_{32}` that of float32 (of float64 for a side that computes in
it), and n the longest product: a sum of n terms gathers about :math:`\sqrt{n}` roundings, in float32 at least. Per
quantity and step, in the norm over batch and features, with r the root mean square response,

.. math::
    \mathrm{tolerance}_t^2 = K^2 (1 + v'^2 / v^2) (1 + \sqrt{\ln T / k})^2
    \left(r_t^2 + \tfrac{1}{3} u^2 |q_t|^2 + m\, u_{32}^2\, \overline{|q|^2}\right)

where v' is the size of the finer side's roundings, which are independent of the other's: a kernel in bfloat16 is judged
by a tolerance smaller by :math:`\sqrt{2}` against a specification in float32 than against one in bfloat16. In the last
bracket the second term rounds the result itself and the third the sum of m terms that it is: T B for a gradient of the
params, n for the others; and the largest of T norms of k numbers each is about :math:`1 + \sqrt{\ln T / k}` times a
typical one (T = 1 for what has no time axis). How r grows with T is the dynamics' own: not at all where memory is
short, as :math:`\sqrt{T}` where it is long, and exponentially where the dynamics expands.

Hence an implementation that sums the gradient of a weight over T steps in bfloat16 is not within the tolerance of
bfloat16 at large T; nor is one that keeps decays in bfloat16. Both are findings.

References:
    Higham and Mary 2019, "A new approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 41.
"""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax.report.compare.evaluate import Outcome, evaluate, gradients_of
from seqjax.report.compare.implementation import System
from seqjax.report.compare.trees import cast

FACTOR = 4.0
"""K: a step rounds not the few numbers that pass between steps alone but a dozen on the way, and not evenly."""
REPEATS = 4


class NoReference(Exception):
    """The step does not compute in float64."""


def responses(
    system: System, xs: Any, cotangents: Any, noise: float, seed: int
) -> tuple[Outcome, list[Outcome]]:
    """The reference outcome in float64 on a CPU, and those with noise."""
    device = jax.devices("cpu")[0]
    with jax.enable_x64(True), jax.default_device(device):
        params, inputs = cast(system.params, "float64"), cast(xs, "float64")
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
                # A dtype of its own: lax.scan refuses a carry that changes it, others a product of two dtypes.
                raise NoReference(str(error)) from error
    return outcomes[0], outcomes[1:]


def _noisy_unroll(step: Any) -> Any:
    def unroll(params: Any, carry: Any, xs: Any, key: jax.Array, size: jax.Array) -> Any:
        length = jax.tree.leaves(xs)[0].shape[0]

        def body(carry: Any, inputs: Any) -> Any:
            x, key = inputs
            keys = jax.random.split(key, 3)
            carry, y = step(params, _noisy(carry, keys[0], size), _noisy(x, keys[1], size))
            return carry, _noisy(y, keys[2], size)

        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(length))
        return jax.lax.scan(body, carry, (xs, keys))

    return unroll


def _noisy(tree: Any, key: jax.Array, size: jax.Array) -> Any:
    leaves, form = jax.tree.flatten(tree)

    def one(leaf: jax.Array, key: jax.Array) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        draws = jax.random.uniform(key, (2, *leaf.shape), jnp.float32, -1.0, 1.0)
        there, back = (1 + size * draw.astype(size.dtype) for draw in draws)
        return _scaled(leaf, there, back)

    keys = jax.random.split(key, max(len(leaves), 1))
    return jax.tree.unflatten(form, [one(leaf, k) for leaf, k in zip(leaves, keys)])


@jax.custom_vjp
def _scaled(x: jax.Array, there: jax.Array, back: jax.Array) -> jax.Array:
    """``x * there``, whose cotangent comes back times ``back``."""
    return x * there


def _scaled_forward(x: jax.Array, there: jax.Array, back: jax.Array) -> Any:
    return x * there, (there, back)


def _scaled_backward(kept: Any, g: jax.Array) -> Any:
    there, back = kept
    return g * back, jnp.zeros_like(there), jnp.zeros_like(back)


_scaled.defvjp(_scaled_forward, _scaled_backward)
