"""Load a user's model, ``file.py:function`` or ``package.module:function``, as a layer."""

import functools
import hashlib
import importlib
import importlib.machinery
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from seqjax.base import Cell, Layer, Step
from seqjax.layers.recurrent import recurrent
from seqjax.local_modules import local_files
from seqjax.methods import Scan
from seqjax.ops.select import cast

CONTRACT = (
    "build() -> (params, step) or (params, step, carry), with step(params, carry, x) -> (carry, y) for one example at "
    "one time step, x [D] with D the hidden size; or build() -> a seqjax Cell or Layer from vectors to vectors"
)
TOKENS = "vocabulary_size"
"""The argument of a ``build`` that makes a model of tokens."""
OUTPUTS = "num_outputs"
"""The argument of a ``build`` that makes a model with an output map of its own."""


def is_own(name: str) -> bool:
    """Return whether a name is that of a user's model, not of a cell in the registry."""
    return ":" in name


def source_of(name: str) -> Path | None:
    """Return the file of the function ``file.py:function`` or ``package.module:function``, without running any code.

    Example:
        >>> from seqjax.user_model import source_of
        >>> source_of("seqjax.user_model:source_of").name, source_of("nowhere.module:build")
        ('user_model.py', None)
    """
    place = name.rpartition(":")[0]
    if place.endswith(".py"):
        return Path(place).absolute() if os.path.isfile(place) else None
    found, folders = None, [str(Path.cwd()), *sys.path]
    for part in place.split("."):
        spec = importlib.machinery.PathFinder.find_spec(part, folders)
        if spec is None:
            return None
        found, folders = spec.origin, list(spec.submodule_search_locations or [])
    return Path(found) if found and os.path.isfile(found) else None


def source_digests(name: str) -> dict[str, str]:
    """Return the SHA-256 of the file of a function and of every file that it imports from its own folder.

    Returns:
        The digests by path, relative to the folder; nothing where there is no such file. See
        `seqjax.local_modules.local_files`.
    """
    path = source_of(name)
    if path is None:
        return {}
    place = name.rpartition(":")[0]
    dots = 0 if place.endswith(".py") else place.count(".") + (path.name == "__init__.py")
    files = local_files(path, dots)
    return {each: hashlib.sha256(file.read_bytes()).hexdigest() for each, file in files.items()}


def source_digest(name: str) -> str | None:
    """Return one SHA-256 for the files of `source_digests`, or None where there is no such file.

    It is the SHA-256 of the file itself where the file imports nothing from its own folder.
    """
    found = source_digests(name)
    if len(found) < 2:
        return next(iter(found.values()), None)
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def check_allowed(name: str, allow_code: bool, remedy: str) -> None:
    """Refuse a model that is a function of the user, unless running its code is allowed.

    Args:
        name: the name of a model.
        allow_code: whether its code may run.
        remedy: how to allow it.

    Raises:
        ValueError: names the file and its SHA-256.

    Example:
        >>> from seqjax.user_model import check_allowed
        >>> check_allowed("lstm", False, "")
        >>> try:
        ...     check_allowed("nowhere.py:build", False, "Pass allow_code=True.")
        ... except ValueError as error:
        ...     print(error)
        the model 'nowhere.py:build' is code, in a file that does not exist. It was not run. Pass allow_code=True.
    """
    if allow_code or not is_own(name):
        return
    path = source_of(name)
    where = "a file that does not exist" if path is None else f"{path} (SHA-256 {source_digest(name)})"
    raise ValueError(f"the model {name!r} is code, in {where}. It was not run. {remedy}")


@functools.cache
def find_function(name: str, contract: str = CONTRACT) -> Callable:
    """Return the function ``file.py:function`` or ``package.module:function``.

    Args:
        name: the file or module, a colon, and the name of the function.
        contract: the signature that the function should have, for the error.

    Raises:
        ValueError: when there is no such function, or when importing its file fails.
    """
    place, _, attribute = name.rpartition(":")
    is_file = place.endswith(".py")
    if is_file and not os.path.isfile(place):
        raise ValueError(f"{name}: expected a Python file, got {place!r}, which does not exist.")
    folder = str(Path(place).resolve().parent if is_file else Path.cwd())
    # The file can import modules from its own folder, as when Python runs it.
    sys.path.insert(0, folder)
    try:
        if is_file:
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{name}: importing {place} failed: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)
    found = getattr(module, attribute, None)
    if not callable(found):
        raise ValueError(f"{name}: expected a function {attribute!r} in {place}: {contract}.")
    return found


def takes(name: str, argument: str) -> bool:
    """Return whether a ``build`` function has an argument of this name.

    Raises:
        ValueError: as `find_function` does.
    """
    try:
        return argument in inspect.signature(find_function(name)).parameters
    except (TypeError, ValueError) as error:
        if isinstance(error, ValueError) and str(error).startswith(name):
            raise
        return False  # some builtins have no signature


@functools.cache
def own_layer(
    name: str,
    width: int,
    method: Any,
    *,
    seed: int = 0,
    vocabulary_size: int | None = None,
    num_outputs: int | None = None,
) -> Layer:
    """Return the layer that a ``build`` function makes.

    * A `Cell` runs under the method; a `Layer` is used as it is.
    * ``(params, step)`` or ``(params, step, carry)``: ``step(params, carry, x) -> (carry, y)`` is one time step of one
      example. ``carry`` is the initial carry, a pytree or ``(params, x) -> pytree``. Without ``carry``, step must
      accept None; the initial carry is then zeros in the form of the carry that step returns.

    ``build`` gets ``hidden_size``, ``seed``, ``vocabulary_size`` and ``num_outputs`` where it has arguments of these
    names. A ``build`` that takes ``vocabulary_size`` makes a model of tokens, with an embedding: x is an integer. A
    ``build`` that takes ``num_outputs`` makes a model whose y are the outputs of the task. The params of a model of
    tokens are float32.

    Args:
        name: the name of the function, as `find_function` takes it.
        width: the hidden size, which is the width D of x unless x is a token.
        method: the method of a cell.
        seed: the seed of params that the function draws itself.
        vocabulary_size: the number of different tokens; None where inputs are real numbers.
        num_outputs: the number of outputs of the task.

    Raises:
        ValueError: when the function fails, or the step does not follow this contract on x ``[D]`` or the token x; when
            the function makes a model of tokens and inputs are real numbers.
        TypeError: when the function returns a value of another type.
    """
    made = _made(name, width, seed, vocabulary_size, num_outputs)
    if isinstance(made, Cell):
        return recurrent(made, method)
    if isinstance(made, Layer):
        return made
    params = _arrays(name, made[0])
    x = jax.ShapeDtypeStruct(*(((), jnp.int32) if takes(name, TOKENS) else ((width,), jnp.float32)))
    cast_params = cast(params, jnp.float32)  # as the layer will cast them
    first = _first_carry(name, cast_params, made[1], made[2] if len(made) == 3 else None, x)
    _check_step(name, made[1], cast_params, first, x)
    return recurrent(_cell(made[1], params, first, x.ndim), Scan(gradient="autodiff"))


def own_params(
    name: str,
    width: int,
    seed: int,
    *,
    vocabulary_size: int | None = None,
    num_outputs: int | None = None,
) -> Any:
    """Return the params of a seed, or None where the function draws none itself.

    A function that takes no ``seed`` gives every seed the same params; a `Cell` or `Layer` draws its params from a key.

    Raises:
        ValueError: when the params of two seeds differ in structure, shape or dtype.
    """
    if not takes(name, "seed"):
        return None
    first, made = (_made(name, width, each, vocabulary_size, num_outputs) for each in (0, seed))
    if isinstance(made, Cell | Layer):
        return None
    params = [_arrays(name, each[0]) for each in (first, made)]
    forms = [_form(each) for each in params]
    if forms[0] != forms[1]:
        raise ValueError(
            f"{name}: expected params of one form for every seed, {forms[0]} for seed 0, got {forms[1]} for seed "
            f"{seed}. Use the seed for values alone."
        )
    return params[1]


def _arrays(name: str, params: Any) -> Any:
    """Return params as arrays; float32 for a model of tokens, which have no dtype to cast them to."""
    params = jax.tree.map(jnp.asarray, params)
    return cast(params, jnp.float32) if takes(name, TOKENS) else params


def _made(name: str, width: int, seed: int, vocabulary_size: int | None, num_outputs: int | None) -> Any:
    """Return what a ``build`` function returns: a Cell, a Layer, or a tuple with a step."""
    given = {"hidden_size": width, "seed": seed, TOKENS: vocabulary_size, OUTPUTS: num_outputs}
    given = {argument: value for argument, value in given.items() if takes(name, argument)}
    if TOKENS in given and vocabulary_size is None:
        raise ValueError(
            f"{name}: expected a task of tokens for build({TOKENS}), got real inputs. Choose another task, or write a "
            f"build without {TOKENS}."
        )
    try:
        made = find_function(name)(**given)
    except TypeError as error:
        raise ValueError(f"{name}: {error}. Expected {CONTRACT}.") from error
    except SystemExit as error:
        raise ValueError(f"{name}: the function ended the program ({error}). Expected {CONTRACT}.") from error
    if isinstance(made, Cell | Layer):
        return made
    if not isinstance(made, tuple) or len(made) not in (2, 3) or not callable(made[1]):
        raise TypeError(f"{name}: expected {CONTRACT}; got {_described(made)}.")
    return made


def _cell(step: Callable, params: Any, first: Callable, event_ndim: int) -> Cell:
    def batched(params: Any, carry: Any, x: jax.Array) -> Any:
        function = step
        for _ in range(x.ndim - event_ndim):
            function = jax.vmap(function, (None, 0, 0))
        return function(params, carry, x)

    def initial_carry(params: Any, x: jax.Array) -> Any:
        function = first
        for _ in range(x.ndim - event_ndim):
            function = jax.vmap(function, (None, 0))
        return function(params, jnp.zeros(x.shape, x.dtype))

    return Cell(
        init=lambda key, x: params,
        initial_carry=initial_carry,
        recurrence=Step(batched),
        event_ndim=event_ndim,
    )


def _first_carry(name: str, params: Any, step: Callable, carry: Any, x: Any) -> Callable:
    """Return ``(params, x) -> carry`` for one example, in the dtype of x; of params for a token."""
    if callable(carry):
        make = carry
    elif carry is not None:
        make = lambda params, x: carry  # noqa: E731
    else:
        found = _try(name, step, params, None, x, " Return (params, step, carry) if step cannot take None.")
        if not isinstance(found, tuple) or len(found) != 2:
            raise TypeError(f"{name}: expected {CONTRACT}; step returned {_described(found)}.")
        make = lambda params, x: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), found[0])  # noqa: E731

    def first(params: Any, x: Any) -> Any:
        dtypes = [
            leaf.dtype for leaf in (x, *jax.tree.leaves(params)) if jnp.issubdtype(leaf.dtype, jnp.floating)
        ]

        def fit(leaf: Any) -> jax.Array:
            leaf = jnp.asarray(leaf)
            return leaf.astype(dtypes[0]) if dtypes and jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

        return jax.tree.map(fit, make(params, x))

    return first


def _check_step(name: str, step: Callable, params: Any, first: Callable, x: Any) -> None:
    carry = jax.eval_shape(first, params, x)
    found = _try(name, step, params, carry, x, "")
    if not isinstance(found, tuple) or len(found) != 2:
        raise TypeError(f"{name}: expected {CONTRACT}; step returned {_described(found)}.")
    if _form(found[0]) != _form(carry):
        raise ValueError(
            f"{name}: expected step to return a carry like its argument, {_form(carry)}, got {_form(found[0])}. "
            "Cast or reshape inside step."
        )
    if getattr(found[1], "ndim", None) != 1:
        raise ValueError(f"{name}: expected step to return y [D], one vector, got {_form(found[1])}.")


def _try(name: str, step: Callable, params: Any, carry: Any, x: Any, hint: str) -> Any:
    try:
        return jax.eval_shape(step, params, carry, x)
    except (Exception, SystemExit) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ValueError(
            f"{name}: step(params, carry, x) failed on carry {_form(carry)} and x {_form(x)}: "
            f"{type(error).__name__}: {line}.{hint} Expected {CONTRACT}."
        ) from error


def _form(tree: Any) -> str:
    leaves, treedef = jax.tree.flatten(tree)
    shown = jax.tree.unflatten(treedef, [f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves])
    return str(shown).replace("'", "")


def _described(value: Any) -> str:
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else type(value).__name__
