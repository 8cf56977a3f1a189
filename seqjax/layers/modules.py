"""Modules of flax and other callables in `seqjax.pointwise`: which ones are accepted, and how a module is called."""

import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Cell, Layer

TRAINING, DETERMINISTIC = ("train", "training", "is_training"), ("deterministic",)
"""Arguments of ``__call__`` that say whether a module trains, as flax's guides name them."""


def call_arguments(module: nn.Module, key: Any) -> dict[str, bool]:
    """Return the arguments of ``__call__`` that follow from whether there is a key."""
    parameters = inspect.signature(type(module).__call__).parameters
    found = {name: key is not None for name in TRAINING if name in parameters}
    return found | {name: key is None for name in DETERMINISTIC if name in parameters}


def with_dropout(deterministic: bool) -> Any:
    """Return a context in which all modules inside a module are deterministic, or none."""

    def intercept(call: Callable, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        module: Any = context.module
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        parameters = inspect.signature(type(module).__call__).parameters
        takes, has = "deterministic" in parameters, hasattr(module, "deterministic")
        if takes:
            place = list(parameters).index("deterministic") - 1
            args = args[:place] + ((deterministic, *args[place + 1 :]) if len(args) > place else ())
            if len(args) <= place:
                kwargs = {**kwargs, "deterministic": deterministic}
        if not has:
            return call(*args, **kwargs)
        # flax refuses a field and an argument at once, and modules are frozen.
        before = module.deterministic
        object.__setattr__(module, "deterministic", None if takes else deterministic)
        try:
            return call(*args, **kwargs)
        finally:
            object.__setattr__(module, "deterministic", before)

    return nn.intercept_methods(intercept)


# ---------------------------------------------------------------- what is refused

EXPECTED = "pointwise(module): expected a module of flax.linen or flax.nnx, or a function x -> y"


def check_module(module: Any) -> None:
    """Raise a TypeError, with the remedy, unless `pointwise` can apply a module or function."""
    who = EXPECTED
    name = getattr(module, "__name__", type(module).__name__)
    if isinstance(module, Layer | Cell):
        remedy = "A layer needs no pointwise" if isinstance(module, Layer) else "Write recurrent(cell)"
        raise TypeError(f"{who}, got {module!r}. {remedy}.")
    if isinstance(module, type):
        # jnp.float32 and its siblings cast.
        if isinstance(getattr(module, "dtype", None), np.dtype) or issubclass(module, np.generic):
            return
        raise TypeError(f"{who}, got the class {name}. Make an instance: pointwise({name}(...)).")
    if _library(module) == "haiku" or (hasattr(module, "apply") and not isinstance(module, nn.Module)):
        raise TypeError(
            f"{who}, got {type(module).__module__.partition('.')[0]}'s {type(module).__name__}. Write the module in "
            "flax.linen, or as a Layer with init and step_fn that call it."
        )
    if isinstance(module, nn.Module):
        _check_linen(who, module)
        return
    if not callable(module):
        raise TypeError(f"{who}, got {module!r}.")
    for value, where in _held(module, ""):
        if _library(value) == "flax.nnx":
            raise TypeError(
                f"{who}, got the flax.nnx module {type(value).__name__}{where}. Its weights would be constants that "
                "are never trained. Pass the module itself."
            )
        if isinstance(value, nn.Module):
            raise TypeError(f"{who}, got a method of {type(value).__name__}{where}. Pass the module itself.")
        if _is_array(value):
            raise TypeError(
                f"{who}, got {name}, which holds an array {list(np.shape(value))}{where}. The array would be a "
                "constant that is never trained. Write a flax.linen module with it as a param, or a function that "
                "closes over a constant."
            )


def _check_linen(who: str, module: nn.Module) -> None:
    name = type(module).__name__
    if isinstance(module, nn.RNNCellBase):
        raise TypeError(
            f"{who}, got the cell {name}, which has a carry. Use a cell of seqjax, such as recurrent(lstm(8)), or "
            "seqjax.interop.flax_cell."
        )
    if module.scope is not None:
        raise TypeError(
            f"{who}, got {name} bound to params, which would not be trained. Pass the unbound module."
        )
    parameters = list(inspect.signature(type(module).__call__).parameters.values())[1:]
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    needed = [one for one in needed if one not in (*TRAINING, *DETERMINISTIC)]
    if len(needed) > 1:
        raise TypeError(
            f"{who}, got {name}, whose __call__ takes ({', '.join(needed)}). Wrap it in a module of x alone."
        )


def _library(value: Any) -> str:
    """Return "flax.nnx" or "haiku" for their modules and transforms, without importing either."""
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(value, nnx.Module):
        return "flax.nnx"
    return "haiku" if type(value).__module__.partition(".")[0] == "haiku" else ""


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray) and bool(jnp.issubdtype(value.dtype, jnp.inexact))


def _held(value: Any, where: str, depth: int = 4) -> Iterator[tuple[Any, str]]:
    """Yield what a callable holds: modules, and arrays outside closures, each with its place."""
    if depth == 0:
        return
    if _library(value) == "flax.nnx" or isinstance(value, nn.Module) or _is_array(value):
        yield value, where
    elif isinstance(value, functools.partial):
        for part in (value.func, *value.args, *value.keywords.values()):
            yield from _held(part, " in a partial", depth - 1)
    elif isinstance(value, types.MethodType):
        yield from _held(value.__self__, f" in the object of {value.__func__.__name__}", depth - 1)
    elif isinstance(value, types.FunctionType):
        for cell in value.__closure__ or ():
            try:
                inside = cell.cell_contents
            except ValueError:  # not yet filled
                continue
            if _library(inside) == "flax.nnx":
                yield inside, " in a closure"
            elif isinstance(inside, types.FunctionType | types.MethodType | functools.partial):
                yield from _held(inside, where, depth - 1)
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _held(part, where, depth - 1)
    elif hasattr(value, "__wrapped__"):
        yield from _held(value.__wrapped__, where, depth - 1)
    elif hasattr(value, "__dict__") and not isinstance(value, type | types.ModuleType):
        for name, part in vars(value).items():
            yield from _held(part, f" in its attribute {name}", depth - 1)
