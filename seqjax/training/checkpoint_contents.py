"""What a checkpoint holds: the leaves of a state by path, and a description of them under one SHA-256."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils


class MismatchError(ValueError):
    """A valid checkpoint of another structure, shape or dtype, or of another run."""


def difference(before: Any, after: Any, name: str = "") -> list[str]:
    """Return the differences between two configurations, ``name before -> after`` each.

    Example:
        >>> from seqjax.training.checkpoint_contents import difference
        >>> difference({"model": {"cell": "lstm"}, "seed": 0}, {"model": {"cell": "gru"}, "seed": 0})
        ['model.cell lstm -> gru']
    """
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = [*before, *(key for key in after if key not in before)]
        return [
            line
            for key in keys
            for line in difference(before.get(key), after.get(key), f"{name}.{key}" if name else str(key))
        ]
    return [] if before == after else [f"{name} {before} -> {after}"]


def as_json(value: Any, name: str) -> Any:
    """Return a value as JSON holds it. Numbers of NumPy and JAX, dtypes and paths are converted.

    Raises:
        TypeError: for another type.

    Example:
        >>> import numpy as np
        >>> from seqjax.training.checkpoint_contents import as_json
        >>> as_json({"rate": np.float32(0.5), "dtype": np.dtype("int8"), "sizes": (8, 16)}, "config")
        {'rate': 0.5, 'dtype': 'int8', 'sizes': [8, 16]}
    """

    def plain(value: Any) -> Any:
        if isinstance(value, np.generic | np.ndarray | jax.Array):
            return np.asarray(value).tolist()
        if isinstance(value, np.dtype):
            return value.name
        if isinstance(value, type) and hasattr(value, "dtype"):  # jnp.float32 and the like
            return np.dtype(value).name
        if isinstance(value, PurePath):
            return str(value)
        raise TypeError(f"{name}: expected values that JSON holds, got {type(value).__name__}: {value!r}.")

    return json.loads(json.dumps(value, default=plain))


def leaves_by_path(state: Any) -> dict[str, Any]:
    """Return the leaves by path: random keys as integers, Python numbers as arrays.

    Example:
        >>> from seqjax.training.checkpoint_contents import leaves_by_path
        >>> list(leaves_by_path({"a": {"b": 1.0}, "c": (2, 3)})), list(leaves_by_path({"a": {"b": 1.0}, "a.b": 2}))
        (['a.b', 'c.0', 'c.1'], ["['a']['b']", "['a.b']"])
    """

    def plain(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key_data(leaf)
        return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)

    leaves = jax.tree_util.tree_leaves_with_path(state)
    names = [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in leaves]
    if len(set(names)) < len(names):  # such as {"a.b": x, "a": {"b": y}}
        names = [jax.tree_util.keystr(path) for path, _ in leaves]
    return {name: plain(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)}


def state_like(leaves: Mapping[str, Any], like: Any) -> Any:
    """Return the state that has these leaves by path."""

    def typed(leaf: Any, want: Any) -> Any:
        if isinstance(want, jax.Array) and jnp.issubdtype(want.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(leaf, impl=jax.random.key_impl(want))
        return leaf

    wanted, treedef = jax.tree.flatten(like)
    return jax.tree.unflatten(
        treedef, [typed(leaves[n], w) for n, w in zip(leaves_by_path(like), wanted, strict=True)]
    )


def described(leaf: Any) -> dict[str, Any]:
    """Return the shape and the dtype of a leaf."""
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}


def empty_leaves(about: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return an array for each leaf of a description, to be read into."""
    return {name: np.empty(leaf["shape"], jnp.dtype(leaf["dtype"])) for name, leaf in about.items()}


def digest(leaf: Any) -> str:
    """Return the SHA-256 of a whole array, also of an array that is split over several processes."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return hashlib.sha256(np.ascontiguousarray(np.asarray(leaf)).tobytes()).hexdigest()


def sealed(description: Mapping[str, Any]) -> dict[str, str]:
    """Return a description as a text with the SHA-256 of the whole text."""
    text = json.dumps(description)
    return {"text": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def unsealed(about: Any) -> dict[str, Any]:
    """Return the description that `sealed` has written.

    Raises:
        ValueError: when the text does not agree with its SHA-256.
    """
    if not isinstance(about, Mapping) or not {"text", "sha256"} <= set(about):
        raise ValueError("its description is missing")
    if hashlib.sha256(about["text"].encode()).hexdigest() != about["sha256"]:
        raise ValueError("its description has another SHA-256 than when it was written")
    return json.loads(about["text"])


def check_fits(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise a `MismatchError` unless a checkpoint holds the leaves that are wanted.

    Args:
        there: shape and dtype of each leaf of the checkpoint, by path.
        wanted: shape and dtype of each leaf that is wanted.
    """

    def text(leaf: Mapping[str, Any] | None) -> str:
        return "nothing" if leaf is None else f"{leaf['dtype']}{leaf['shape']}"

    names = [*wanted, *(name for name in there if name not in wanted)]
    wrong = [name for name in names if text(wanted.get(name)) != text(there.get(name))]
    if wrong:
        lines = [
            f"{name}: expected {text(wanted.get(name))}, got {text(there.get(name))}" for name in wrong[:5]
        ]
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise MismatchError(f"does not fit: {'; '.join(lines)}{more}. {_remedy(wrong, there, wanted)}")


PARTS = {
    "params": "The model is another one",
    "opt_state": "The params fit, but the optimizer is another one: its kind, its clipping or its schedule",
    "carry": "The streams are others: their batch size or the model's carry",
    "estimator_state": "The estimator is another one, or its batch size",
    "loss_scale": "The precision is another one",
    "key": "The random key has another implementation, or there is none on one side",
}
"""Parts of a state, and what has changed when a part is the first one that does not fit."""


def _remedy(wrong: list[str], there: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return what has changed between a checkpoint and the state that is wanted, and what to do."""
    both = [name for name in wrong if name in there and name in wanted]
    if len(both) == len(wrong) and all(there[name]["shape"] == wanted[name]["shape"] for name in wrong):
        return "Only dtypes differ. Use the precision of the saved run, and its setting of jax_enable_x64."
    if set(map(_part, wanted)) == {"params"} and "params" not in map(_part, wrong):
        return "Pass the whole state; for params alone use seqjax.training.warm_start."
    for part, text in PARTS.items():
        if part in map(_part, wrong):
            return f"{text}. Use those of the saved run."
    return "Build the state that was saved."


def _part(name: str) -> str:
    """Return the part of a state that a leaf belongs to, by its path."""
    return name.lstrip("['").partition(".")[0].partition("'")[0]
