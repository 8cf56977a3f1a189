"""Which time constants a dtype can hold."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from seqjax.probes.rounding import TF32


def longest_time_constant(dtype: Any) -> float:
    r"""The longest time constant :math:`-1 / \ln \lambda` in steps of a decay below one that the dtype can hold.

    The largest number below one is :math:`1 - 2^{-p}` with p digits of precision, so it is about :math:`2^p`: 256 steps
    in bfloat16. Keeping :math:`\log \lambda`, or :math:`1 - \lambda`, instead of the decay itself avoids the limit.

    Args:
        dtype: a name or dtype; "tf32" for the operands of products that are rounded to ten bits of mantissa.

    Raises:
        ValueError: for something that is no floating dtype.

    Example:
        >>> [round(longest_time_constant(dtype), 1) for dtype in ("bfloat16", "float16", "tf32", "float32")]
        [255.5, 2047.5, 2047.5, 16777215.5]
    """
    return -1 / math.log1p(-_gap_below_one("longest_time_constant", dtype))


def unrepresentable_share(decays: Any, dtype: Any) -> float:
    r"""The share of decays, or eigenvalues, whose time constant is finite and longer than the dtype can hold.

    That is :math:`1 - 2^{-p} < |\lambda| < 1`: such a decay is rounded to one, which never forgets, or to the largest
    number below one. A modulus of one or more has no finite time constant and does not count.

    Args:
        decays: real or complex, any shape; of complex ones the modulus counts.
        dtype: as in `longest_time_constant`.

    Raises:
        ValueError: for no decays at all, NaN among them, or something that is no floating dtype.

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
    """The names of floating dtypes, "tf32" among them; a ValueError for anything else, or for none."""
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
    """One minus the largest number below one."""
    (name,) = dtype_names(who, [dtype])
    return 2.0 ** -(TF32.mantissa_bits + 1) if name == "tf32" else float(jnp.finfo(name).epsneg)
