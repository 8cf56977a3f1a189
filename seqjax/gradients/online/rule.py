"""Rules of online algorithms: the storage and the update of an influence."""

from collections.abc import Callable
from typing import NamedTuple

from seqjax.base import Layer
from seqjax.ops.vectors import Coordinates


class Model(NamedTuple):
    """Static description of a model that rules use: structure and shapes.

    Attributes:
        layer: the model.
        params: coordinates of the P params that reach the carry, directly or through other params.
        carry: coordinates of one example's carry, n of them.
        step: ``(theta [P], s [n]) -> s [n]``, a step of one example with zero inputs, used only for its structure.
    """

    layer: Layer
    params: Coordinates
    carry: Coordinates
    step: Callable


class Rule(NamedTuple):
    """Storage and update of the influence M ``[n, P]`` of one example.

    Attributes:
        zero: ``() -> influence``, a tree of arrays that represents M = 0.
        read: ``(influence, delta [n]) -> delta M [P]``.
        advance: ``(step, theta [P], s [n], influence, key) -> influence`` after ``step(theta, s) -> s``, where s is the
            carry before the step. At a reset the step does not depend on s, and the influence is zero. The result of a
            masked step is used only at a reset.
        draws: whether `advance` needs a key.
    """

    zero: Callable
    read: Callable
    advance: Callable
    draws: bool = False
