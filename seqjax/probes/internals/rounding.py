r"""Rounding emulated in float64: of arrays, of a carry after each step, of the operands of products.

The emulation separates the kinds of rounding that a program in low precision combines. ``lax.reduce_precision`` rounds
to nearest even, as a cast does, and compilers may not remove it, unlike a cast there and back. Below the smallest
normal number it returns zero, as XLA does on CPUs for formats with the eight exponent bits of float32. Subnormal
numbers of float16 are kept.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Jaxpr

from seqjax.base import Carry, Flags, Layer, Params, X, Xs
from seqjax.compat import bind, scan_counts
from seqjax.jaxprs import CALLS, body_of, equations, evaluate, executed_jaxprs, inner_jaxprs, rewritten
from seqjax.probes.internals.primitives import flops_of

PRODUCTS = ("dot_general", "conv_general_dilated")
OTHER_PRODUCTS = ("ragged_dot", "ragged_dot_general")


class Format(NamedTuple):
    """A floating-point format: the bits of its exponent and of its mantissa (without the leading one)."""

    exponent_bits: int
    mantissa_bits: int


TF32 = Format(8, 10)


def format_of(dtype: Any) -> Format:
    """Return the format of a dtype; for a complex dtype, the format of its parts.

    Example:
        >>> format_of("bfloat16")
        Format(exponent_bits=8, mantissa_bits=7)
    """
    info = jnp.finfo(dtype)
    return Format(int(info.nexp), int(info.nmant))


def round_to(tree: Any, form: Format) -> Any:
    """Round the real and complex arrays of a tree to a format; their dtypes stay."""

    def one(x: X) -> Any:
        if not jnp.issubdtype(jnp.result_type(x), jnp.inexact):
            return x
        if jnp.iscomplexobj(x):
            return lax.complex(one(jnp.real(x)), one(jnp.imag(x)))
        rounded = lax.reduce_precision(x, form.exponent_bits, form.mantissa_bits)
        if form.exponent_bits >= 8:
            return rounded
        smallest = 2.0 ** (2 - 2 ** (form.exponent_bits - 1))
        step = smallest * 2.0**-form.mantissa_bits
        return jnp.where(jnp.abs(x) < smallest, jnp.round(x / step) * step, rounded)

    return jax.tree.map(one, tree)


def kept_in(x: jax.Array, form: Format) -> jax.Array:
    """Round an array to a format, and its cotangent in the backward pass, as if both were stored in that format."""

    @jax.custom_vjp
    def kept(x: jax.Array) -> jax.Array:
        return round_to(x, form)

    kept.defvjp(lambda x: (round_to(x, form), None), lambda _, cotangent: (round_to(cotangent, form),))
    return kept(x)


def step_by_step(layer: Layer, forms: Any = None) -> Layer:
    """Return the layer as a loop over its step. With `forms`, round each leaf of the carry to its own format.

    A leaf whose format is None is not rounded.
    """

    def keep(carry: Carry) -> Any:
        if forms is None:
            return carry
        leaves, treedef = jax.tree.flatten(carry)
        kept = [x if form is None else kept_in(x, form) for x, form in zip(leaves, forms, strict=True)]
        return jax.tree.unflatten(treedef, kept)

    def unroll(params: Params, carry: Carry, xs: Xs, flags: Flags) -> Any:
        def body(carry: Carry, inputs: Any) -> Any:
            after, y = layer.step_fn(params, carry, *inputs)
            return keep(after), y

        return lax.scan(body, keep(carry), (xs, Flags(flags.reset, flags.mask)))

    return dataclasses.replace(layer, unroll_fn=unroll)


def product_formats(function: Callable, *args: Any) -> dict[tuple, Format]:
    """Return the format of the operands of each product in a function, by the kind of product and its shapes.

    If products of one kind and shape differ, the narrower format wins.
    """
    found: dict[tuple, Format] = {}
    for eqn in _products(jax.make_jaxpr(function)(*args).jaxpr):
        dtypes = [v.aval.dtype for v in eqn.invars]
        if all(jnp.issubdtype(dtype, jnp.inexact) for dtype in dtypes):
            form = min((format_of(dtype) for dtype in dtypes), key=lambda f: f.mantissa_bits)
            known = found.get(_kind(eqn), form)
            found[_kind(eqn)] = min(form, known, key=lambda f: f.mantissa_bits)
    return found


def with_rounded_products(function: Callable, form_of: Callable[[tuple], Format]) -> Callable:
    """Return the function with the operands of every product of arrays rounded, and no other rounding.

    The function is evaluated equation by equation. Differentiate first: the products of the backward pass of a gradient
    are then rounded like the products of the forward pass.

    Args:
        function: a function of trees of arrays.
        form_of: the format, by the kind of the product as in `product_formats`.

    Raises:
        TypeError: for a product inside a primitive that cannot be evaluated (a kernel, a sharded map), and for a
            primitive that is unknown, such as one of a newer version of JAX.
    """
    return rewritten(function, partial(_apply, form_of))


def _apply(form_of: Callable, eqn: Any, operands: list) -> list:
    """Return the results of one equation."""
    name, params = eqn.primitive.name, eqn.params

    def call(closed: Any) -> Callable:
        return lambda *args: evaluate(closed, args, partial(_apply, form_of))

    match name:
        case "scan":
            consts, carries = scan_counts(params)
            body = call(params["jaxpr"])

            def step(carry: list, xs: list) -> tuple[list, list]:
                results = body(*operands[:consts], *carry, *xs)
                return results[:carries], results[carries:]

            carry, xs = operands[consts : consts + carries], operands[consts + carries :]
            options = {name: params[name] for name in ("length", "reverse", "unroll")}
            after, ys = lax.scan(step, carry, xs, **options)
            return [*after, *ys]
        case "while":
            tests, bodies = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
            test, body = call(params["cond_jaxpr"]), call(params["body_jaxpr"])
            return lax.while_loop(
                lambda carry: test(*operands[:tests], *carry)[0],
                lambda carry: body(*operands[tests:bodies], *carry),
                operands[bodies:],
            )
        case "cond":
            return lax.switch(operands[0], [call(branch) for branch in params["branches"]], *operands[1:])
    if name in CALLS:
        return call(body_of(eqn))(*operands)
    if name in PRODUCTS:
        if all(jnp.issubdtype(jnp.result_type(x), jnp.inexact) for x in operands):
            operands = round_to(operands, form_of(_kind(eqn)))
    elif any(True for inner in executed_jaxprs(eqn) for _ in _products(inner)):
        raise TypeError(
            f"cannot round the operands of products inside {name}: expected loops and calls only."
        )
    elif name in OTHER_PRODUCTS or (flops_of(eqn) is None and not any(True for _ in inner_jaxprs(eqn))):
        raise TypeError(
            f"cannot round the operands of {name}: expected products by {' and '.join(PRODUCTS)}, and otherwise "
            f"primitives that are known to be no products."
        )
    return bind(eqn, operands)


def _kind(eqn: Any) -> tuple:
    return eqn.primitive.name, str(eqn.params["dimension_numbers"]), *(v.aval.shape for v in eqn.invars)


def _products(jaxpr: Jaxpr) -> Iterator[Any]:
    return (eqn for eqn in equations(jaxpr) if eqn.primitive.name in PRODUCTS)
