"""Calibration: every probe against closed forms. `run` returns the table at the top of each report.

`CHECKS` lists the checks. Each check belongs to one id of the closed forms (C1 to C28, see `CLOSED_FORMS`). It computes
the exact value from the formula by NumPy in float64, and the measured value with the probe in the calibrated dtype.
"""

from collections.abc import Iterable

from seqjax.calibration import (
    algorithms,
    baselines,
    estimators,
    influence,
    lyapunov,
    precision,
    singular,
    transport,
)
from seqjax.calibration.base import DTYPES, Check, Dtype, Progress, Row, Values, run_checks, to_json
from seqjax.calibration.closed_forms import CLOSED_FORMS, ClosedForm

THEMES = (singular, lyapunov, transport, influence, estimators, baselines, algorithms, precision)
CHECKS: tuple[Check, ...] = tuple(
    sorted((check for theme in THEMES for check in theme.CHECKS), key=lambda check: int(check.id[1:]))
)
"""Every check, in the order of the closed forms."""

IDS: tuple[str, ...] = tuple(dict.fromkeys(check.id for check in CHECKS))
"""The ids of the closed forms that have checks, such as ``"C1"``."""


def run(
    dtype: Dtype = "float64", *, only: Iterable[str] | None = None, progress: Progress | None = None
) -> tuple[Row, ...]:
    """Run the checks and return one row each, in the order of their ids.

    Args:
        dtype: the dtype of the probes, "float64" or "float32"; each check has a tolerance for both. The function
            enables float64 by itself and restores the setting.
        only: ids such as "C5"; None for all.
        progress: called with the number of finished checks, the number of all checks, and the name of the next check.

    Raises:
        ValueError: for an unknown dtype or id.

    Example:
        >>> from seqjax import calibration
        >>> row = calibration.run(only=["C25"])[0]
        >>> row.passed, row.exact, row.measured
        (True, 3636.0, 3636.0)
    """
    ids = set(IDS if only is None else only)
    if not ids or ids - set(IDS):
        raise ValueError(
            f"calibration: expected ids among {', '.join(IDS)}, got {', '.join(sorted(ids - set(IDS))) or 'none'}."
        )
    return run_checks((check for check in CHECKS if check.id in ids), dtype, progress)


__all__ = [
    "CHECKS", "CLOSED_FORMS", "Check", "ClosedForm", "DTYPES", "IDS", "Row", "Values", "run",
    "run_checks", "to_json",
]  # fmt: skip
