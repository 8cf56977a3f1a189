"""Formal languages: parity, modular arithmetic, nested brackets. They need a counter or a stack in the state."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from seqjax.checks import check_whole_numbers
from seqjax.tasks.base import NOT_SCORED, Task, check_length, classification
from seqjax.values import definition


@definition
def parity(length: int) -> Task:
    r"""Parity: whether the number of ones so far is odd, at every step.

    .. math:: target_t = \sum_{s \le t} x_s \bmod 2, \qquad x_t \sim \mathrm{Bernoulli}(1/2)

    Only the first target is predictable without memory:

    .. math:: baseline = \ln 2 \; (length - 1) / length

    The task needs a state that changes sign: a linear recurrence with positive decays cannot solve it at all lengths.

    Shapes: xs ``[T, B]``, targets ``[T, B]``, both int32; ys ``[T, B, 2]``.

    Args:
        length: time steps T, at least 2.

    Returns:
        A `Task` whose baseline refers to all steps; solved at an accuracy of 0.99.

    Raises:
        ValueError: when the length is below 2.

    Example:
        >>> import jax
        >>> from seqjax.tasks import parity
        >>> xs, targets = parity(6).sample(jax.random.key(1), 1)
        >>> print(xs[:, 0], targets[:, 0])
        [0 1 0 1 0 0] [0 1 1 0 0 0]

    References:
        Hochreiter and Schmidhuber 1997 (as a task for long lags). Grazzi et al. 2024, "Unlocking state-tracking in
        linear RNNs through negative eigenvalues", arXiv:2411.12537, theorem 1.
    """
    who = "parity"
    check_length(who, length, 2, "one step is no sum")

    def sample(key: PRNGKeyArray, batch_size: int) -> tuple[Int[Array, "T B"], Int[Array, "T B"]]:
        xs = jax.random.randint(key, (length, batch_size), 0, 2, dtype=jnp.int32)
        return xs, jnp.cumsum(xs, 0, dtype=jnp.int32) % 2

    baseline = math.log(2) * (length - 1) / length
    reference = "Hochreiter and Schmidhuber 1997; Grazzi et al. 2024, arXiv:2411.12537"
    return classification(who, length, sample, (2, 2), "mean", reference, baseline=baseline)


@definition
def modular_arithmetic(length: int, modulus: int = 5) -> Task:
    r"""Modular arithmetic: the value so far of a chain of sums and differences, modulo a number.

    Digits are at even steps, with an operator + or - before each digit except the first. The target at a digit is the
    value of the chain up to this digit; steps of operators are not scored. Of K digits all but the first need memory,
    since the sum of a uniform number and any independent number is uniform:

    .. math:: baseline = \ln(modulus) \, (K - 1) / K, \qquad K = \lceil length / 2 \rceil

    Digits are ``0 .. modulus - 1``, + is ``modulus``, - is ``modulus + 1``.

    Shapes: xs ``[T, B]``, targets ``[T, B]``, both int32; ys ``[T, B, modulus]``.

    Args:
        length: time steps T, at least 3.
        modulus: modulus of the arithmetic.

    Returns:
        A `Task` whose baseline refers to the scored steps; solved at an accuracy of 0.99.

    Raises:
        ValueError: when the length is below 3 or the modulus below 1.

    Example:
        >>> import jax
        >>> from seqjax.tasks import modular_arithmetic
        >>> xs, targets = modular_arithmetic(7).sample(jax.random.key(0), 1)
        >>> print(" ".join("01234+-"[x] for x in xs[:, 0].tolist()), targets[:, 0])
        1 + 1 + 2 + 2 [ 1 -1  2 -1  4 -1  1]

    References:
        Delétang et al. 2023, "Neural networks and the Chomsky hierarchy", arXiv:2207.02098 (modular arithmetic, simple;
        in the paper also with products).
    """
    who = "modular_arithmetic"
    check_whole_numbers(who, modulus=modulus)
    check_length(who, length, 3, "two digits and an operator")
    digits = (length + 1) // 2

    def sample(key: PRNGKeyArray, batch_size: int) -> tuple[Int[Array, "T B"], Int[Array, "T B"]]:
        for_digits, for_operators = jax.random.split(key)
        numbers = jax.random.randint(for_digits, (digits, batch_size), 0, modulus, dtype=jnp.int32)
        minus = jax.random.randint(for_operators, (length // 2, batch_size), 0, 2, dtype=jnp.int32)
        xs = jnp.zeros((length, batch_size), jnp.int32).at[0::2].set(numbers).at[1::2].set(modulus + minus)
        signs = jnp.concatenate([jnp.ones((1, batch_size), jnp.int32), 1 - 2 * minus[: digits - 1]])
        values = jnp.cumsum(signs * numbers, 0, dtype=jnp.int32) % modulus
        return xs, jnp.full((length, batch_size), NOT_SCORED, jnp.int32).at[0::2].set(values)

    baseline = math.log(modulus) * (digits - 1) / digits
    reference = "Delétang et al. 2023, arXiv:2207.02098"
    return classification(who, length, sample, (modulus + 2, modulus), "scored", reference, baseline=baseline)


@definition
def dyck(length: int, num_types: int = 2, max_depth: int = 8) -> Task:
    r"""Nested brackets of several types (Dyck language): the type of the innermost open bracket, at every step.

    The depth is a random walk: at depth 0 a bracket opens, at max_depth a bracket closes, and in between either happens
    with probability 1/2. The type of an opening bracket is uniform; a closing bracket has the type of the innermost
    open bracket. The target of every step is the type of the innermost open bracket after the step, or num_types if no
    bracket is open. Sequences are prefixes of words of the language.

    After an opening bracket the target is its type. After a closing bracket, a prediction without memory knows only the
    probability :math:`p_t` that no bracket is open, and all types are equally likely. With the probability :math:`c_t`
    of a closing bracket at step t, both from the transition matrix of the walk,

    .. math:: baseline = \frac1T \sum_t c_t \left( H(p_t) + (1 - p_t) \ln(num\_types) \right), \qquad
        H(p) = -p \ln p - (1 - p) \ln(1 - p)

    Opening brackets are ``0 .. num_types - 1``, closing ones ``num_types .. 2 num_types - 1``.

    Shapes: xs ``[T, B]``, targets ``[T, B]``, both int32; ys ``[T, B, num_types + 1]``.

    Args:
        length: time steps T, at least 2.
        num_types: number of bracket types.
        max_depth: largest depth of nesting.

    Returns:
        A `Task` whose baseline refers to all steps; solved at an accuracy of 0.99.

    Raises:
        ValueError: when the length is below 2, or a number is not positive.

    Example:
        >>> import jax
        >>> from seqjax.tasks import dyck
        >>> xs, targets = dyck(8).sample(jax.random.key(0), 1)
        >>> print(" ".join("([)]"[x] for x in xs[:, 0].tolist()), targets[:, 0])
        ( ( ( [ [ ] ] ( [0 0 0 1 1 1 0 0]

    References:
        Hewitt et al. 2020, "RNNs can generate bounded hierarchical languages with optimal memory", arXiv:2010.07515.
        Suzgun et al. 2019, "Memory-augmented recurrent neural networks can learn generalized Dyck languages",
        arXiv:1911.03329.
    """
    who = "dyck"
    check_whole_numbers(who, num_types=num_types, max_depth=max_depth)
    check_length(who, length, 2, "a bracket that opens and one that closes")

    def sample(key: PRNGKeyArray, batch_size: int) -> tuple[Int[Array, "T B"], Int[Array, "T B"]]:
        for_moves, for_types = jax.random.split(key)
        coins = jax.random.bernoulli(for_moves, jnp.float32(0.5), (length, batch_size))
        types = jax.random.randint(for_types, (length, batch_size), 0, num_types, dtype=jnp.int32)
        everyone = jnp.arange(batch_size)

        def move(state: tuple, drawn: tuple) -> tuple:
            depth, stack = state
            coin, kind = drawn
            opens = (depth == 0) | ((depth < max_depth) & coin)
            innermost = stack[everyone, jnp.maximum(depth - 1, 0)]
            x = jnp.where(opens, kind, num_types + innermost)
            at = jnp.minimum(depth, max_depth - 1)
            stack = stack.at[everyone, at].set(jnp.where(opens, kind, stack[everyone, at]))
            depth = jnp.where(opens, depth + 1, depth - 1)
            target = jnp.where(depth == 0, num_types, stack[everyone, jnp.maximum(depth - 1, 0)])
            return (depth, stack), (x, target)

        start = (jnp.zeros(batch_size, jnp.int32), jnp.zeros((batch_size, max_depth), jnp.int32))
        return jax.lax.scan(move, start, (coins, types))[1]

    baseline = _dyck_baseline(length, num_types, max_depth)
    reference = "Hewitt et al. 2020, arXiv:2010.07515; Suzgun et al. 2019, arXiv:1911.03329"
    return classification(
        who, length, sample, (2 * num_types, num_types + 1), "mean", reference, baseline=baseline
    )


def _dyck_baseline(length: int, num_types: int, max_depth: int) -> float:
    """Return the baseline of `dyck`."""
    depth = np.zeros(max_depth + 1)
    depth[0] = 1
    closing = np.full(max_depth + 1, 0.5)
    closing[0], closing[-1] = 0, 1
    total = 0.0
    for _ in range(length):
        closes, opens = depth * closing, depth * (1 - closing)
        chance = closes.sum()
        if chance > 0:
            empty = closes[1] / chance
            sides = [-p * math.log(p) for p in (empty, 1 - empty) if p > 0]
            total += chance * (sum(sides) + (1 - empty) * math.log(num_types))
        depth = np.append(closes[1:], 0) + np.insert(opens[:-1], 0, 0)
    return total / length
