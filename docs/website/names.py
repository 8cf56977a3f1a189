"""Every public name, by the package that documents it."""

import ast
import inspect
import itertools
import pkgutil
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import seqjax

PACKAGES = (
    "base", "cells", "methods", "layers", "combinators", "blocks", "models", "decode", "gradients",
    "training", "training.distributed", "probes", "tasks", "datasets", "calibration", "compare", "testing", "interop",
    "ops",
)  # fmt: skip
"""In the order of the site: from the words to what is made of them."""

NOT_FOR_USERS = {"register_namedtuples", "vector", "timed", "image", "THEMES", "Dtype", "Progress"}


def is_public(module: ModuleType, name: str) -> bool:
    """Return whether a module without ``__all__`` offers a name: what is defined in it or below, and constants."""
    value = getattr(module, name)
    if name.startswith("_") or name in NOT_FOR_USERS or isinstance(value, ModuleType):
        return False
    if seqjax._HOME.get(name) == module.__name__:
        return True
    if inspect.isclass(value) or inspect.isroutine(value):
        return value.__module__.startswith(module.__name__) and bool(value.__doc__)
    return name.isupper() and not module.__name__.startswith("seqjax.ops")


def is_constant(value: Any) -> bool:
    """Return whether a value has no docstring of its own."""
    return not (inspect.isclass(value) or inspect.isroutine(value))


def docstring_of(package: str, constant: str) -> str:
    """Return the string below the assignment of a constant, in any file of the package or beside `base.py`."""
    place = Path(import_module(f"seqjax.{package}").__file__ or "")
    for file in sorted(
        place.parent.rglob("*.py") if place.name == "__init__.py" else place.parent.glob("*.py")
    ):
        body = ast.parse(file.read_text()).body
        for node, after in itertools.pairwise(body):
            match node, after:
                case ast.Assign() | ast.AnnAssign(), ast.Expr(ast.Constant(str(text))):
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    names = [
                        each for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)
                    ]
                    if constant in {name.id for name in names}:
                        return text
    return ""


def below(package: str) -> list[str]:
    """Return a package; `ops` has its names in its modules, so for `ops` return these."""
    if package != "ops":
        return [package]
    found = pkgutil.walk_packages(seqjax.ops.__path__, "seqjax.ops.")
    return sorted(each.name.removeprefix("seqjax.") for each in found)


def names_of(package: str) -> dict[str, Any]:
    """Return the public names of one package, as a user writes them after ``seqjax.``, with their values.

    The names of one file stand together, functions first. A name that the top of the library offers too is written
    without the package.
    """
    module = import_module(f"seqjax.{package}")
    names = getattr(module, "__all__", None) or [name for name in vars(module) if is_public(module, name)]
    values = {name: getattr(module, name) for name in names}
    values = {name: value for name, value in values.items() if not isinstance(value, ModuleType)}
    files = [getattr(value, "__module__", "") for value in values.values()]
    order = sorted(
        values, key=lambda name: (files.index(getattr(values[name], "__module__", "")), name[0].isupper())
    )
    tops = {
        name for name in order if seqjax._HOME.get(name) == module.__name__ and not is_constant(values[name])
    }
    return {name if name in tops else f"{package}.{name}": values[name] for name in order}


def pages() -> dict[str, dict[str, Any]]:
    """Return all public names by page. A value is on the page of the first package that offers it."""
    found: dict[str, dict[str, Any]] = {}
    taken: set[str] = set()
    for package in PACKAGES:
        found[package] = {}
        for part in below(package):
            for name, value in names_of(part).items():
                is_constant = name.rpartition(".")[2].isupper() and package == "testing"
                if name not in taken and not (is_constant and name != "testing.CHECKS"):
                    found[package][name] = value
        taken |= found[package].keys()
    found["base"]["definition"] = seqjax.definition
    return found
