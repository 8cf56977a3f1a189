"""Checks, and the function that runs them. Each check returns a row, even if it raises."""

import math
import time
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

DTYPES = ("float64", "float32")
"""The dtypes of a calibration."""

Dtype = Literal["float64", "float32"]


class Values(NamedTuple):
    """The values that a check compares: arrays of one shape, or numbers.

    ``exact`` is computed from the formula, by NumPy in float64; ``measured`` comes from the probe.
    """

    exact: Any
    measured: Any


class Check(NamedTuple):
    """One closed form and the probe to compare with it.

    Attributes:
        id: C1, C2, ... as in the list of closed forms; one id may have several checks.
        quantity: the compared quantity in words.
        measure: ``dtype -> Values``; the probe computes in that dtype.
        float64: the tolerance in float64.
        float32: the tolerance in float32.
        relative: whether errors are relative to the exact value, entry by entry, or absolute.
    """

    id: str
    quantity: str
    measure: Callable[[Any], Values]
    float64: float
    float32: float
    relative: bool = False


class Row(NamedTuple):
    """The result of one check. Of several numbers, `exact` and `measured` are the pair with the largest error.

    Attributes:
        id: the id of the check.
        quantity: the quantity of the check.
        exact: the value of the closed form; NaN if the check raised.
        measured: the value of the probe; NaN if the check raised.
        error: the largest error, relative if ``relative``.
        tolerance: the tolerance in this dtype.
        relative: whether error and tolerance are relative.
        compared: the number of compared numbers.
        passed: whether the error is within the tolerance; False for NaN.
        seconds: the time of compilation and run.
        message: the text of an exception; empty if the check did not raise.
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
    """Run checks in order and return one row each. A check that raises fails, with the text of its exception.

    Args:
        checks: the checks to run.
        dtype: the dtype of the probes. The function enables float64 by itself.
        progress: called with the number of finished checks, the number of all checks, and the name of the next check.

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
    except Exception as error:  # a broken probe must not hide the results of the others
        message = " ".join(f"{type(error).__name__}: {error}".split())
    tolerance = check.float64 if dtype == "float64" else check.float32
    return Row(
        id=check.id,
        quantity=check.quantity,
        **found._asdict(),
        tolerance=tolerance,
        relative=check.relative,
        passed=found.error <= tolerance,
        seconds=time.perf_counter() - start,
        message=message,
    )


class Compared(NamedTuple):
    """The pair of numbers with the largest error, that error, and the number of compared numbers."""

    exact: float
    measured: float
    error: float
    compared: int


def compare(check: Check, exact: Any, measured: Any) -> Compared:
    """Return the largest error, entry by entry; NaN if a measured number is NaN.

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
        # Relative to an exact zero, any other number has an infinite error.
        errors = np.divide(errors, np.abs(exact), out=np.where(errors == 0, errors, np.inf), where=exact != 0)
    worst = int(np.argmax(errors))  # the first NaN, if there is one
    expected, found, error = (float(values.flat[worst]) for values in (exact, measured, errors))
    return Compared(expected, found, error, exact.size)


def to_json(rows: Iterable[Row], dtype: Dtype) -> dict[str, Any]:
    """Return rows, device and versions for ``json.dumps``; numbers that are not finite become None."""
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


def roundings(number: float) -> tuple[float, float]:
    """Return the tolerances of a number of roundings: as many times the machine epsilon of float64 and of float32."""
    return number * float(jnp.finfo("float64").eps), number * float(jnp.finfo("float32").eps)


def relative(
    id: str, quantity: str, measure: Callable[[Any], Values], float64: float, float32: float | None = None
) -> Check:
    """Return a `Check` with relative errors; one tolerance stands for both dtypes."""
    return Check(id, quantity, measure, float64, float64 if float32 is None else float32, relative=True)
