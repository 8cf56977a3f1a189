"""The difference of two implementations in one quantity, and its tolerance."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.compare.evaluate import BY_CARRY, BY_INPUTS, BY_PARAMS, BY_STEP, CARRY, OUTPUTS, Outcome
from seqjax.compare.implementation import System
from seqjax.compare.trees import named


class Difference(NamedTuple):
    """The difference in one leaf of one quantity. Norms are over batch and features, relative to ``scale``.

    Attributes:
        quantity: "outputs", "final carry", or the gradient with respect to inputs, first carry or params.
        leaf: path of the array, "" for a single one.
        scale: root mean square over steps of the reference's norm.
        errors: norm of a - b by step, ``[T]``; ``[1]`` for a quantity without a time axis.
        tolerances: tolerance of each error, in the shape of ``errors``.
        excess: the largest ratio of error to tolerance; rounding does not explain a ratio above 1.
        worst: the step with the largest ratio; None without a time axis.
        first: the first step past its tolerance in the order of computation, which begins at the last step for
            gradients; None where no step is past it.
        largest: the largest difference of two numbers, relative to the largest number.
        a_error: the largest distance of a from the reference, relative to ``scale``.
        b_error: the largest distance of b from the reference, relative to ``scale``.
    """

    quantity: str
    leaf: str
    scale: float
    errors: np.ndarray
    tolerances: np.ndarray
    excess: float
    worst: int | None
    first: int | None
    largest: float
    a_error: float
    b_error: float

    @property
    def label(self) -> str:
        """The quantity and its leaf, as text."""
        return f"{self.quantity}, {self.leaf}" if self.leaf else self.quantity

    @property
    def equal(self) -> bool:
        """Whether rounding explains the difference."""
        return self.excess <= 1

    @property
    def finite(self) -> bool:
        """Whether every number of both sides is finite."""
        return bool(np.isfinite(self.errors).all())


ORDER = (OUTPUTS, CARRY, BY_INPUTS, BY_CARRY, BY_PARAMS)
"""Quantities in the order of tables: outputs before gradients."""


def difference_of(
    name: tuple[str, str],
    a: np.ndarray,
    b: np.ndarray,
    reference: Outcome | None,
    repeats: list[Outcome],
    dtype: str,
    terms: int,
    factor: float,
) -> Difference:
    """Return the difference of a and b in one leaf.

    Args:
        name: quantity and leaf.
        a: values of one side.
        b: values of the other side.
        reference: values in float64; None where neither step computes in float64.
        repeats: the reference's values under noise of the size of roundings.
        dtype: in which the sides are judged.
        terms: number of terms of the sum that makes the quantity.
        factor: K of `seqjax.compare.rounding`, times the share of the finer side.
    """
    quantity, leaf = name
    true = (a + b) / 2 if reference is None else reference[name]
    by_step = quantity in BY_STEP

    def norms(x: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.linalg.norm(x.reshape(len(x) if by_step else 1, -1), axis=1)

    size = norms(true)
    scale = float(np.sqrt(np.mean(size**2)))
    unit = _unit(dtype)
    if reference is None:
        tolerances = np.full_like(size, factor * unit * math.sqrt(terms + len(size)) * scale)
    else:
        response = np.mean([norms(each[name] - true) ** 2 for each in repeats], axis=0)
        floor = terms * (_accumulation(dtype) * scale) ** 2
        widest = 1 + math.sqrt(math.log(len(size)) * len(size) / true.size)
        tolerances = factor * widest * np.sqrt(response + (unit * size) ** 2 / 3 + floor)
    errors = norms(a - b)
    # A number that is not finite on either side is a difference, whatever the tolerance.
    ratios = np.divide(errors, tolerances, out=np.where(errors == 0, 0.0, np.inf), where=tolerances > 0)
    ratios = np.where(np.isfinite(errors) & np.isfinite(tolerances), ratios, np.inf)
    order = np.arange(len(ratios))[:: -1 if quantity == BY_INPUTS else 1]  # of computation
    past = order[~(ratios[order] <= 1)]
    worst = int(order[np.argmax(ratios[order])])
    unscaled = scale or 1.0
    with np.errstate(invalid="ignore"):
        largest = float(np.max(np.abs(a - b)) / (np.max(np.abs(true)) or 1.0))
    steps = (worst if by_step else None, int(past[0]) if by_step and past.size else None)
    to_reference = [float(np.max(norms(side - true))) / unscaled for side in (a, b)]
    relative = errors / unscaled, tolerances / unscaled
    return Difference(quantity, leaf, scale, *relative, float(ratios[worst]), *steps, largest, *to_reference)


def terms_of(system: System, xs: Any) -> dict[str, int]:
    """Return, by quantity, the number of terms of the sums that make it."""
    length, batch = jax.tree.leaves(xs)[0].shape[:2]
    sizes = [leaf.shape for tree in (system.params, xs) for leaf in named(tree).values()]
    longest = max((max(shape[-2:]) for shape in sizes if len(shape) > 1), default=1)
    return dict.fromkeys(ORDER, longest) | {BY_PARAMS: max(longest, length * batch)}


def _unit(dtype: str) -> float:
    return float(jnp.finfo(dtype).eps) / 2


def _accumulation(dtype: str) -> float:
    """Return the unit roundoff of sums, which accumulate in float32 at least."""
    return min(_unit(dtype), _unit("float32"))


def noise_of(dtype: str, terms: int) -> float:
    """Return v, the size of one side's roundings."""
    return math.hypot(_unit(dtype), math.sqrt(terms) * _accumulation(dtype))
