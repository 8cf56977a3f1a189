"""The metrics that a training step returns, and probes of its gradients and updates."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float

from seqjax.training.nonfinite import norm

Probe = Callable[[Any, Any, Any], Any]
"""``(params, gradients, updates) -> scalar or pytree``.

The arguments are the params before the update, the gradient of the mean loss before the optimizer clips it, and the
update that the optimizer adds to the params. The update is zero in a skipped step.
"""


class Metrics(NamedTuple):
    """The metrics of one training step, computed with the params before the update.

    Attributes:
        loss: the mean loss.
        gradient_norm: the global 2-norm of the gradient, before the optimizer clips it.
        finite: whether the step made an update: loss, gradient norm and new params were all finite.
        consecutive: the value in the state after the step.
        probes: the results of the probes by name; an empty dict without probes.
    """

    loss: Any
    gradient_norm: Any
    finite: Any
    consecutive: Any
    probes: Any


def gradient_norms(params: Any, gradients: Any, updates: Any) -> dict[str, Float[Array, ""]]:
    """Return the 2-norm of the gradient of each parameter by path; a probe for `make_train_step`.

    Example:
        >>> import jax, jax.numpy as jnp, optax, seqjax as sj
        >>> from seqjax.training import gradient_norms, init_train_state, make_train_step
        >>> model, optimizer = sj.recurrent(sj.elman(2)), optax.sgd(0.1)
        >>> step = make_train_step(model, optax.l2_loss, optimizer, probes={"norms": gradient_norms})
        >>> batch = sj.Batch(jnp.ones((5, 4, 3)), jnp.zeros((5, 4, 2)))
        >>> state = init_train_state(model, optimizer, jax.random.key(0), batch.xs[0])
        >>> sorted(step(state, batch)[1].probes["norms"])
        ['b', 'w_h', 'w_x']
    """
    return _norms(gradients)


def update_norms(params: Any, gradients: Any, updates: Any) -> dict[str, Float[Array, ""]]:
    """Return the 2-norm of the update of each parameter by path; a probe for `make_train_step`."""
    return _norms(updates)


def check_probes(probes: Mapping[str, Probe] | None) -> dict[str, Probe]:
    """Return the probes by name, and raise a TypeError for anything else."""
    wanted = 'a dict of functions (params, gradients, updates) -> pytree, such as {"norms": gradient_norms}'
    if probes is None:
        return {}
    if not isinstance(probes, Mapping):
        raise TypeError(f"make_train_step(probes): expected {wanted}, got {type(probes).__name__}.")
    for name, probe in probes.items():
        if not isinstance(name, str) or not callable(probe):
            raise TypeError(f"make_train_step(probes): expected {wanted}, got {name!r}: {probe!r}.")
    return dict(probes)


def _norms(tree: Any) -> dict[str, Float[Array, ""]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): norm(leaf) for path, leaf in leaves}
