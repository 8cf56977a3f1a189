"""The time constants that a dtype can represent."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from seqjax.probes.internals.rounding import TF32


def longest_time_constant(dtype: Any) -> float:
    r"""Return the longest time constant :math:`-1 / \ln \lambda` in steps of a decay below one in a dtype.

    The largest number below one is :math:`1 - 2^{-p}` with p digits of precision, so the longest time constant is about
    :math:`2^p`: 256 steps in bfloat16. Storing :math:`\log \lambda` or :math:`1 - \lambda` instead of the decay avoids
    the limit.

    Args:
        dtype: a name or dtype; "tf32" stands for operands of products rounded to ten bits of mantissa.

    Raises:
        ValueError: if `dtype` is not a floating dtype.

    Example:
        >>> [round(longest_time_constant(dtype), 1) for dtype in ("bfloat16", "float16", "tf32", "float32")]
        [255.5, 2047.5, 2047.5, 16777215.5]
    """
    return -1 / math.log1p(-_gap_below_one("longest_time_constant", dtype))


def unrepresentable_share(decays: Any, dtype: Any) -> float:
    r"""Return the share of decays, or eigenvalues, whose finite time constant is too long for a dtype.

    Such a decay has :math:`1 - 2^{-p} < |\lambda| < 1`. It is rounded to one, so that the state does not decay, or to
    the largest number below one. A modulus of one or more has no finite time constant and does not count.

    Args:
        decays: real or complex numbers of any shape. The modulus of a complex number counts.
        dtype: as in `longest_time_constant`.

    Raises:
        ValueError: for an empty array, NaN, or if `dtype` is not a floating dtype.

    Example:
        >>> import numpy as np
        >>> unrepresentable_share(np.array([0.9, 0.99, 0.999, 0.9999]), "bfloat16")
        0.5
    """
    who = "unrepresentable_share"
    gap = _gap_below_one(who, dtype)
    decays = np.asarray(decays)
    modulus = np.abs(decays.astype(np.complex128 if np.iscomplexobj(decays) else np.float64))
    if modulus.size == 0 or np.any(np.isnan(modulus)):
        raise ValueError(f"{who}: expected decays that are numbers, at least one, got {decays}.")
    return float(np.mean((1 - modulus < gap) & (modulus < 1)))


def dtype_names(who: str, dtypes: Any) -> list[str]:
    """Return the names of floating dtypes, "tf32" included; raise a ValueError for anything else, or for none."""
    wanted = "floating dtypes such as 'bfloat16', 'float16', 'float32' or 'tf32'"
    found = []
    for dtype in [dtypes] if isinstance(dtypes, str) else dtypes:
        if isinstance(dtype, str) and dtype == "tf32":
            found.append(dtype)
            continue
        try:
            name = None if dtype is None else jnp.dtype(dtype).name  # to NumPy None is float64
        except TypeError:
            name = None
        if name is None or not jnp.issubdtype(name, jnp.floating):
            raise ValueError(f"{who}: expected {wanted}, got {dtype!r}.")
        found.append(name)
    if not found:
        raise ValueError(f"{who}: expected {wanted}, got none.")
    return found


def _gap_below_one(who: str, dtype: Any) -> float:
    """Return one minus the largest number below one."""
    (name,) = dtype_names(who, [dtype])
    return 2.0 ** -(TF32.mantissa_bits + 1) if name == "tf32" else float(jnp.finfo(name).epsneg)
