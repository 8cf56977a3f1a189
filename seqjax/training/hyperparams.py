"""Hyperparams that an optimizer keeps in its state, such as the learning rate of `optax.inject_hyperparams`."""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np

Choice = Literal["checkpoint", "new"] | None
"""Which hyperparams a resumed run uses: those of the checkpoint, or those of the new state."""


def _holds_hyperparams(node: Any) -> bool:
    return isinstance(getattr(node, "hyperparams", None), Mapping) and hasattr(node, "_replace")


def hyperparams(state: Any) -> dict[str, Any]:
    """Return the hyperparams in the optimizer's state by path, as JSON holds them.

    Values that a schedule sets are left out, because they follow from the step.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from seqjax.training.hyperparams import hyperparams
        >>> from seqjax.training.state import TrainState
        >>> optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.5)
        >>> hyperparams(TrainState(None, optimizer.init(jnp.ones(2)), 0, None))
        {'learning_rate': 0.5}
    """
    found = {}
    tree = getattr(state, "opt_state", None)
    for path, node in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_holds_hyperparams):
        if _holds_hyperparams(node):
            for name, value in _free(node).items():
                place = jax.tree_util.keystr((*path, jax.tree_util.DictKey(name)), simple=True, separator=".")
                found[place] = np.asarray(value).tolist()
            for place, value in hyperparams(_Inner(getattr(node, "inner_state", None))).items():
                found[".".join((*(_text(path),) * bool(path), "inner", place))] = value
    return found


class _Inner:
    def __init__(self, opt_state: Any) -> None:
        self.opt_state = opt_state


def _text(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _free(node: Any) -> dict[str, Any]:
    """Return the hyperparams of a node that no schedule sets."""
    schedules = getattr(node, "hyperparams_states", None) or {}
    return {name: value for name, value in node.hyperparams.items() if name not in schedules}


def chosen(state: Any, fresh: Any, given: Mapping[str, Any] | None, choice: Choice) -> Any:
    """Return a restored state with the chosen hyperparams.

    A run may change its hyperparams on its way. A choice is therefore needed only when those of the new state differ
    from those that the run was given before.

    Args:
        state: the restored state.
        fresh: the state that `fit` was given.
        given: the hyperparams that the run was given before; None compares with those of the restored state.
        choice: which to use.

    Raises:
        ValueError: when a choice is needed and not made.
    """
    if choice not in ("checkpoint", "new", None):
        raise ValueError(f"fit(hyperparams): expected 'checkpoint', 'new' or None, got {choice!r}.")
    new = hyperparams(fresh)
    before = hyperparams(state) if given is None else given
    changed = [
        f"{name} {before.get(name)} -> {value}" for name, value in new.items() if before.get(name) != value
    ]
    if choice == "new":
        return state._replace(opt_state=_with_hyperparams(state.opt_state, fresh.opt_state))
    if changed and choice is None:
        raise ValueError(
            f"fit: the optimizer keeps these hyperparams in its state, and they have changed since the run began: "
            f"{'; '.join(changed)}. Pass hyperparams='new' to continue with the new ones, or hyperparams='checkpoint' "
            "to continue with those of the checkpoint."
        )
    return state


def _with_hyperparams(old: Any, new: Any) -> Any:
    """Return an optimizer's state with the hyperparams of another one."""

    def replaced(old: Any, new: Any) -> Any:
        if not _holds_hyperparams(old):
            return old
        values = {**old.hyperparams, **_free(new)}
        inner = (
            {"inner_state": _with_hyperparams(old.inner_state, new.inner_state)}
            if hasattr(old, "inner_state")
            else {}
        )
        return old._replace(hyperparams=values, **inner)

    return jax.tree.map(replaced, old, new, is_leaf=_holds_hyperparams)
