"""ListOps: evaluation of nested lists of digits under MAX, MIN, MED and SM."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from seqjax.checks import check_whole_numbers
from seqjax.tasks.base import NOT_SCORED, Success, Task, check_length, classification
from seqjax.values import definition

OPERATORS = ("MAX", "MIN", "MED", "SM")
CLOSE = 10 + len(OPERATORS)


@definition
def listops(length: int, max_depth: int = 4, max_arguments: int = 5) -> Task:
    r"""Evaluate a nested expression such as ``[MAX 2 9 [MIN 4 7 ] 0 ]``, of exactly T tokens.

    The operators MAX, MIN, MED (the lower median) and SM (the sum modulo 10) act on digits and on nested lists.
    Expressions are generated from left to right: within a list the next token is a closing bracket with probability
    1/5, a new list with probability 1/4, and a digit otherwise, within the limits of depth, number of arguments and
    remaining steps. The outermost list has as many arguments as it needs to end with the last step. The target of the
    last step is the value, a digit; no other step is scored.

    The baseline is the entropy of the value, which is not uniform, measured over 8,192 expressions (standard error
    below 0.01 nats, bias below 0.001).

    Tokens 0 to 9 are the digits; the four opening brackets with their operators and the closing bracket follow.

    Shapes: xs ``[T, B]``, targets ``[T, B]``, both int32; ys ``[T, B, 10]``.

    Args:
        length: time steps T, at least 4.
        max_depth: largest depth of nesting.
        max_arguments: largest number of arguments of a list, except the outermost list.

    Returns:
        A `Task` whose baseline refers to the last step; solved at an accuracy of 0.9.

    Raises:
        ValueError: when the length is below 4, or a number is not positive.

    Example:
        >>> import jax
        >>> from seqjax.tasks import listops
        >>> xs, targets = listops(9).sample(jax.random.key(2), 1)
        >>> words = [*map(str, range(10)), "[MAX", "[MIN", "[MED", "[SM", "]"]
        >>> print(" ".join(words[x] for x in xs[:, 0].tolist()), "=", targets[-1, 0])
        [MAX 9 [MAX 4 ] 2 7 6 ] = 9

    References:
        Nangia, Bowman 2018, "ListOps", arXiv:1804.06028. Tay et al. 2021, "Long range arena", arXiv:2011.04006.
    """
    who = "listops"
    check_whole_numbers(who, max_depth=max_depth, max_arguments=max_arguments)
    check_length(who, length, 4, "an operator, two digits, a closing bracket")

    def sample(key: PRNGKeyArray, batch_size: int) -> tuple[Int[Array, "T B"], Int[Array, "T B"]]:
        return _sample(key, length, batch_size, max_depth, max_arguments)

    baseline = _entropy_of_values(length, max_depth, max_arguments)
    reference = "Nangia, Bowman 2018, arXiv:1804.06028; Tay et al. 2021, arXiv:2011.04006"
    return classification(
        who,
        length,
        sample,
        (CLOSE + 1, 10),
        "last",
        reference,
        baseline=baseline,
        success=Success("accuracy", 0.9),
    )


def _sample(
    key: PRNGKeyArray, length: int, batch_size: int, max_depth: int, max_arguments: int
) -> tuple[Int[Array, "T B"], Int[Array, "T B"]]:
    """Generate and evaluate expressions in one pass, with a stack of counts of digits ``[max_depth, 10]``."""

    def one(key: PRNGKeyArray) -> tuple[Array, Array]:
        for_moves, for_digits, for_operators = jax.random.split(key, 3)
        drawn = (
            jax.random.uniform(for_moves, (length,), jnp.float32),
            jax.random.randint(for_digits, (length,), 0, 10, dtype=jnp.int32),
            jax.random.randint(for_operators, (length,), 0, len(OPERATORS), dtype=jnp.int32),
            jnp.arange(length - 1, -1, -1, dtype=jnp.int32),
        )
        start = (
            jnp.zeros((), jnp.int32),
            jnp.zeros(max_depth, jnp.int32),
            jnp.zeros((max_depth, 10), jnp.int32),
            jnp.zeros((), jnp.int32),
        )
        (_, _, _, value), xs = jax.lax.scan(grow, start, drawn)
        return xs, value

    def grow(state: Any, drawn: Any) -> Any:
        depth, operators, counts, value = state
        move, digit, operator, left = drawn  # `left` steps remain after this step
        here = jnp.maximum(depth - 1, 0)
        arguments = jnp.sum(counts[here])
        must_close = left == depth - 1
        may_close = (arguments > 0) & (depth > 1)
        may_open = (depth < max_depth) & (left >= depth + 2) & ((arguments < max_arguments) | (depth == 1))
        full = (arguments >= max_arguments) & may_close
        opens = (depth == 0) | (~must_close & ~full & may_open & (move >= 0.75))
        closes = ~opens & (must_close | full | (may_close & (move < 0.2)))

        result = _evaluate(operators[here], counts[here])
        parent = jnp.maximum(depth - 2, 0)
        opened = counts.at[depth].set(0, mode="drop")
        closed = counts.at[here].set(0).at[parent, result].add(jnp.where(depth > 1, 1, 0))
        plain = counts.at[here, digit].add(1)
        counts = jnp.where(opens, opened, jnp.where(closes, closed, plain))
        operators = jnp.where(opens, operators.at[depth].set(operator, mode="drop"), operators)
        depth = depth + jnp.where(opens, 1, jnp.where(closes, -1, 0))
        x = jnp.where(opens, 10 + operator, jnp.where(closes, CLOSE, digit))
        return (depth, operators, counts, jnp.where(closes, result, value)), x

    xs: Any
    xs, values = jax.vmap(one, out_axes=(1, 0))(jax.random.split(key, batch_size))
    return xs, jnp.full((length, batch_size), NOT_SCORED, jnp.int32).at[-1].set(values)


def _evaluate(operator: Array, counts: Int[Array, "10"]) -> Array:
    """Return the value of a list from the count of each digit."""
    digits = jnp.arange(10, dtype=jnp.int32)
    largest = jnp.max(jnp.where(counts > 0, digits, 0))
    smallest = jnp.min(jnp.where(counts > 0, digits, 9))
    middle = (jnp.sum(counts) + 1) // 2  # index of the lower median in sorted order
    median = jnp.argmax(jnp.cumsum(counts) >= middle)
    total = jnp.sum(counts * digits) % 10
    return jnp.stack([largest, smallest, median.astype(jnp.int32), total])[operator].astype(jnp.int32)


@functools.cache
def _entropy_of_values(length: int, max_depth: int, max_arguments: int) -> float:
    sample = jax.jit(_sample, static_argnums=(1, 2, 3, 4))
    _, targets = sample(jax.random.key(0), length, 8192, max_depth, max_arguments)
    p = np.bincount(np.asarray(targets[-1]), minlength=10) / targets.shape[1]
    return -sum(x * math.log(x) for x in p if x > 0)
