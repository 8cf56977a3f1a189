"""Where and by how much two implementations differ, and whether rounding explains it."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Layer
from seqjax.compare.evaluate import (
    BY_CARRY,
    BY_INPUTS,
    BY_PARAMS,
    BY_STEP,
    CARRY,
    OUTPUTS,
    Outcome,
    measure,
    placed,
)
from seqjax.compare.implementation import Implementation, System
from seqjax.compare.prepare import check_step, prepare, with_carries
from seqjax.compare.rounding import FACTOR, NoReference, responses
from seqjax.compare.trees import coarser, doubled, named, rounded
from seqjax.methods import Newton
from seqjax.values import origin


class Difference(NamedTuple):
    """The difference in one quantity, leaf by leaf; norms over batch and features, relative to ``scale``.

    Attributes:
        quantity: "outputs", "final carry", or the gradient by inputs, first carry or params.
        leaf: path of the array, "" for a single one.
        scale: the root mean square over steps of the reference's norm.
        errors: norm of a - b by step ``[T]``; ``[1]`` for what has no time axis.
        tolerances: of the same shape.
        excess: the largest error/tolerance; above 1 is a difference that rounding does not explain.
        worst: its step; None without time axis.
        first: the first step past its tolerance, in the order of computation: gradients begin at the last step.
        largest: the largest difference of two numbers, relative to the largest number.
        a_error: the largest error of a to the reference, relative to ``scale``.
        b_error: that of b.
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
        """Quantity and leaf."""
        return f"{self.quantity}, {self.leaf}" if self.leaf else self.quantity

    @property
    def equal(self) -> bool:
        """Whether rounding explains it."""
        return self.excess <= 1

    @property
    def finite(self) -> bool:
        """Whether every number of both sides is."""
        return bool(np.isfinite(self.errors).all())


class Comparison(NamedTuple):
    """What `compare` finds.

    Attributes:
        a: one side, as text.
        b: the other.
        dtype: the coarser of the two dtypes, in which they are judged.
        length: T.
        batch_size: B.
        differences: one per quantity and leaf.
        remarks: what the reader must know.
        reference: whose step, in float64, the reference is; "" where there is none.
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
        """The verdict: every difference lies within the tolerance."""
        return all(difference.equal for difference in self.differences)

    @property
    def first(self) -> Difference | None:
        """The difference to look at first: in outputs before gradients; None where there is none."""
        return next((each for each in self.differences if not each.equal), None)


def compare(a: Implementation, b: Implementation, xs: Any, *, seed: int = 0) -> Comparison:
    """Run two implementations on the same numbers and judge their values and gradients.

    The loss is the product of outputs and final carry with fixed random cotangents. Params, first carry and inputs are
    rounded to the coarser of the two dtypes before, so that both sides are given the same numbers. The tolerance of
    every quantity at every step comes from `seqjax.compare.rounding`.

    Args:
        a: one side.
        b: the other.
        xs: inputs ``[T, B, ...]``, any pytree of arrays.
        seed: of the initial params of layers, the cotangents and the noise.

    Raises:
        ValueError: for inputs that are not finite, and sides that are not two implementations of one function.
        TypeError: for a ``build`` or ``step`` with another signature.

    Example:
        >>> import numpy as np, seqjax as sj
        >>> from seqjax.compare import Implementation, compare
        >>> xs = np.random.default_rng(0).normal(size=(12, 2, 3))
        >>> a, b = (sj.recurrent(sj.lru(4), method) for method in (sj.Scan(), sj.AssociativeScan()))
        >>> compare(Implementation(a), Implementation(b), xs).equal
        True
    """
    xs = doubled(xs)
    _check_inputs(xs)
    first, second, remarks = prepare(a, b, xs, seed)
    dtype = coarser(first.dtype, second.dtype)
    xs = rounded(xs, dtype)
    first, second = with_carries(first, second)
    shapes = [_outcome_shapes(system, xs) for system in (first, second)]
    outputs = [{n: s for n, s in each.items() if n[0] == OUTPUTS} for each in shapes]
    if outputs[0] != outputs[1]:
        texts = [
            ", ".join(f"{name[1]} {list(shape)}".strip() for name, shape in each.items()) for each in outputs
        ]
        raise ValueError(
            f"compare: expected outputs of the same names and shapes from both sides, got {texts[0]} from {a} "
            f"and {texts[1]} from {b}."
        )
    common = {name for name, shape in shapes[0].items() if shapes[1].get(name) == shape}
    cotangents = _cotangents({n: s for n, s in shapes[0].items() if n in common}, dtype, seed)
    found = [measure(system, xs, cotangents) for system in (first, second)]
    names = [name for name in found[0] if name in found[1] and found[0][name].shape == found[1][name].shape]
    remarks += _unmatched(found[0], found[1], names)
    terms = _terms(first, xs)
    noises = [_noise(system.dtype, terms[OUTPUTS]) for system in (first, second)]
    factor = FACTOR * math.hypot(*noises) / max(noises)
    reference, repeats, whose, more = _reference((first, second), xs, cotangents, max(noises), seed)
    remarks += more
    differences = tuple(
        _difference(name, found[0][name], found[1][name], reference, repeats, dtype, terms[name[0]], factor)
        for name in sorted(names, key=lambda n: _ORDER.index(n[0]))
    )
    remarks += _judged(differences, whose, str(a), str(b), dtype)
    if not all(each.equal for each in differences):
        remarks += _iterated(a, b)
    length, batch = jax.tree.leaves(xs)[0].shape[:2]
    return Comparison(str(a), str(b), dtype, length, batch, differences, tuple(remarks), whose)


_ORDER = (OUTPUTS, CARRY, BY_INPUTS, BY_CARRY, BY_PARAMS)


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
    """Shapes of outputs and final carry, after a check of the step's contract."""
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
                f"Not compared: {quantity}, {alone[0] or 'nothing'} of A and {alone[1] or 'nothing'} of B, which have "
                "no partner of the same path and shape on the other side."
            )
    return remarks


def _terms(system: System, xs: Any) -> dict[str, int]:
    """How many terms the sums have that make each quantity."""
    length, batch = jax.tree.leaves(xs)[0].shape[:2]
    sizes = [leaf.shape for tree in (system.params, xs) for leaf in named(tree).values()]
    longest = max((max(shape[-2:]) for shape in sizes if len(shape) > 1), default=1)
    return dict.fromkeys(_ORDER, longest) | {BY_PARAMS: max(longest, length * batch)}


def _unit(dtype: str) -> float:
    return float(jnp.finfo(dtype).eps) / 2


def _accumulation(dtype: str) -> float:
    """Unit roundoff of sums: float32 at least."""
    return min(_unit(dtype), _unit("float32"))


def _noise(dtype: str, terms: int) -> float:
    """The size of one side's roundings, v."""
    return math.hypot(_unit(dtype), math.sqrt(terms) * _accumulation(dtype))


def _reference(
    systems: tuple[System, System], xs: Any, cotangents: Any, noise: float, seed: int
) -> tuple[Outcome | None, list[Outcome], str, list[str]]:
    """The reference, its response to noise, whose step it is, and remarks. A layer's step comes first."""
    for system in sorted(systems, key=lambda system: not system.is_layer):
        try:
            reference, repeats = responses(system, xs, cotangents, noise, seed)
        except NoReference:
            continue
        return reference, repeats, system.name, []
    remark = (
        "Neither step computes in float64 (its carry or output has a dtype of its own), so there is no reference, and "
        "the tolerance is K u sqrt(n + T) for all quantities, which knows nothing of their conditioning."
    )
    return None, [], "", [remark]


def _difference(
    name: tuple[str, str],
    a: np.ndarray,
    b: np.ndarray,
    reference: Outcome | None,
    repeats: list[Outcome],
    dtype: str,
    terms: int,
    factor: float,
) -> Difference:
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
    # What is not finite on either side is a difference, whatever the tolerance.
    ratios = np.divide(errors, tolerances, out=np.where(errors == 0, 0.0, np.inf), where=tolerances > 0)
    ratios = np.where(np.isfinite(errors) & np.isfinite(tolerances), ratios, np.inf)
    order = np.arange(len(ratios))[:: -1 if quantity == BY_INPUTS else 1]  # of computation
    past = order[~(ratios[order] <= 1)]
    worst = int(order[np.argmax(ratios[order])])
    unscaled = scale or 1.0
    with np.errstate(invalid="ignore"):
        largest = float(np.max(np.abs(a - b)) / (np.max(np.abs(true)) or 1.0))
    return Difference(
        quantity,
        leaf,
        scale,
        errors / unscaled,
        tolerances / unscaled,
        float(ratios[worst]),
        worst if by_step else None,
        None if not by_step or not past.size else int(past[0]),
        largest,
        float(np.max(norms(a - true))) / unscaled,
        float(np.max(norms(b - true))) / unscaled,
    )


def _iterated(*sides: Implementation) -> list[str]:
    """Newton's iteration stops at a tolerance of its own."""
    origins = [origin(side.make) if isinstance(side.make, Layer) else None for side in sides]
    methods = [made[1].get("method") for made in origins if made is not None]
    return [
        f"{method!r} stops where its residual, relative to the carry, is below its own tolerance, not at rounding. "
        "Give a smaller one, such as Newton(tolerance=1e-15) in float64, to see whether that is the difference."
        for method in dict.fromkeys(methods)
        if isinstance(method, Newton)
    ]


def _judged(differences: tuple[Difference, ...], whose: str, a: str, b: str, dtype: str) -> list[str]:
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
            f"Ill-conditioned: roundings of {dtype} alone move {loose[0].label} by more than a tenth{where}; smaller "
            "differences there cannot be seen. Take a finer dtype or fewer steps."
        )
    if whose:
        both = [d for d in differences if min(d.a_error, d.b_error) > np.max(d.tolerances) and d.equal]
        if both:
            remarks.append(
                f"Both sides differ from the float64 reference by more than roundings of {dtype}, and in the same way: "
                + ", ".join(d.label for d in both)
                + "."
            )
    return remarks
