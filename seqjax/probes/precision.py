r"""What low precision does to gradients, by length, and where it comes from.

The gradient g of a program in low precision is compared with that in float64, g64. The difference is split into the
effect of roundings of one kind each, emulated in float64 one kind at a time, and what remains of it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Batch, Layer
from seqjax.gradients.objective import Loss, objective
from seqjax.layers import first_step, num_steps
from seqjax.ops.select import wide_complex
from seqjax.ops.vectors import as_host_vector
from seqjax.probes.checks import check_loss, check_sequence
from seqjax.probes.rounding import (
    TF32,
    Format,
    format_of,
    product_formats,
    round_to,
    step_by_step,
    with_rounded_products,
)
from seqjax.probes.scaling import by_method, check_lengths
from seqjax.probes.time_constants import dtype_names


class PrecisionError(NamedTuple):
    r"""One row of what `precision_error` measures: one dtype, method and length.

    All parts are norms relative to that of g64. As vectors they add up to the error: ``accumulation`` is what the
    others leave of it, so it also holds their interactions where the error is not small.

    Attributes:
        dtype: its name.
        method: its name.
        length: T.
        error: :math:`\lVert g - g_{64} \rVert / \lVert g_{64} \rVert`; infinite where g is not finite, NaN where g64 is
            zero.
        cosine: of the angle between them; NaN where one of them is zero, or g not finite.
        log_norm: :math:`\log \lVert g_{64} \rVert`; -inf for zero.
        vanished: the share of the numbers in g64, other than zero, that are exactly zero in g.
        inputs: the effect of rounding the inputs and targets alone.
        parameters: the effect of rounding the params alone.
        state: the effect of rounding the carry after each step, and its cotangent on the way back, alone.
        products: the effect of rounding the operands of products of matrices, forward and backward, alone.
        accumulation: everything else: sums, activations, the order in which the method computes.
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
    layer: Layer | Callable[[Any], Layer],
    loss: Loss,
    params: Any,
    carry: Any,
    xs: Any,
    targets: Any,
    *,
    dtypes: Sequence[Any] = ("bfloat16", "float32"),
    methods: Mapping[str, Any] | Sequence[Any] | None = None,
    lengths: Sequence[int] | None = None,
    reset: jax.Array | None = None,
    mask: jax.Array | None = None,
) -> tuple[PrecisionError, ...]:
    r"""Error of the gradient by the params in low precision, against float64, by dtype, method and length.

    g is the gradient of the mean loss as the method computes it with params, inputs and floating targets in the dtype;
    a layer that keeps or computes something in float32 regardless does so here, too. The reference and the emulations
    run the layer's ``step`` in a loop, in float64, on the values given:

    * ``inputs``, ``parameters``: on rounded inputs and targets, and on rounded params;
    * ``state``: each leaf of the carry is rounded to the dtype in which the layer keeps it;
    * ``products``: each operand of a product of matrices or a convolution is rounded to the dtype that it has in the
      program in low precision, and the product itself is exact, as on a matrix unit with a wide accumulator.

    The dtype "tf32" stands for float32 with operands of products rounded to ten bits of mantissa, which is how many
    accelerators multiply float32 by default; it is emulated on float32.

    Every norm is scaled by the largest entry, so that none is lost to the range of float64 as long as the gradient
    itself is not; see `gradient_profile` for gradients beyond it.

    Args:
        layer: a layer, or with methods a function of one, such as ``lambda method: recurrent(lstm(64), method)``.
        loss: see `seqjax.gradients.objective`.
        params: the model's.
        carry: entering the first step.
        xs: inputs ``[T, *B, ...]``.
        targets: leaves that begin with T, as xs does, are cut with it.
        dtypes: names or dtypes; "tf32" too.
        methods: what to call the function with, by name or named by how they print.
        lengths: the first T steps for each T here; by default all.
        reset: ``[T, *B]``.
        mask: ``[T, *B]``.

    Returns:
        One row per length, dtype and method, in this order.

    Raises:
        ValueError: without float64, for an unknown dtype, for lengths beyond the inputs, or for params and inputs of
            several floating dtypes.
        TypeError: for a layer that is not causal, or methods without a function to give them to.

    Example:
        The gradient of :math:`\lambda^T` in bfloat16, which rounds 0.9 to 0.8984:

        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> cell = sj.Cell(
        ...     init=lambda key, x: jnp.full((1,), 0.9),
        ...     initial_carry=lambda params, x: jnp.ones_like(x),
        ...     recurrence=sj.Step(lambda a, h, x: (a * h, a * h)))
        >>> with jax.enable_x64(True):
        ...     (row,) = precision_error(
        ...         sj.recurrent(cell), lambda ys, _: ys[-1, :, 0], jnp.full((1,), 0.9), jnp.ones((1, 1)),
        ...         jnp.zeros((50, 1, 1)), None, dtypes=["bfloat16"])
        >>> round(row.parameters, 4), round(1 - (0.8984375 / 0.9) ** 49, 4)
        (0.0816, 0.0816)
    """
    who = "precision_error"
    if not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise ValueError(f'{who}: expected float64; call jax.config.update("jax_enable_x64", True) first.')
    variants = by_method(who, layer, methods)
    names = dtype_names(who, dtypes)
    carry, xs, reset, mask = check_sequence(who, carry, xs, reset, mask)
    total = num_steps(xs)
    chosen = check_lengths(who, [total] if lengths is None else lengths, 1)
    if max(chosen) > total:
        raise ValueError(f"{who}(lengths): expected at most the {total} steps of xs, got {max(chosen)}.")
    _check_one_dtype(who, params, xs)
    check_loss(who, loss)
    for made in variants.values():
        if not made.causal:
            raise TypeError(f"{who}: expected a causal layer, whose step is the reference, got {made!r}.")

    batch = Batch(xs, targets, reset, mask)
    rows = []
    for length in chosen:
        rows += _at_length(variants, loss, params, carry, _cut(batch, length), length, names)
    return tuple(rows)


# ---------------------------------------------------------------- one length


def _at_length(
    variants: dict[str, Layer],
    loss: Loss,
    params: Any,
    carry: Any,
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
        low = _arguments(some, params, carry, batch, dtype)
        effects = {
            "inputs": exact(*wide[:2], wide[2]._replace(**_rounded_data(wide[2], form))),
            "parameters": exact(round_to(wide[0], form), *wide[1:]),
            "state": jax.jit(_gradient(step_by_step(some, _carry_formats(low[1])), loss))(*wide),
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
    """``(params, carry, batch) -> gradient of the mean loss by the params``."""
    evaluate = objective(layer, loss)

    def mean(params: Any, carry: Any, batch: Batch) -> jax.Array:
        total, (count, _) = evaluate(params, carry, batch)
        return total / jnp.maximum(count, 1)

    return jax.grad(mean, allow_int=True)


def _with_products(gradient: Callable, low: Any, name: str) -> Callable:
    """The gradient with operands rounded as they are in the program on the arguments in low precision."""
    formats = product_formats(gradient, *low)
    storage = format_of("float32" if name == "tf32" else name)

    def form_of(kind: tuple) -> Format:
        form = formats.get(kind, storage)
        return TF32 if name == "tf32" and form == storage else form

    return with_rounded_products(gradient, form_of)


def _arguments(layer: Layer, params: Any, carry: Any, batch: Batch, dtype: Any) -> Any:
    """The arguments in the dtype; the carry's leaves in those in which the layer keeps them."""
    params, batch = _cast(params, dtype), _cast(batch, dtype)
    like = jax.eval_shape(layer.initial_carry, params, first_step(batch.xs))
    return params, jax.tree.map(lambda a, l: jnp.asarray(a, l.dtype), carry, like), batch


def _rounded_data(batch: Batch, form: Format) -> dict[str, Any]:
    return {"xs": round_to(batch.xs, form), "targets": round_to(batch.targets, form)}


def _carry_formats(carry: Any) -> list[Format | None]:
    return [
        format_of(a.dtype) if jnp.issubdtype(a.dtype, jnp.inexact) else None for a in jax.tree.leaves(carry)
    ]


def _cast(tree: Any, dtype: Any) -> Any:
    """Real and complex arrays in the dtype, or the complex one of its width; all else as it is."""

    def one(a: Any) -> Any:
        a = jnp.asarray(a)
        if jnp.iscomplexobj(a):
            return a.astype(wide_complex(dtype))
        return a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a

    return jax.tree.map(one, tree)


def _cut(batch: Batch, length: int) -> Batch:
    """The first steps. Targets that begin with T are cut as well; where T = B, those that begin with [T, B]."""
    steps, *others = jax.tree.leaves(batch.xs)[0].shape

    def is_per_step(leaf: Any) -> bool:
        found = jnp.shape(leaf)
        return found[:1] == (steps,) and (others[:1] != [steps] or found[1:2] == (steps,))

    xs, reset, mask = jax.tree.map(lambda a: a[:length], (batch.xs, batch.reset, batch.mask))
    targets = jax.tree.map(lambda a: a[:length] if is_per_step(a) else a, batch.targets)
    return Batch(xs, targets, reset, mask)


# ---------------------------------------------------------------- numbers


def _scaled(vector: np.ndarray) -> tuple[np.ndarray, float]:
    """A vector of norm one, and the log of the norm; zeros and -inf for zeros."""
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


def _check_one_dtype(who: str, params: Any, xs: Any) -> None:
    found: dict[str, str] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path({"params": params, "xs": xs}):
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            found.setdefault(jnp.finfo(jnp.result_type(leaf)).dtype.name, jax.tree_util.keystr(path))
    if len(found) > 1:
        listed = ", ".join(f"{name} ({place})" for name, place in found.items())
        raise ValueError(
            f"{who}: expected params and xs of one floating dtype, got {listed}. Cast them first."
        )
