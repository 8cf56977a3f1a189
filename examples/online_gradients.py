"""Compute gradients forward in time, without storing the past.

Backpropagation stores every step. Online estimators carry an influence instead, the derivative of the carry by the
params, so their memory does not grow with the length: `rtrl` is exact, `snap(1)` keeps only what reaches a unit within
a step, and `uoro` is unbiased and noisy. For a diagonal cell such as `lru`, `snap(1)` is exact too.

An estimator is a value. Bound to a layer and a loss it is two pure functions, `init` and `update`, as an optimizer of
optax is. `make_train_step(..., estimator=sj.rtrl())` trains with it.
"""

import jax
import jax.numpy as jnp

import seqjax as sj


def loss(ys: jax.Array, targets: jax.Array) -> jax.Array:
    """Return one loss per step; online estimators need the loss when the step happens."""
    return jnp.sum((ys - targets) ** 2, -1)


def flat(tree: object) -> jax.Array:
    """Return all numbers of a tree as one vector."""
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def main(length: int = 40, chunk: int = 10) -> dict[str, float]:
    """Return the relative error of each gradient, estimated chunk by chunk."""
    xs = jax.random.normal(jax.random.key(0), (length, 2, 3))  # [T, B, D]
    targets = jnp.roll(xs, 3, 0).sum(-1, keepdims=True) * jnp.ones(8)
    layer = sj.recurrent(sj.gru(8))
    params = layer.init(jax.random.key(1), xs[0])

    def total(params: object) -> jax.Array:
        return loss(layer.unroll(params, None, xs)[1], targets).sum()

    exact = flat(jax.grad(total)(params))
    found = {}
    for estimator in (sj.rtrl(), sj.snap(1), sj.uoro(), sj.truncated_bptt(chunk)):
        init, update = estimator.bind(layer, loss)
        update = jax.jit(update)
        carry = layer.initial_carry(params, xs[0])
        state, gradient = init(params, carry, xs[0]), jnp.zeros_like(exact)
        for i, start in enumerate(range(0, length, chunk)):
            part = slice(start, start + chunk)
            batch, key = sj.Batch(xs[part], targets[part]), jax.random.key(i)
            estimate, carry, state = update(params, carry, state, batch, key=key)
            gradient += flat(estimate.gradients)
        found[repr(estimator)] = float(jnp.linalg.norm(gradient - exact) / jnp.linalg.norm(exact))
        print(f"{estimator!r}: relative error {found[repr(estimator)]:.1e}")
    return found


if __name__ == "__main__":
    main()
