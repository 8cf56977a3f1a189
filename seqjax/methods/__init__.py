"""Methods: algorithms that run a cell over time. Params do not depend on the method, so methods are interchangeable."""

from seqjax.base import Cell, Method
from seqjax.methods.associative_scan import AssociativeScan
from seqjax.methods.auto import Auto
from seqjax.methods.chunked import Chunked
from seqjax.methods.common import at_step
from seqjax.methods.fused import Fused
from seqjax.methods.named import METHODS, NAMED, named_method
from seqjax.methods.newton import Newton, NewtonReport
from seqjax.methods.scan import Scan
from seqjax.methods.time_sharded import TimeSharded


def check_method(method: Method, cell: Cell) -> None:
    """Raise a TypeError unless `method` is a method that runs the cell's kind of recurrence."""
    if isinstance(method, type) or not isinstance(method, Method):
        named = [m.__name__ for m in METHODS if m is method or m.__name__.lower() == str(method).lower()]
        remedy = f"Write {named[0]}()." if named else "Write Auto(), or leave the argument out."
        found = f"the class {method.__name__}" if isinstance(method, type) else repr(method)
        raise TypeError(
            f"recurrent(method): expected a method such as Auto() or Chunked(), got {found}. {remedy}"
        )
    if isinstance(cell.recurrence, method.kinds):
        return
    kind = type(cell.recurrence)
    can = ", ".join(m.__name__ for m in METHODS if kind in m.kinds)  # type: ignore[attr-defined]
    runs = ", ".join(k.__name__ for k in method.kinds)
    raise TypeError(
        f"{method!r} cannot run {cell!r}: its recurrence is {kind.__name__}; "
        f"{type(method).__name__} runs {runs}. Methods that can: {can}."
    )


__all__ = [
    "AssociativeScan", "Auto", "Chunked", "Fused", "METHODS", "NAMED", "Newton", "NewtonReport", "Scan",
    "TimeSharded", "at_step", "check_method", "named_method",
]  # fmt: skip
