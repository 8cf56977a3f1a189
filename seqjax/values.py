"""Definitions are values: they compare, hash, print and pickle by their factory and its arguments.

A factory decorated with `definition` marks its results with their *origin*: the factory and its arguments. Two
definitions are equal when their origins are equal. An origin is stored as a *token*: a nested tuple of plain values,
tagged with their types (so that ``1``, ``1.0`` and ``True`` differ), from which `build` makes the definition again.
So definitions can be static arguments of ``jax.jit``, keys, and parts of saved files.

A definition without an origin (written by hand, or changed by ``dataclasses.replace``) equals only itself.
"""

import dataclasses
import enum
import functools
import importlib
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from seqjax.checks import check_type
from seqjax.hints import argument_hint, method_hint

P = ParamSpec("P")
R = TypeVar("R", bound="Definition")
PLAIN = (bool, int, str, bytes, type(None))


class Opaque:
    """A function that cannot be found by name (a lambda, a closure): it equals only itself and cannot be pickled."""

    def __init__(self, value: Any, where: str):
        self.value, self.where = value, where

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and self.value is other.value

    def __hash__(self) -> int:
        return object.__hash__(self.value)

    def __reduce__(self) -> Any:
        raise TypeError(
            f"{self.where}: expected something that can be found by name to save it, got {self.value!r}. "
            "Define it at the top level of a module."
        )


class Value:
    """Mixin of frozen dataclasses that print as the call that makes them, without arguments at their defaults.

    A NumPy number in a field becomes a Python number, and a list becomes a tuple, so that the value can be compared,
    hashed and printed like any other. Values that `definition` refuses as arguments, such as arrays, raise a TypeError
    here too, and values that do not fit the annotation of their field a ValueError.
    A subclass calls ``super().__post_init__()`` after checks of its own, whose errors know the bounds.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = _tuples(getattr(self, field.name))
            tokenize(value, f"{type(self).__name__}({field.name}=...)")
            check_type(f"{type(self).__name__}({field.name})", value, field.type)
            object.__setattr__(self, field.name, value)

    def __repr__(self) -> str:
        return show(tokenize(self, type(self).__name__))


class Definition:
    """Base of `seqjax.Cell`, `seqjax.Layer` and `seqjax.Estimator`: value semantics by origin."""

    _token: tuple | None = None

    def __eq__(self, other: object) -> bool:
        if self is other or self._token is None or not isinstance(other, Definition):
            return self is other
        return type(self) is type(other) and self._token == other._token

    def __hash__(self) -> int:
        return object.__hash__(self) if self._token is None else hash(self._token)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} without origin>" if self._token is None else show(self._token)

    if not TYPE_CHECKING:  # type checkers would take any name for an attribute

        def __getattr__(self, name: str) -> Any:
            kind = type(self).__name__
            raise AttributeError(f"{kind!r} object has no attribute {name!r}.{method_hint(kind, name)}")

    def __reduce__(self) -> Any:
        return super().__reduce__() if self._token is None else (build, (self._token,))


def definition(factory: Callable[P, R]) -> Callable[P, R]:
    """Make the results of a factory compare, hash, print and pickle by the factory's arguments.

    Args:
        factory: a function that returns a `Definition`. Its arguments may be numbers, strings, tuples (lists become
            tuples), dtypes, enum members, other definitions, dataclasses (flax modules among them) and functions.

    Raises:
        TypeError: when an argument is of another kind, such as an array.
        ValueError: when an argument does not fit its annotation, see `seqjax.checks.check_type`. The checks of the
            factory itself come first.

    Example:
        >>> import pickle
        >>> from seqjax import lstm
        >>> lstm(8) == lstm(hidden_size=8), lstm(8) == lstm(8, forget_bias=0.0)
        (True, False)
        >>> pickle.loads(pickle.dumps(lstm(8)))
        lstm(hidden_size=8)
    """
    signature = inspect.signature(factory)

    @functools.wraps(factory)
    def make(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(_wrong_call(factory.__name__, signature, kwargs, error)) from None
        bound.apply_defaults()
        tokens = []
        for name, value in bound.arguments.items():
            bound.arguments[name] = value = _tuples(value)
            tokens.append((name, tokenize(value, f"{factory.__name__}({name}=...)")))

        def check_arguments() -> None:
            for name, parameter in signature.parameters.items():
                if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                    check_type(f"{factory.__name__}({name})", bound.arguments[name], parameter.annotation)

        try:
            made = factory(*bound.args, **bound.kwargs)
        except Exception as error:
            if not str(error).startswith(factory.__name__):  # the checks of the factory itself know more
                check_arguments()
            raise
        check_arguments()
        # A copy, because a factory may return one of its arguments, which has its own origin.
        value = dataclasses.replace(made)  # type: ignore[type-var]
        object.__setattr__(value, "_token", ("made", tokenize(make, factory.__name__), tuple(tokens)))
        return value

    return make


def _wrong_call(name: str, signature: inspect.Signature, given: dict[str, Any], error: TypeError) -> str:
    """Return the text of the error of a call that does not fit the signature of a factory."""
    takes = signature.parameters
    unknown = [each for each in given if each not in takes]
    if not unknown or any(each.kind is each.VAR_KEYWORD for each in takes.values()):
        return f"{name}: {error}. It takes {', '.join(takes)}."
    hint = argument_hint(name, unknown[0], takes)
    return f"{name}: got an unexpected keyword argument {unknown[0]!r}. It takes {', '.join(takes)}.{hint}"


def origin(value: Definition) -> tuple[Callable, dict[str, Any]] | None:
    """Return the factory of a definition and its arguments; None for a definition that was written by hand.

    Example:
        >>> from seqjax import lstm
        >>> factory, arguments = origin(lstm(8))
        >>> factory is lstm, arguments["hidden_size"]
        (True, 8)
    """
    if value._token is None or value._token[0] != "made":
        return None
    _, factory, arguments = value._token
    return build(factory), {name: build(token) for name, token in arguments}


def tokenize(value: Any, where: str) -> tuple:
    """Return the token of a value; `where` names the argument in errors."""
    if isinstance(value, enum.Enum):
        return ("enum", tokenize(type(value), where), value.name)
    if isinstance(value, PLAIN):
        return (type(value).__name__, value)
    if isinstance(value, float | complex):
        return (type(value).__name__, repr(value))  # by repr: nan equals itself, 0.0 differs from -0.0
    if isinstance(value, tuple):
        return ("tuple", tuple(tokenize(item, where) for item in value))
    if isinstance(value, Definition):
        return ("opaque", Opaque(value, where)) if value._token is None else value._token
    if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
        return ("dtype", np.dtype(value).name)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (
            (f, _tuples(getattr(value, f.name)))
            for f in dataclasses.fields(value)
            if f.init and f.name != "parent"
        )
        changed = tuple((f.name, tokenize(v, f"{where}.{f.name}")) for f, v in fields if not _default(f, v))
        return ("dataclass", tokenize(type(value), where), changed)
    if isinstance(value, functools.partial):
        pieces = (value.func, _tuples(value.args), _tuples(tuple(sorted(value.keywords.items()))))
        return ("partial", tuple(tokenize(piece, where) for piece in pieces))
    if hasattr(value, "__name__") and isinstance(getattr(value, "dtype", None), np.dtype):
        return ("dtype", np.dtype(value.dtype).name)  # jnp.float32 and its siblings
    if callable(value):
        name = _public_name(value)
        return ("opaque", Opaque(value, where)) if name is None else ("name", name)
    hint = "an array belongs in the params" if hasattr(value, "shape") else "a value of this type has no name"
    raise TypeError(
        f"{where}: expected a number, string, tuple, dtype, function, definition or dataclass, "
        f"got {type(value).__name__}: {hint}."
    )


def build(token: tuple) -> Any:
    """Build the value of a token."""
    kind, *rest = token
    match kind:
        case "made":
            return _call(build(rest[0]), [(name, build(value)) for name, value in rest[1]])
        case "dataclass":
            return build(rest[0])(**{name: build(value) for name, value in rest[1]})
        case "partial":
            function, args, keywords = map(build, rest[0])
            return functools.partial(function, *args, **dict(keywords))
        case "tuple":
            return tuple(map(build, rest[0]))
        case "enum":
            return build(rest[0])[rest[1]]
        case "name":
            return _find(rest[0])
        case "dtype":
            return np.dtype(rest[0])
        case "float" | "complex":
            return {"float": float, "complex": complex}[kind](rest[0])
        case "opaque":
            return rest[0].value
        case _:
            return rest[0]


def show(token: tuple) -> str:
    """Return the Python expression that makes the value of a token, without arguments at their defaults."""
    kind, *rest = token
    match kind:
        case "made":
            factory = build(rest[0])
            parameters = inspect.signature(factory).parameters
            texts: list[str] = []
            for name, value in rest[1]:
                parameter = parameters[name]
                if parameter.kind is parameter.VAR_POSITIONAL:
                    texts += map(show, value[1])
                elif (
                    parameter.default is parameter.empty
                    or tokenize(_tuples(parameter.default), name) != value
                ):
                    texts.append(f"{name}={show(value)}")
            return f"{factory.__name__}({', '.join(texts)})"
        case "dataclass":
            return (
                f"{build(rest[0]).__name__}({', '.join(f'{name}={show(value)}' for name, value in rest[1])})"
            )
        case "partial":
            function, args, keywords = rest[0]
            texts = [show(function), *map(show, args[1])]
            texts += [f"{pair[1][0][1]}={show(pair[1][1])}" for pair in keywords[1]]
            return f"partial({', '.join(texts)})"
        case "tuple":
            texts = list(map(show, rest[0]))
            return f"({', '.join(texts)}{',' if len(texts) == 1 else ''})"
        case "enum":
            return rest[1]
        case "name":
            return rest[0].replace(":", ".")
        case "dtype" | "float" | "complex":
            return rest[0]
        case "opaque":
            text = getattr(rest[0].value, "__name__", None) or repr(rest[0].value)
            return text if "\n" not in text else f"{type(rest[0].value).__name__}(...)"
        case _:
            return repr(rest[0])


def _tuples(value: Any) -> Any:
    """Turn lists into tuples and NumPy scalars into Python numbers, at any depth."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (list, tuple):
        return tuple(map(_tuples, value))
    return value


def _default(field: dataclasses.Field, value: Any) -> bool:
    factory = field.default_factory
    default = factory() if factory is not dataclasses.MISSING else field.default
    return type(default) is type(value) and (
        default is value or (isinstance(value, (*PLAIN, float, complex)) and repr(default) == repr(value))
    )


def _call(function: Callable, arguments: list[tuple[str, Any]]) -> Any:
    signature = inspect.signature(function)
    bound = inspect.BoundArguments(signature, dict(arguments))  # type: ignore[arg-type]
    return function(*bound.args, **bound.kwargs)


def _find(name: str) -> Any:
    module, _, path = name.partition(":")
    return functools.reduce(getattr, path.split("."), importlib.import_module(module))


def _public_name(value: Any) -> str | None:
    """Return the name ``module:path`` of a function or class, with the shortest public module, or None."""
    path = getattr(value, "__qualname__", None)
    module = getattr(value, "__module__", None) or ""
    parts = [part for part in module.split(".") if not part.startswith("_") or part == "__main__"]
    for length in range(1, len(parts) + 1):
        name = f"{'.'.join(parts[:length])}:{path}"
        try:
            if path and _find(name) is value:
                return name
        except (ImportError, AttributeError, ValueError):
            continue
    return None
