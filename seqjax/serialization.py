"""Registration of NamedTuples with `jax.export`, so that exported models can be written to a file."""

import sys
from typing import Any

from jax import export


def register_namedtuples(package: str) -> None:
    """Register every NamedTuple of the imported modules of a package: params and carries.

    A package of seqjax calls this when it is imported. The name in a file is that of the class, such as
    ``seqjax.cells.lstm.LSTMParams``.
    """
    modules = [module for name, module in sys.modules.items() if f"{name}.".startswith(f"{package}.")]
    for module in modules:
        for value in list(vars(module).values()):
            if _is_namedtuple(value) and value.__module__ == module.__name__:
                try:
                    export.register_namedtuple_serialization(
                        value, serialized_name=f"{value.__module__}.{value.__qualname__}"
                    )
                except ValueError:  # the package was imported again
                    continue


def _is_namedtuple(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields")
