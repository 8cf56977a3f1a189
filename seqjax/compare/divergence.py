"""Compare two implementations in value and gradient, and decide whether rounding explains their differences."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Layer
from seqjax.compare.difference import ORDER, Difference, difference_of, noise_of, terms_of
from seqjax.compare.evaluate import BY_CARRY, BY_PARAMS, CARRY, OUTPUTS, Outcome, measure, placed
from seqjax.compare.implementation import Implementation, System
from seqjax.compare.prepare import check_step, prepare, with_carries
from seqjax.compare.rounding import FACTOR, NoReference, responses
from seqjax.compare.trees import coarser, doubled, named, rounded
from seqjax.methods import Newton
from seqjax.values import origin

PARTS = ("preparing both sides", "measuring both sides", "measuring the reference")
"""The parts of a comparison, in their order."""


class Comparison(NamedTuple):
    """The result of `compare`.

    Attributes:
        a: one side, as text.
        b: the other side, as text.
        dtype: the coarser of the two dtypes, in which both sides are judged.
        length: T.
        batch_size: B.
        differences: one per quantity and leaf.
        remarks: sentences that qualify the verdict.
        reference: the side whose step gives the reference in float64; "" without a reference.
    """

    a: str
    b: str
    dtype: str
    length: int
    batch_size: int
    differences: tuple[Difference, ...]
    remarks: tuple[str, ...]
    reference: str

    @property
    def equal(self) -> bool:
        """Whether every difference lies within its tolerance."""
        return all(difference.equal for difference in self.differences)

    @property
    def first(self) -> Difference | None:
        """The first difference past its tolerance, outputs before gradients; None where both sides are equal."""
        return next((each for each in self.differences if not each.equal), None)


def compare(
    a: Implementation,
    b: Implementation,
    xs: Any,
    *,
    seed: int = 0,
    progress: Callable[[str], object] = lambda part: None,
) -> Comparison:
    """Run two implementations on the same numbers and compare their values and gradients.

    The loss is the product of outputs and final carry with fixed random cotangents. Before both sides run, params,
    first carry and inputs are rounded to the coarser of the two dtypes, so that both sides get the same numbers.
    `seqjax.compare.rounding` derives the tolerance of every quantity at every step.

    Args:
        a: one side.
        b: the other side.
        xs: inputs ``[T, B, ...]``, any pytree of arrays.
        seed: seed of the initial params of layers, the cotangents and the noise.
        progress: called with the name of the next part, one of `PARTS`.

    Raises:
        ValueError: for inputs that are not finite, and for sides that do not implement one function.
        TypeError: for a ``build`` or ``step`` with another signature.

    Example:
        >>> import numpy as np, seqjax as sj
        >>> from seqjax.compare import Implementation, compare
        >>> xs = np.random.default_rng(0).normal(size=(12, 2, 3))
        >>> a, b = (sj.recurrent(sj.lru(4), method) for method in (sj.Scan(), sj.AssociativeScan()))
        >>> compare(Implementation(a), Implementation(b), xs).equal
        True
    """
    progress(PARTS[0])
    xs = doubled(xs)
    _check_inputs(xs)
    first, second, remarks = prepare(a, b, xs, seed)
    dtype = coarser(first.dtype, second.dtype)
    xs = rounded(xs, dtype)
    first, second = with_carries(first, second)
    shapes = [_outcome_shapes(system, xs) for system in (first, second)]
    outputs = [{n: s for n, s in each.items() if n[0] == OUTPUTS} for each in shapes]
    if outputs[0] != outputs[1]:
        of_a, of_b = (", ".join(f"{n[1]} {list(s)}".strip() for n, s in each.items()) for each in outputs)
        raise ValueError(
            f"compare: expected outputs of the same names and shapes from both sides, got {of_a} from {a} and "
            f"{of_b} from {b}."
        )
    common = {name for name, shape in shapes[0].items() if shapes[1].get(name) == shape}
    cotangents = _cotangents({n: s for n, s in shapes[0].items() if n in common}, dtype, seed)
    progress(PARTS[1])
    found = [measure(system, xs, cotangents) for system in (first, second)]
    names = [name for name in found[0] if name in found[1] and found[0][name].shape == found[1][name].shape]
    remarks += _unmatched(found[0], found[1], names)
    progress(PARTS[2])
    terms = terms_of(first, xs)
    noises = [noise_of(system.dtype, terms[OUTPUTS]) for system in (first, second)]
    factor = FACTOR * math.hypot(*noises) / max(noises)
    reference, repeats, whose, more = _reference((first, second), xs, cotangents, max(noises), seed)
    remarks += more
    differences = tuple(
        difference_of(name, found[0][name], found[1][name], reference, repeats, dtype, terms[name[0]], factor)
        for name in sorted(names, key=lambda n: ORDER.index(n[0]))
    )
    remarks += _judged(differences, whose, str(a), str(b), dtype)
    if not all(each.equal for each in differences):
        remarks += _iterated(a, b)
    length, batch = jax.tree.leaves(xs)[0].shape[:2]
    return Comparison(str(a), str(b), dtype, length, batch, differences, tuple(remarks), whose)


def _check_inputs(xs: Any) -> None:
    leaves = named(xs)
    for name, leaf in leaves.items():
        if leaf.ndim < 2 or 0 in leaf.shape:
            raise ValueError(f"compare: expected xs{name} [T, B, ...], got {list(leaf.shape)}.")
        if np.issubdtype(leaf.dtype, np.inexact) and not np.isfinite(leaf).all():
            bad = np.argwhere(~np.isfinite(leaf))[0]
            raise ValueError(
                f"compare: expected finite xs{name}, got {leaf[tuple(bad)]} at step {bad[0]} of sequence {bad[1]}."
            )
    if not leaves:
        raise ValueError("compare: expected xs [T, B, ...], got no arrays.")


def _outcome_shapes(system: System, xs: Any) -> dict[tuple[str, str], tuple[int, ...]]:
    """Check the step's contract, and return the shapes of outputs and final carry."""
    with jax.enable_x64(system.dtype == "float64"), jax.default_device(system.device):
        params, carry, inputs = placed(system, xs)
        check_step(system, carry, inputs)
        last, ys = jax.eval_shape(system.unroll, params, carry, inputs)
    return {
        (quantity, name): tuple(leaf.shape)
        for quantity, tree in ((OUTPUTS, ys), (CARRY, last))
        for name, leaf in named(tree).items()
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    }


def _cotangents(shapes: dict, dtype: str, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return {name: rounded(rng.normal(size=shape), dtype) for name, shape in shapes.items()}


def _unmatched(a: Outcome, b: Outcome, names: list) -> list[str]:
    """Return remarks that list the arrays without a partner on the other side."""
    remarks = []
    for quantity in (CARRY, BY_CARRY, BY_PARAMS):
        alone = [
            ", ".join(
                sorted(leaf or "(one array)" for q, leaf in each if q == quantity and (q, leaf) not in names)
            )
            for each in (a, b)
        ]
        if any(alone):
            remarks.append(
                f"Not compared: {quantity}, {alone[0] or 'nothing'} of A and {alone[1] or 'nothing'} of B. These have "
                "no partner of the same path and shape on the other side."
            )
    return remarks


def _reference(
    systems: tuple[System, System], xs: Any, cotangents: Any, noise: float, seed: int
) -> tuple[Outcome | None, list[Outcome], str, list[str]]:
    """Return the reference, its values under noise, the name of the side whose step it is, and remarks.

    The step of a layer is preferred.
    """
    for system in sorted(systems, key=lambda system: not system.is_layer):
        try:
            reference, repeats = responses(system, xs, cotangents, noise, seed)
        except NoReference:
            continue
        return reference, repeats, system.name, []
    remark = (
        "Neither step computes in float64, since its carry or output has a fixed dtype. So there is no reference, and "
        "the tolerance of all quantities is K u sqrt(n + T), which does not depend on their conditioning."
    )
    return None, [], "", [remark]


def _iterated(*sides: Implementation) -> list[str]:
    """Return a remark for each `Newton` method, whose iteration stops at its own tolerance."""
    origins = [origin(side.make) if isinstance(side.make, Layer) else None for side in sides]
    methods = [made[1].get("method") for made in origins if made is not None]
    return [
        f"{method!r} stops where its residual, relative to the carry, is below its own tolerance, which is above "
        "rounding. Use a smaller tolerance, such as Newton(tolerance=1e-15) in float64, to see whether it explains the "
        "difference."
        for method in dict.fromkeys(methods)
        if isinstance(method, Newton)
    ]


def _judged(differences: tuple[Difference, ...], whose: str, a: str, b: str, dtype: str) -> list[str]:
    """Return remarks on numbers that are not finite, on loose tolerances, and on errors that both sides share."""
    remarks = []
    broken = [d.label for d in differences if not d.finite]
    if broken:
        more = f" and {len(broken) - 1} more" if broken[1:] else ""
        remarks.append(f"Not every number is finite: {broken[0]}{more}.")
    loose = [d for d in differences if np.max(d.tolerances) > 0.1]
    if loose:
        steps = [int(np.argmax(d.tolerances > 0.1)) for d in loose if d.quantity == OUTPUTS]
        where = f" from step {min(steps)} on" if steps else ""
        remarks.append(
            f"Ill-conditioned: roundings of {dtype} alone change {loose[0].label} by more than a tenth{where}. Smaller "
            "differences cannot be detected there. Use a finer dtype or fewer steps."
        )
    if whose:
        both = [d for d in differences if min(d.a_error, d.b_error) > np.max(d.tolerances) and d.equal]
        if both:
            remarks.append(
                f"Both sides differ from the float64 reference in the same way, by more than roundings of {dtype}: "
                + ", ".join(d.label for d in both)
                + "."
            )
    return remarks
