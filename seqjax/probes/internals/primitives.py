"""Floating-point operations and bytes of each primitive of JAX, for `seqjax.probes.cost`."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# One operation per number of the result.
ELEMENTWISE = frozenset(
    """
    abs acos acosh add add_any asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp conj cos cosh
    digamma div erf erf_inv erfc exp exp2 expm1 floor igamma igamma_grad_a igammac lgamma log log1p log2 logistic max
    min mul neg nextafter polygamma pow random_gamma_grad regularized_incomplete_beta rem round rsqrt sign sin sinh
    sqrt square sub tan tanh zeta cumsum cumprod cummax cummin cumlogsumexp
    """.split()
)
# One operation per input number, except for the first number of each result.
REDUCTIONS = frozenset("reduce_sum reduce_prod reduce_max reduce_min argmax argmin reduce".split())
# Copies, selections, comparisons, bits, and communication without arithmetic.
FREE = frozenset(
    """
    after_all all_gather all_gather_invariant all_to_all and axis_index bitcast_convert_type broadcast
    broadcast_in_dim clz complex concatenate convert_element_type copy copy_p create_token dce_sink
    debug_callback debug_print device_put dynamic_slice dynamic_update_slice empty empty2 eq eq_to expand_dims
    gather ge gt imag iota is_finite le le_to lt lt_to lu_pivots_to_permutation mulhi name ne not
    optimization_barrier or pad pbroadcast pcast platform_index population_count ppermute pvary
    ragged_all_to_all random_bits random_clone random_fold_in random_seed random_split random_unwrap random_wrap
    real reduce_and reduce_or reduce_precision reduce_xor reshape reshard rev rng_bit_generator rng_uniform
    scatter select_n sharding_constraint shift_left shift_right_arithmetic shift_right_logical slice sort split
    squeeze stack stop_gradient threefry2x32 tile top_k transpose unstack xor
    """.split()
)
# Others take 2, products 8 in all.
COMPLEX = {"mul": 6, "div": 11, "abs": 4, "square": 6, "cumprod": 6, "reduce_prod": 6}


def flops_of(eqn: Any) -> int | None:
    """Return the operations of one equation; None for an unknown primitive."""
    name = eqn.primitive.name
    if name in FREE:
        return 0
    result = eqn.outvars[0].aval if eqn.outvars else None
    operands = [v.aval for v in eqn.invars]
    if name in PRODUCTS:
        factor = 4 if name != "fft" and _complex(operands[0]) else 1
        return factor * PRODUCTS[name](eqn.params, operands, result)
    if name in ELEMENTWISE:
        count = _size(result)
    elif name in REDUCTIONS:
        count = max(_size(operands[0]) - _size(result), 0)
    elif name == "one_minus_square":
        count = 3 * _size(result)  # (1 + x) (1 - x)
    elif name == "polynomial":
        count = 2 * (len(operands) - 2) * _size(result)  # Horner's rule; operands are x and the coefficients
    elif name == "integer_pow":
        exponent = abs(eqn.params["y"])
        count = _size(result) * max(exponent.bit_length() + exponent.bit_count() - 2, 0)
    elif name.startswith("scatter-"):
        count = _size(operands[2])
    elif name in ("reduce_window_sum", "reduce_window_max", "reduce_window_min"):
        count = _size(result) * (math.prod(eqn.params["window_dimensions"]) - 1)
    elif name in ("psum", "psum_invariant", "reduce_scatter", "pmax", "pmin"):
        count = sum(_size(operand) for operand in operands)
    else:
        return None
    if not jnp.issubdtype(operands[0].dtype, jnp.inexact):
        return 0
    return count * (COMPLEX.get(name, 2) if _complex(operands[0]) else 1)


def traffic_of(eqn: Any) -> int:
    """Return the bytes that one equation reads and writes. Slices, gathers and updates count what they access."""
    name = eqn.primitive.name
    reads, writes = [v.aval for v in eqn.invars], [v.aval for v in eqn.outvars]
    if name in ("dynamic_slice", "gather", "slice"):
        reads = writes
    elif name in ("dynamic_update_slice", "scatter", "scatter-add"):
        touched = reads[1] if name == "dynamic_update_slice" else reads[2]
        reads, writes = [touched, touched], [touched]
    return sum(_bytes(aval) for aval in (*reads, *writes))


def _dot(params: Any, operands: list, result: Any) -> int:
    (contracted, _), _ = params["dimension_numbers"]
    return 2 * _size(result) * math.prod(operands[0].shape[axis] for axis in contracted)


def _convolution(params: Any, operands: list, result: Any) -> int:
    """Count a convolution without the products with inserted zeros (padding, dilation)."""
    numbers = params["dimension_numbers"]
    pairs = 1
    strides, padding = params["window_strides"], params["padding"]
    dilations = zip(params["lhs_dilation"], params["rhs_dilation"])
    for axis, (stride, (low, _), (of_input, of_kernel)) in enumerate(zip(strides, padding, dilations)):
        length = operands[0].shape[numbers.lhs_spec[2 + axis]]
        taps = np.arange(operands[1].shape[numbers.rhs_spec[2 + axis]]) * of_kernel - low
        place = np.arange(result.shape[numbers.out_spec[2 + axis]])[:, None] * stride + taps
        met = (place >= 0) & (place % of_input == 0) & (place <= (length - 1) * of_input)
        pairs *= int(np.sum(met))
    batch, channels = (result.shape[axis] for axis in numbers.out_spec[:2])
    return 2 * batch * channels * operands[1].shape[numbers.rhs_spec[1]] * pairs


def _ragged_dot(params: Any, operands: list, result: Any) -> int:
    return 2 * _size(result) * operands[0].shape[-1]


def _qr(params: Any, operands: list, result: Any) -> int:
    """Count the Householder QR: 2 m n^2 - 2/3 n^3 for the factors, and as many for an explicit Q."""
    *batch, m, n = operands[0].shape
    m, n = max(m, n), min(m, n)
    return 2 * math.prod(batch) * (2 * m * n * n - 2 * n**3 // 3)


def _half_qr(params: Any, operands: list, result: Any) -> int:
    return _qr(params, operands, result) // 2


def _cholesky(params: Any, operands: list, result: Any) -> int:
    return math.prod(operands[0].shape) * operands[0].shape[-1] // 3


def _lu(params: Any, operands: list, result: Any) -> int:
    return 2 * math.prod(operands[0].shape) * min(operands[0].shape[-2:]) // 3


def _triangular_solve(params: Any, operands: list, result: Any) -> int:
    return _size(operands[1]) * operands[0].shape[-1]


def _fft(params: Any, operands: list, result: Any) -> int:
    """Count the customary 5 n log2 n for a complex transform of n numbers, and half of that for a real one."""
    n = math.prod(params["fft_lengths"])
    both = _complex(operands[0]) and _complex(result)
    real = result if _complex(operands[0]) else operands[0]
    larger = max(_size(operands[0]), _size(result)) if both else _size(real)
    return round((5 if both else 2.5) * larger * math.log2(max(n, 1)))


# In real multiplications and additions; leading order for factorizations.
PRODUCTS = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "ragged_dot": _ragged_dot,
    "ragged_dot_general": _ragged_dot,
    "qr": _qr,
    "geqrf": _half_qr,
    "householder_product": _half_qr,
    "cholesky": _cholesky,
    "lu": _lu,
    "triangular_solve": _triangular_solve,
    "fft": _fft,
}


def _size(aval: Any) -> int:
    return math.prod(getattr(aval, "shape", ()))


def _complex(aval: Any) -> bool:
    return jnp.issubdtype(aval.dtype, jnp.complexfloating)


def _bytes(aval: Any) -> int:
    dtype = getattr(aval, "dtype", None)
    if dtype is None or jax.dtypes.issubdtype(dtype, jax.dtypes.extended):
        return 0
    return _size(aval) * dtype.itemsize
