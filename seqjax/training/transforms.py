"""Gradient transformations that optax lacks: clipping by layer, and an exponential average of the params."""

import math
from collections import defaultdict
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from seqjax.checks import check_above, check_within
from seqjax.ops.select import wide
from seqjax.training.nonfinite import all_finite, choose


def clip_by_layer_norm(max_norm: float) -> optax.GradientTransformation:
    r"""Clip the gradient of each layer to a 2-norm of at most ``max_norm``.

    .. math:: g_l \leftarrow g_l \min\!\left(1, \frac{c}{\lVert g_l \rVert_2}\right) \quad\text{for each layer } l

    A layer is a node of the params whose children are arrays: the params of one cell, or kernel and bias of one flax
    module. Unlike with `optax.clip_by_global_norm`, one layer whose gradient explodes does not slow down the others.

    Args:
        max_norm: c.

    Raises:
        ValueError: unless it is above zero.

    Example:
        >>> import jax.numpy as jnp
        >>> from seqjax.training import clip_by_layer_norm
        >>> gradients = {"a": {"w": jnp.array([3.0, 4.0])}, "b": {"w": jnp.array([0.3, 0.4])}}
        >>> clip_by_layer_norm(1.0).update(gradients, ())[0]["a"]["w"].round(3)
        Array([0.6, 0.8], dtype=float32)
    """
    check_above("clip_by_layer_norm(max_norm)", max_norm)

    def clip(updates: Any, params: Any) -> Any:
        leaves, structure = jax.tree_util.tree_flatten_with_path(updates)
        squares: dict[Any, Any] = defaultdict(float)
        for path, leaf in leaves:
            squares[path[:-1]] += jnp.sum(jnp.square(jnp.abs(leaf.astype(wide(leaf.dtype)))))
        factors = {layer: max_norm / jnp.maximum(jnp.sqrt(s), max_norm) for layer, s in squares.items()}
        clipped = [(leaf * factors[path[:-1]]).astype(leaf.dtype) for path, leaf in leaves]
        return jax.tree.unflatten(structure, clipped)

    return optax.stateless(clip)


class AverageState(NamedTuple):
    """The number of updates, an int32 scalar, and the average of the params after each of them."""

    count: Any
    average: Any


def average_params(decay: float) -> optax.GradientTransformation:
    r"""Keep an exponential average of the params; put it last in `optax.chain`, and read it by `averaged_params`.

    .. math:: \bar\theta_t = \frac{\sum_{s=1}^t \beta^{t-s} \theta_s}{\sum_{s=1}^t \beta^{t-s}}

    The division corrects the bias towards the first params: after one update the average equals the new params, and
    before any update it equals the first params. The average is computed as
    :math:`\bar\theta_t = \bar\theta_{t-1} + \frac{1 - \beta}{1 - \beta^t} (\theta_t - \bar\theta_{t-1})`, in float32 at
    least; integers have the values of the last update. The updates do not change. Skipped steps, and updates to
    params that are not finite, do not count.

    Args:
        decay: :math:`\beta`, in [0, 1); the average looks back about :math:`1/(1 - \beta)` updates.

    Raises:
        ValueError: for a decay outside of [0, 1); from the update, without params.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from seqjax.training import average_params, averaged_params
        >>> optimizer = optax.chain(optax.sgd(1.0), average_params(0.5))
        >>> params = jnp.array(0.0)
        >>> opt_state = optimizer.init(params)
        >>> for _ in range(2):
        ...     updates, opt_state = optimizer.update(jnp.array(-3.0), opt_state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> float(params), round(float(averaged_params(opt_state)), 4)
        (6.0, 5.0)

    References:
        Polyak, Juditsky 1992, "Acceleration of stochastic approximation by averaging"; the correction as in Kingma, Ba
        2015, "Adam", arXiv:1412.6980, section 3.
    """
    check_within("average_params(decay)", decay)

    def init(params: Any) -> AverageState:
        average = jax.tree.map(lambda p: jnp.array(p, wide(p.dtype) if _inexact(p) else p.dtype), params)
        return AverageState(jnp.zeros((), jnp.int32), average)

    def update(updates: Any, state: AverageState, params: Any = None) -> tuple[Any, AverageState]:
        if params is None:
            raise ValueError(
                "average_params: expected the params, got None. Call optimizer.update(gradients, state, params)."
            )
        count = optax.safe_increment(state.count)
        # 1 - decay^t without the difference of two numbers near one.
        log_decay = math.log(decay) if decay else -math.inf
        weight = (1 - decay) / -jnp.expm1(count.astype(float) * log_decay)
        new = optax.apply_updates(params, updates)

        def nearer(a: Any, p: Any) -> Any:
            return (a + weight * (p.astype(a.dtype) - a)).astype(a.dtype) if _inexact(p) else p

        after = AverageState(count, jax.tree.map(nearer, state.average, new))
        # The training step skips a non-finite update but keeps the state of the optimizer, so the average checks again.
        return updates, choose(all_finite(new), after, state)

    return optax.GradientTransformation(init, update)


def averaged_params(opt_state: Any) -> Any:
    """Return the average that `average_params` keeps in the state of an optimizer, ``state.opt_state`` of a TrainState.

    Raises:
        ValueError: when the state has no average, or more than one.
    """

    def is_average(node: Any) -> bool:
        return isinstance(node, AverageState)

    found = [node for node in jax.tree.leaves(opt_state, is_leaf=is_average) if is_average(node)]
    if len(found) != 1:
        raise ValueError(
            f"averaged_params: expected an optimizer state with one average, got {len(found)}. Write "
            "optax.chain(optimizer, average_params(0.999))."
        )
    return found[0].average


def _inexact(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)
