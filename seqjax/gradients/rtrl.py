"""Real-time recurrent learning: the exact influence, carried forward."""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Estimator
from seqjax.definition import definition
from seqjax.gradients.online import Model, Rule, online


@definition
def rtrl() -> Estimator:
    """The gradient of all losses so far by the whole influence matrix: exact over chunks, too."""
    return online("rtrl()", dense)


def dense(model: Model) -> Rule:
    """The whole influence, one matrix ``[n, P]`` per example."""
    shape = (model.carry.size, model.params.size)

    def advance(step: Any, theta: jax.Array, s: jax.Array, influence: jax.Array, key: Any) -> jax.Array:
        after, pull = jax.vjp(step, theta, s)
        by_theta, by_s = jax.vmap(pull)(jnp.eye(s.size, dtype=after.dtype))
        return by_s @ influence + by_theta

    return Rule(
        zero=lambda: jnp.zeros(shape, jnp.promote_types(model.params.dtype, model.carry.dtype)),
        read=lambda influence, delta: delta @ influence,
        advance=advance,
    )
