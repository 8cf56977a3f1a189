"""What a check is, and how checks are run: every one gives a row, whatever happens inside it."""

import math
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

DTYPES = ("float64", "float32")
Dtype = Literal["float64", "float32"]


class Values(NamedTuple):
    """What a check compares: arrays of one shape, or numbers.

    ``exact`` is computed from the formula, by NumPy in float64; ``measured`` comes from the probe.
    """

    exact: Any
    measured: Any


class Check(NamedTuple):
    """One closed form and the probe that is held against it.

    Attributes:
        id: C1, C2, ... as in the list of closed forms; one id may have several checks.
        quantity: what is compared, in words.
        measure: ``dtype -> Values``; everything in it is computed in that dtype.
        float64: greatest error allowed in float64.
        float32: greatest error allowed in float32.
        relative: whether errors are relative to the exact value, entry by entry, or absolute.
    """

    id: str
    quantity: str
    measure: Callable[[Any], Values]
    float64: float
    float32: float
    relative: bool = False


class Row(NamedTuple):
    """The outcome of one check. Of several numbers, exact and measured are the two that differ most.

    Attributes:
        id: of the check.
        quantity: of the check.
        exact: the closed form's value; NaN where the check raised.
        measured: the probe's value; NaN where the check raised.
        error: the largest difference, relative if ``relative``.
        tolerance: the largest difference allowed in this dtype.
        relative: whether error and tolerance are relative.
        compared: how many numbers were compared.
        passed: whether the error is within the tolerance; False where it is NaN.
        seconds: compilation and run.
        message: the text of an exception; otherwise empty.
    """

    id: str
    quantity: str
    exact: float
    measured: float
    error: float
    tolerance: float
    relative: bool
    compared: int
    passed: bool
    seconds: float
    message: str = ""


Progress = Callable[[int, int, str], Any]


def run_checks(
    checks: Iterable[Check], dtype: Dtype = "float64", progress: Progress | None = None
) -> tuple[Row, ...]:
    """Every check as a row, in order. A check that raises is a row that failed, with the text of its exception.

    Args:
        checks: what to run.
        dtype: what the probes compute in. Float64 need not be enabled.
        progress: called with the number of checks done, their number in all, and what comes next.

    Raises:
        ValueError: for another dtype.
    """
    if dtype not in DTYPES:
        raise ValueError(f"calibration: expected a dtype of {', '.join(DTYPES)}, got {dtype!r}.")
    checks, rows = tuple(checks), []
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        for i, check in enumerate(checks):
            if progress is not None:
                progress(i, len(checks), f"{check.id} {check.quantity}")
            rows.append(_row(check, dtype))
    if progress is not None:
        progress(len(checks), len(checks), "")
    return tuple(rows)


def _row(check: Check, dtype: Dtype) -> Row:
    start, message = time.perf_counter(), ""
    found = Compared(math.nan, math.nan, math.nan, 0)
    try:
        found = compare(check, *check.measure(jnp.dtype(dtype)))
    except Exception as error:  # one broken probe must not hide what the others say
        message = " ".join(f"{type(error).__name__}: {error}".split())
    tolerance = check.float64 if dtype == "float64" else check.float32
    return Row(
        id=check.id,
        quantity=check.quantity,
        exact=found.exact,
        measured=found.measured,
        error=found.error,
        tolerance=tolerance,
        relative=check.relative,
        compared=found.number,
        passed=found.error <= tolerance,
        seconds=time.perf_counter() - start,
        message=message,
    )


class Compared(NamedTuple):
    """The two numbers that differ most, by how much, and how many were compared."""

    exact: float
    measured: float
    error: float
    number: int


def compare(check: Check, exact: Any, measured: Any) -> Compared:
    """The largest difference, entry by entry; NaN where anything measured is NaN.

    Raises:
        ValueError: for arrays of two shapes, empty ones, or an exact value that is not finite.
    """
    exact, measured = np.asarray(exact, np.float64), np.asarray(measured, np.float64)
    if exact.shape != measured.shape or exact.size == 0:
        raise ValueError(
            f"{check.id}: expected measured values {list(exact.shape)}, got {list(measured.shape)}."
        )
    if not np.isfinite(exact).all():
        raise ValueError(f"{check.id}: expected a closed form that is finite, got {exact}.")
    errors = np.abs(measured - exact)
    if check.relative:
        # An exact zero has no relative error: there anything else is infinitely wrong.
        errors = np.divide(errors, np.abs(exact), out=np.where(errors == 0, errors, np.inf), where=exact != 0)
    worst = int(np.argmax(errors))  # the first NaN, if there is one
    return Compared(
        float(exact.flat[worst]), float(measured.flat[worst]), float(errors.flat[worst]), exact.size
    )


def to_json(rows: Iterable[Row], dtype: Dtype) -> dict[str, Any]:
    """The rows and where they were measured, ready for ``json.dumps``; numbers that are not finite become None."""
    rows = tuple(rows)
    return {
        "dtype": dtype,
        "passed": all(row.passed for row in rows),
        "num_passed": sum(row.passed for row in rows),
        "num_checks": len(rows),
        "seconds": sum(row.seconds for row in rows),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "rows": [{name: _finite(value) for name, value in row._asdict().items()} for row in rows],
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def eps(dtype: Dtype) -> float:
    """The distance from 1 to the next number."""
    return float(jnp.finfo(dtype).eps)
