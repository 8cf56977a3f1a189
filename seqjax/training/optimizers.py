"""Optimizers of optax in a training step: what they are given, and the check of what they return."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

_NEEDS = (
    re.compile(
        r"(?:(?P<name>\w+)\.<locals>\.)?\w+\(\) missing \d+ required keyword-only arguments?: (?P<needs>.*)"
    ),
    re.compile(r"(?P<needs>\w+) must be provided to (?P<name>\w+)"),
    re.compile(r"has no attribute '(?P<needs>fast)'(?P<name>)"),
)
"""What optimizers raise that need more: Python's text for keyword arguments, that of sophia, and that of lookahead."""


def as_optimizer(who: str, optimizer: Any) -> optax.GradientTransformation:
    """Return an optimizer of optax; an `optax.MultiSteps` becomes its gradient transformation.

    Raises:
        TypeError: for anything else, and for an optimizer that evaluates the loss itself, such as a line search.
    """
    if isinstance(optimizer, optax.MultiSteps):
        optimizer = optimizer.gradient_transformation()
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"{who}(optimizer): expected an optax optimizer such as optax.adam(1e-3), got {type(optimizer).__name__}."
        )

    def try_out() -> Any:
        params = {"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)}
        return optimizer_update(who, optimizer, params, optimizer.init(params), params, jnp.zeros(()))

    try:
        jax.eval_shape(try_out)
    except NeedsMore as error:
        raise TypeError(str(error)) from None
    except Exception:  # an optimizer for other params, which the first step will show
        pass
    return optimizer


class NeedsMore(TypeError):
    """An optimizer needs more than gradients, params and the value of the loss."""


def optimizer_update(
    who: str, optimizer: optax.GradientTransformation, gradients: Any, opt_state: Any, params: Any, value: Any
) -> tuple[Any, Any]:
    """Return ``(updates, opt_state)``; optimizers that want the value of the loss are given it.

    Raises:
        TypeError: for updates of another structure or other shapes than the params, and for an optimizer that needs
            the loss as a function.
    """
    try:
        try:
            updates, new = optax.with_extra_args_support(optimizer).update(
                gradients, opt_state, params, value=value
            )
        except TypeError as error:  # optax.contrib.sam says that it takes extra arguments, and takes none
            if "unexpected keyword argument 'value'" not in str(error):
                raise
            updates, new = optimizer.update(gradients, opt_state, params)
    except (TypeError, ValueError, AttributeError) as error:
        found = next((match for match in (one.search(str(error)) for one in _NEEDS) if match), None)
        if found is None:
            raise
        needs = found["needs"]
        name, needs = (
            ("lookahead", "params of type LookaheadParams") if needs == "fast" else (found["name"], needs)
        )
        raise NeedsMore(
            f"{who}(optimizer): expected an optimizer of gradients, params and the value of the loss, got "
            f"{name or 'one'}, which also needs {needs}. A training step evaluates the loss once. "
            "Use an optimizer such as optax.adam(1e-3)."
        ) from None
    check_updates(who, updates, params)
    return updates, new


def check_updates(who: str, updates: Any, params: Any) -> None:
    """Raise a TypeError unless updates have the structure and the shapes of the params."""
    form: Any = jax.tree.structure
    if form(updates) != form(params):
        raise TypeError(
            f"{who}(optimizer): expected updates of the params' structure, {form(params)}, got {form(updates)}."
        )
    pairs = zip(jax.tree_util.tree_leaves_with_path(updates), jax.tree.leaves(params), strict=True)
    wrong = [(path, jnp.shape(a), jnp.shape(p)) for (path, a), p in pairs if jnp.shape(a) != jnp.shape(p)]
    if wrong:
        path, found, like = wrong[0]
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        raise TypeError(
            f"{who}(optimizer): expected updates of the params' shapes, got {name} {list(found)} for {list(like)}. "
            "Such an update would be broadcast. Gradients are sums over the batch, without an axis of examples."
        )
