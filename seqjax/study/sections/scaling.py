"""Measure memory, arithmetic and time against the length, by method."""

from collections.abc import Iterable
from typing import Any

from seqjax.base import Diagonal, Layer, Matrix
from seqjax.cells import REGISTRY
from seqjax.combinators import Nested, checkpointed
from seqjax.methods import AssociativeScan, Chunked, Scan
from seqjax.probes.scaling import (
    Scaling,
    crossovers,
    flops_scaling,
    gradient_of_carry,
    memory_scaling,
    time_scaling,
)
from seqjax.study.experiment import Experiment
from seqjax.study.measurement import Measurement
from seqjax.study.models import one_step, recurrent_layer, representatives
from seqjax.study.presets import SIZES, Sizes
from seqjax.study.rows import Part, Row, row
from seqjax.study.settings import Settings
from seqjax.user_model import is_own

NAME = "scaling"


def parts(settings: Settings) -> Iterable[Part]:
    """Return one part per cell."""
    return [
        Part(NAME, cell) for cell in representatives(settings.cells, SIZES[settings.preset].scaling_cells)
    ]


def work(settings: Settings, part: Part) -> float:
    """Compilation takes most of the time: each length and method, for memory and again for time."""
    sizes = SIZES[settings.preset]
    return 2.0 * len(sizes.scaling_lengths) * len(_methods(part.cell or "", sizes)) * 0.8


def measure(experiment: Experiment, part: Part) -> Iterable[Row]:
    """Yield bytes, operations and seconds of one gradient of a loss at the end, by method and length."""
    cell, settings = part.cell or "", experiment.settings
    sizes = SIZES[settings.preset]
    methods, lengths = _methods(cell, sizes), sizes.scaling_lengths
    task = experiment.source(min(settings.lengths)).task
    x = one_step(cell, settings.hidden_size, settings.batch_size, settings.dtype)

    def layer(method: Any) -> Layer:
        inside = Scan(chunk=64) if method == "nested" else method
        plain = recurrent_layer(cell, settings.hidden_size, inside, task)
        return checkpointed(plain, Nested()) if method == "nested" else plain

    common: dict[str, Any] = {"methods": methods, "program": gradient_of_carry}
    found = [*memory_scaling(layer, x, lengths, **common)]
    found += flops_scaling(layer, x, lengths, **common)
    seconds = time_scaling(layer, x, lengths, rounds=sizes.scaling_rounds, **common)
    for each in [*found, *seconds]:
        yield from _rows(each)
    for quantity in ("bytes", "seconds"):
        some = [each for each in (*found, *seconds) if each.quantity == quantity]
        if all((each.values > 0).all() for each in some):
            for crossing in crossovers(some).values():
                pair = f"{crossing.cheaper_before} to {crossing.cheaper_after}"
                if crossing.inside:
                    yield row(f"{quantity}_crossover", crossing.length, group=pair)


def _methods(cell: str, sizes: Sizes) -> dict[str, Any]:
    """Return the methods by name; the smoke preset leaves out checkpoints."""
    nested = {"nested": "nested"} if sizes.scaling_nested else {}
    if is_own(cell):
        return {"as it is": Scan(chunk=64), **nested}
    kind = type(REGISTRY[cell].make(4).recurrence)
    methods: dict[str, Any] = {"scan": Scan(chunk=64), **nested}
    if kind is Diagonal:
        methods["associative_scan"] = AssociativeScan()
    if kind is Matrix:
        methods["chunked"] = Chunked(16)
    return methods


def _rows(scaling: Scaling) -> Iterable[Row]:
    for length, value in zip(scaling.lengths, scaling.values, strict=True):
        yield row(scaling.quantity, value, group=scaling.method, x=float(length))
    yield row(f"{scaling.quantity}_exponent", scaling.law.exponent, group=scaling.method)
    yield row(f"{scaling.quantity}_exponent_error", scaling.law.standard_error, group=scaling.method)


MEASUREMENT = Measurement(NAME, parts, work, measure, timed=True)
