"""State tracking: the running product of permutations."""

import itertools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from seqjax.checks import check_one_of
from seqjax.tasks.base import Task, check_length, classification
from seqjax.values import definition


@definition
def state_tracking(length: int, group: Literal["S5", "A5", "S3", "Z60"] = "S5") -> Task:
    r"""Group word problem: the running product of random elements of a group, at every step.

    .. math:: target_t = x_t \circ x_{t-1} \circ \dots \circ x_1

    where inputs are uniform over the group. The groups are S5, all 120 permutations of five elements; A5, the 60 even
    permutations of S5; S3, the six permutations of three elements; and Z60, the cyclic group of the size of A5, for
    comparison. S5 and A5 are not solvable. A constant number of layers of a diagonal linear recurrence (or of a
    transformer) cannot track them, as far as is known; a nonlinear recurrence can. Only the first target is predictable
    without memory:

    .. math:: baseline = \ln |G| \; (length - 1) / length

    Elements are numbered in lexicographic order of the permutations; the identity is element 0.

    Shapes: xs ``[T, B]``, targets ``[T, B]``, both int32; ys ``[T, B, |G|]``.

    Args:
        length: time steps T, at least 2.
        group: one of "S5", "A5", "S3", "Z60".

    Returns:
        A `Task` whose baseline refers to all steps; solved at an accuracy of 0.99.

    Raises:
        ValueError: when the length is below 2, or for an unknown group.

    Example:
        >>> import jax
        >>> from seqjax.tasks import state_tracking
        >>> xs, targets = state_tracking(4, "S3").sample(jax.random.key(0), 1)
        >>> bool(xs[0, 0] == targets[0, 0]), state_tracking(4, "A5").num_outputs
        (True, 60)

    References:
        Merrill, Petty, Sabharwal 2024, "The illusion of state in state-space models", arXiv:2404.08819, section 5.
    """
    who = "state_tracking"
    check_one_of(f"{who}(group)", group, GROUPS)
    check_length(who, length, 2, "one element is no product")
    table = multiplication_table(group)
    size = len(table)

    def sample(key: PRNGKeyArray, batch_size: int) -> tuple[Int[Array, "T B"], Int[Array, "T B"]]:
        xs = jax.random.randint(key, (length, batch_size), 0, size, dtype=jnp.int32)
        products = jnp.asarray(table, jnp.int32)

        def multiply(state: Array, x: Array) -> tuple[Array, Array]:
            state = products[x, state]
            return state, state

        return xs, jax.lax.scan(multiply, jnp.zeros(batch_size, jnp.int32), xs)[1]

    baseline = math.log(size) * (length - 1) / length
    reference = "Merrill et al. 2024, arXiv:2404.08819"
    return classification(who, length, sample, (size, size), "mean", reference, baseline=baseline)


def _permutations(size: int, *, even: bool) -> list[tuple[int, ...]]:
    def is_even(p: tuple[int, ...]) -> bool:
        return sum(a > b for a, b in itertools.combinations(p, 2)) % 2 == 0

    return [p for p in itertools.permutations(range(size)) if not even or is_even(p)]


GROUPS = {
    "S5": lambda: _permutations(5, even=False),
    "A5": lambda: _permutations(5, even=True),
    "S3": lambda: _permutations(3, even=False),
    "Z60": lambda: [tuple(np.roll(range(60), -shift).tolist()) for shift in range(60)],
}
"""Permutations of each group, the identity first."""


def multiplication_table(group: str) -> np.ndarray:
    """Return ``table[a, b]``, the number of the permutation "first b, then a".

    Example:
        >>> from seqjax.tasks.groups import multiplication_table
        >>> multiplication_table("S3")[0]  # the identity changes nothing
        array([0, 1, 2, 3, 4, 5])
    """
    elements = GROUPS[group]()
    number = {p: i for i, p in enumerate(elements)}
    return np.array([[number[tuple(a[i] for i in b)] for b in elements] for a in elements])
