r"""The error of gradients in low precision by sequence length, and its sources.

The gradient g of a program in low precision is compared with the gradient g64 in float64. The difference is split into
the effects of single kinds of rounding, each emulated in float64, and a remainder.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Batch, Carry, Cell, Layer, Params, Xs
from seqjax.gradients.objective import Loss
from seqjax.inputs import first_step, num_steps
from seqjax.ops.select import cast_inexact
from seqjax.ops.vectors import as_host_vector
from seqjax.probes.bound import Bound, check_bound, mean_loss
from seqjax.probes.internals.checks import check_loss
from seqjax.probes.internals.methods import check_lengths, made_by_method
from seqjax.probes.internals.rounding import (
    TF32,
    Format,
    format_of,
    product_formats,
    round_to,
    step_by_step,
    with_rounded_products,
)
from seqjax.probes.internals.system import check_data
from seqjax.probes.time_constants import dtype_names


class PrecisionError(NamedTuple):
    r"""One row of the result of `precision_error`: one dtype, method and length.

    All parts are norms relative to the norm of g64. As vectors the parts add up to the error: ``accumulation`` is the
    remainder. If the error is not small, the remainder includes the interactions of the other parts.

    Attributes:
        dtype: the name of the dtype.
        method: the name of the method.
        length: T.
        error: :math:`\lVert g - g_{64} \rVert / \lVert g_{64} \rVert`; infinite if g is not finite, NaN if g64 is zero.
        cosine: cosine of the angle between g and g64; NaN if one of them is zero, or g is not finite.
        log_norm: :math:`\log \lVert g_{64} \rVert`; -inf for zero.
        vanished: the share of the nonzero numbers of g64 that are exactly zero in g.
        inputs: the effect of rounding the inputs and targets alone.
        parameters: the effect of rounding the params alone.
        state: the effect of rounding the carry after each step, and its cotangent in the backward pass, alone.
        products: the effect of rounding the operands of matrix products, forward and backward, alone.
        accumulation: the remainder: sums, activations, and the order in which the method computes.
    """

    dtype: str
    method: str
    length: int
    error: float
    cosine: float
    log_norm: float
    vanished: float
    inputs: float
    parameters: float
    state: float
    products: float
    accumulation: float


def precision_error(
    bound: Bound | Callable[[Any], Bound],
    loss: Loss,
    batch: Any,
    *,
    carry: Carry = None,
    dtypes: Sequence[Any] = ("bfloat16", "float32"),
    methods: Mapping[str, Any] | Sequence[Any] | None = None,
    lengths: Sequence[int] | None = None,
) -> tuple[PrecisionError, ...]:
    r"""Measure the error of the params' gradient in low precision against float64, by dtype, method and length.

    g is the gradient of the mean loss as the method computes it, with params, inputs and floating targets in the dtype.
    A layer that stores or computes a part in float32 does so here, too. The reference and the emulations run the
    layer's ``step`` in a loop in float64:

    * ``inputs``, ``parameters``: on rounded inputs and targets, and on rounded params;
    * ``state``: each leaf of the carry is rounded to the dtype in which the layer stores it;
    * ``products``: each operand of a matrix product or convolution is rounded to its dtype in the program in low
      precision. The product itself is exact, as on a matrix unit with a wide accumulator.

    The dtype "tf32" stands for float32 with the operands of products rounded to ten bits of mantissa, the default of
    many accelerators for float32; it is emulated on float32.

    Each norm is scaled by the largest entry, so no norm under- or overflows float64 unless the gradient does. See
    `gradient_profile` for gradients beyond that range.

    Args:
        bound: a bound layer; or, with `methods`, a function of a method that returns a bound layer with the same
            params, such as ``lambda method: bind(recurrent(lstm(64), method), params)``.
        loss: ``(ys, targets) -> losses``, see `seqjax.gradients.objective`.
        batch: a `seqjax.Batch` with leaves ``[T, *B, ...]``. Arrays stand for its xs. Leaves of its targets that begin
            with T are cut with xs.
        carry: the carry entering the first step. The default is the layer's initial carry, and the gradient through it
            counts.
        dtypes: names or dtypes, "tf32" included.
        methods: the arguments to call the function with, by name, or a sequence; then ``repr`` names them.
        lengths: the values of T, for the first T steps; by default the whole length alone.

    Returns:
        One row per length, dtype and method, in this order.

    Raises:
        ValueError: if float64 is not enabled, for an unknown dtype, for lengths beyond the inputs, or for params and
            inputs of several floating dtypes.
        TypeError: for a layer that is not causal, or methods without a function to call.

    Example:
        The gradient of :math:`\lambda^T` in bfloat16, which rounds 0.9 to 0.8984:

        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> cell = sj.Cell(
        ...     init=lambda key, x: jnp.full((1,), 0.9),
        ...     initial_carry=lambda params, x: jnp.ones_like(x),
        ...     recurrence=sj.Step(lambda a, h, x: (a * h, a * h)))
        >>> with jax.enable_x64(True):
        ...     bound = sj.probes.bind(sj.recurrent(cell), jnp.full((1,), 0.9))
        ...     (row,) = precision_error(
        ...         bound, lambda ys, _: ys[-1, :, 0], jnp.zeros((50, 1, 1)), dtypes=["bfloat16"])
        >>> round(row.parameters, 4), round(1 - (0.8984375 / 0.9) ** 49, 4)
        (0.0816, 0.0816)
    """
    who = "precision_error"
    if not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise ValueError(f'{who}: expected float64; call jax.config.update("jax_enable_x64", True) first.')
    variants, some = _variants(who, bound, methods)
    names = dtype_names(who, dtypes)
    carry, batch = check_data(who, some, batch, carry)
    total = num_steps(batch.xs)
    chosen = check_lengths(who, [total] if lengths is None else lengths, 1, total)
    _check_one_dtype(who, some.params, batch.xs)
    check_loss(who, loss)
    rows = []
    for length in chosen:
        rows += _at_length(variants, loss, some.params, carry, _cut(batch, length), length, names)
    return tuple(rows)


def _variants(who: str, bound: Any, methods: Any) -> tuple[dict[str, Layer], Bound]:
    """Return the layers by the name of their method, and one of the bound layers for its params."""
    if isinstance(bound, Bound):
        if methods is not None:
            raise TypeError(
                f"{who}: expected with methods a function of one, such as "
                f"lambda method: bind(recurrent(cell, method), params), got the bound layer {bound.layer!r}."
            )
        made = {repr(bound.layer): bound}
    else:
        if isinstance(bound, Layer | Cell):
            check_bound(who, bound)  # raises with a hint
        made = made_by_method(who, bound, methods, "bound layer")
    for each in made.values():
        if not check_bound(who, each).layer.causal:
            raise TypeError(
                f"{who}: expected a causal layer, whose step is the reference, got {each.layer!r}."
            )
    return {name: each.layer for name, each in made.items()}, next(iter(made.values()))


# ---------------------------------------------------------------- one length


def _at_length(
    variants: dict[str, Layer],
    loss: Loss,
    params: Params,
    carry: Carry,
    batch: Batch,
    length: int,
    names: list[str],
) -> list[PrecisionError]:
    some = next(iter(variants.values()))
    wide = _arguments(some, params, carry, batch, jnp.float64)
    exact = jax.jit(_gradient(step_by_step(some), loss))
    reference = as_host_vector(exact(*wide))

    rows = []
    for name in names:
        dtype = jnp.dtype("float32" if name == "tf32" else name)
        form = format_of(dtype)
        rounded = wide[2]._replace(**_rounded_data(wide[2], form))
        low = _arguments(some, params, carry, batch, dtype)
        effects = {
            "inputs": exact(*wide[:2], rounded),
            "parameters": exact(round_to(wide[0], form), *wide[1:]),
            "state": jax.jit(_gradient(step_by_step(some, _carry_formats(some, *low)), loss))(*wide),
            "products": jax.jit(_with_products(_gradient(step_by_step(some), loss), low, name))(*wide),
        }
        parts = {part: as_host_vector(gradient) - reference for part, gradient in effects.items()}
        for method, made in variants.items():
            gradient = _gradient(made, loss)
            if name == "tf32":
                gradient = with_rounded_products(gradient, lambda kind: TF32)
            found = as_host_vector(jax.jit(gradient)(*_arguments(made, params, carry, batch, dtype)))
            rows.append(_row(name, method, length, found, reference, parts))
    return rows


def _gradient(layer: Layer, loss: Loss) -> Callable:
    """Return ``(params, carry, batch) -> gradient of the mean loss with respect to the params``."""
    return jax.grad(mean_loss("precision_error", layer, loss), allow_int=True)


def _with_products(gradient: Callable, low: Any, name: str) -> Callable:
    """Return the gradient with operands rounded as in the program with arguments in low precision."""
    formats = product_formats(gradient, *low)
    storage = format_of("float32" if name == "tf32" else name)

    def form_of(kind: tuple) -> Format:
        form = formats.get(kind, storage)
        return TF32 if name == "tf32" and form == storage else form

    return with_rounded_products(gradient, form_of)


def _arguments(layer: Layer, params: Params, carry: Carry, batch: Batch, dtype: Any) -> Any:
    """Return the arguments in the dtype. The leaves of the carry get the dtypes in which the layer stores them."""
    params, batch = cast_inexact(params, dtype), cast_inexact(batch, dtype)
    if carry is not None:
        like = jax.eval_shape(layer.initial_carry, params, first_step(batch.xs))
        carry = jax.tree.map(lambda a, l: jnp.asarray(a, l.dtype), carry, like)
    return params, carry, batch


def _rounded_data(batch: Batch, form: Format) -> dict[str, Any]:
    return {name: round_to(getattr(batch, name), form) for name in ("xs", "targets", "context")}


def _carry_formats(layer: Layer, params: Any, carry: Any, batch: Batch) -> list[Format | None]:
    if carry is None:
        carry = jax.eval_shape(layer.initial_carry, params, first_step(batch.xs))
    return [
        format_of(a.dtype) if jnp.issubdtype(a.dtype, jnp.inexact) else None for a in jax.tree.leaves(carry)
    ]


def _cut(batch: Batch, length: int) -> Batch:
    """Return the first steps. Targets that begin with T are cut as well; if T = B, targets that begin with [T, B]."""
    steps, *others = jax.tree.leaves(batch.xs)[0].shape

    def is_per_step(leaf: Any) -> bool:
        found = jnp.shape(leaf)
        return found[:1] == (steps,) and (others[:1] != [steps] or found[1:2] == (steps,))

    xs, reset, mask = jax.tree.map(lambda a: a[:length], (batch.xs, batch.reset, batch.mask))
    targets = jax.tree.map(lambda a: a[:length] if is_per_step(a) else a, batch.targets)
    return batch._replace(xs=xs, targets=targets, reset=reset, mask=mask)


# ---------------------------------------------------------------- numbers


def _scaled(vector: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the unit vector and the log norm; zeros and -inf for a vector of zeros."""
    largest = float(np.max(np.abs(vector), initial=0))
    if largest == 0:
        return vector, -math.inf
    unit = vector / largest
    norm = float(np.linalg.norm(unit))
    return unit / norm, math.log(largest) + math.log(norm)


def _relative(vector: np.ndarray, log_norm: float) -> float:
    if not np.all(np.isfinite(vector)):
        return math.inf
    if log_norm == -math.inf:
        return math.nan
    difference = _scaled(vector)[1] - log_norm
    return math.exp(difference) if difference < 700 else math.inf


def _row(
    dtype: str,
    method: str,
    length: int,
    found: np.ndarray,
    reference: np.ndarray,
    parts: dict[str, np.ndarray],
) -> PrecisionError:
    direction, log_norm = _scaled(reference)
    error = found - reference
    finite = bool(np.all(np.isfinite(found)))
    other, other_log_norm = _scaled(found) if finite else (found, -math.inf)
    defined = finite and min(log_norm, other_log_norm) > -math.inf
    with np.errstate(invalid="ignore"):
        rest = error - sum(parts.values())
    nonzero = reference != 0
    return PrecisionError(
        dtype,
        method,
        length,
        _relative(error, log_norm),
        min(float(direction @ other), 1.0) if defined else math.nan,
        log_norm,
        float(np.mean(found[nonzero] == 0)) if np.any(nonzero) else math.nan,
        **{part: _relative(vector, log_norm) for part, vector in parts.items()},
        accumulation=_relative(rest, log_norm),
    )


def _check_one_dtype(who: str, params: Params, xs: Xs) -> None:
    found: dict[str, str] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path({"params": params, "xs": xs}):
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            found.setdefault(jnp.finfo(jnp.result_type(leaf)).dtype.name, jax.tree_util.keystr(path))
    if len(found) > 1:
        listed = ", ".join(f"{name} ({place})" for name, place in found.items())
        raise ValueError(
            f"{who}: expected params and xs of one floating dtype, got {listed}. Cast them first."
        )
