"""Copying tasks: recall symbols after a delay of blanks, after noise, or from random positions."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from seqjax.checks import check_whole_numbers
from seqjax.tasks.base import NOT_SCORED, Success, Task, check_length, classification
from seqjax.values import definition


@definition
def copying(length: int, num_symbols: int = 8, num_recall: int = 10) -> Task:
    r"""Copying task: read num_recall random symbols, and write them after a delay and a go marker.

    A sequence consists of num_recall symbols, ``delay - 1`` blanks, one go marker, and num_recall blanks. The target is
    blank up to and including the go marker, then the symbols. Symbols are ``0 .. num_symbols - 1``, blank is
    ``num_symbols``, the go marker ``num_symbols + 1``. An example with num_symbols=3, num_recall=2 and a delay of 4::

        xs       2 0 _ _ _ ! _ _
        targets  _ _ _ _ _ _ 2 0

    A prediction without memory knows the time and therefore every blank, and guesses uniformly among num_symbols
    symbols:

    .. math:: baseline = num\_recall \, \ln(num\_symbols) \,/\, length

    nats per step, as :math:`10 \ln 8 / (delay + 20)` in the paper.

    Shapes: xs ``[T, B]``, targets ``[T, B]``, both int32; ys ``[T, B, num_symbols + 1]``.

    Args:
        length: number of time steps T. The delay between a symbol and its recall is ``length - num_recall``; the
            paper's delay is ``length - 2 * num_recall``.
        num_symbols: number of different symbols.
        num_recall: number of symbols to recall.

    Returns:
        A `Task` whose baseline is the mean over all steps; solved at a tenth of the baseline.

    Raises:
        ValueError: when the length is too short for the symbols, the go marker and their recall, or a number is not
            positive.

    Example:
        >>> import jax
        >>> from seqjax.tasks import copying
        >>> task = copying(8, num_symbols=3, num_recall=2)
        >>> xs, targets = task.sample(jax.random.key(0), 1)
        >>> print(xs[:, 0], targets[:, 0])
        [1 0 3 3 3 4 3 3] [3 3 3 3 3 3 1 0]
        >>> round(copying(120).baseline, 3)
        0.173

    References:
        Hochreiter and Schmidhuber, "Long short-term memory", Neural Computation 9(8), 1997.
        Arjovsky, Shah and Bengio, "Unitary evolution recurrent neural networks", 2016, section 5.1, arXiv:1511.06464.
    """
    who = "copying"
    check_whole_numbers(who, num_symbols=num_symbols, num_recall=num_recall)
    check_length(who, length, 2 * num_recall + 1, f"{num_recall} symbols, a go marker, {num_recall} recalls")
    blank, go = num_symbols, num_symbols + 1

    def sample(key: PRNGKeyArray, batch_size: int) -> tuple[Int[Array, "T B"], Int[Array, "T B"]]:
        # Explicit dtype, since the default dtype, and with it the draw, depends on jax_enable_x64.
        symbols = jax.random.randint(key, (num_recall, batch_size), 0, num_symbols, dtype=jnp.int32)
        blanks = jnp.full((length, batch_size), blank, jnp.int32)
        xs = blanks.at[:num_recall].set(symbols).at[-num_recall - 1].set(go)
        return xs, blanks.at[-num_recall:].set(symbols)

    baseline = num_recall * math.log(num_symbols) / length
    reference = "Hochreiter and Schmidhuber 1997; Arjovsky et al. 2016, arXiv:1511.06464"
    return classification(
        who,
        length,
        sample,
        (num_symbols + 2, num_symbols + 1),
        "mean",
        reference,
        baseline=baseline,
        success=Success("loss", baseline / 10),
    )


@definition
def noisy_copying(length: int, num_symbols: int = 8, num_recall: int = 10, num_noise: int = 8) -> Task:
    r"""Copying over noise: the delay contains random noise symbols instead of blanks.

    A sequence consists of num_recall symbols, independent noise from a separate alphabet at every step of the delay,
    one go marker, and num_recall blanks, where the model writes the symbols. Only the steps of the recall are scored:

    .. math:: baseline = \ln(num\_symbols)

    Symbols are ``0 .. num_symbols - 1``; blank, go and the noise symbols follow. A memory that every input overwrites
    fails here, even if it preserves its state over blanks.

    Shapes: xs ``[T, B]``, targets ``[T, B]``, both int32; ys ``[T, B, num_symbols]``.

    Args:
        length: number of time steps T.
        num_symbols: number of different symbols.
        num_recall: number of symbols to recall.
        num_noise: number of noise symbols.

    Returns:
        A `Task` whose baseline refers to the scored steps; solved at an accuracy of 0.99.

    Raises:
        ValueError: when the length is too short, or a number is not positive.

    Example:
        >>> import jax
        >>> from seqjax.tasks import noisy_copying
        >>> xs, targets = noisy_copying(8, num_symbols=3, num_recall=2).sample(jax.random.key(0), 1)
        >>> print(xs[:2, 0], xs[-3:, 0], targets[:, 0])
        [1 2] [4 3 3] [-1 -1 -1 -1 -1 -1  1  2]

    References:
        Arjovsky et al. 2016, section 5.1, arXiv:1511.06464 (over blanks). Jing et al. 2019, "Gated orthogonal recurrent
        units: on learning to forget", arXiv:1706.02761 (the need to ignore noise).
    """
    who = "noisy_copying"
    check_whole_numbers(who, num_symbols=num_symbols, num_recall=num_recall, num_noise=num_noise)
    check_length(who, length, 2 * num_recall + 1, f"{num_recall} symbols, a go marker, {num_recall} recalls")
    blank, go = num_symbols, num_symbols + 1

    def sample(key: PRNGKeyArray, batch_size: int) -> tuple[Int[Array, "T B"], Int[Array, "T B"]]:
        for_symbols, for_noise = jax.random.split(key)
        symbols = jax.random.randint(for_symbols, (num_recall, batch_size), 0, num_symbols, dtype=jnp.int32)
        xs = jax.random.randint(for_noise, (length, batch_size), go + 1, go + 1 + num_noise, dtype=jnp.int32)
        xs = xs.at[:num_recall].set(symbols).at[-num_recall - 1].set(go).at[-num_recall:].set(blank)
        return xs, jnp.full((length, batch_size), NOT_SCORED, jnp.int32).at[-num_recall:].set(symbols)

    reference = "Arjovsky et al. 2016, arXiv:1511.06464; Jing et al. 2019, arXiv:1706.02761"
    return classification(
        who, length, sample, (num_symbols + 2 + num_noise, num_symbols), "scored", reference
    )


@definition
def selective_copying(length: int, num_symbols: int = 8, num_recall: int = 10) -> Task:
    r"""Selective copying: symbols are at random positions, so the content of a step decides whether it matters.

    num_recall random symbols are at random positions among ``length - num_recall - 1`` steps, the others of which are
    blank. A go marker and num_recall blanks follow, where the model writes the symbols in their order. Only the steps
    of the recall are scored:

    .. math:: baseline = \ln(num\_symbols)

    A linear recurrence whose coefficients do not depend on its input (an `lru`, an `s4d`) cannot select the positions.

    Shapes: xs ``[T, B]``, targets ``[T, B]``, both int32; ys ``[T, B, num_symbols]``.

    Args:
        length: number of time steps T.
        num_symbols: number of different symbols.
        num_recall: number of symbols to recall.

    Returns:
        A `Task` whose baseline refers to the scored steps; solved at an accuracy of 0.99.

    Raises:
        ValueError: when the length is too short, or a number is not positive.

    Example:
        >>> import jax
        >>> from seqjax.tasks import selective_copying
        >>> xs, targets = selective_copying(9, num_symbols=3, num_recall=2).sample(jax.random.key(0), 1)
        >>> [int(x) for x in xs[:6, 0] if x < 3] == targets[-2:, 0].tolist()
        True

    References:
        Jing et al. 2019, arXiv:1706.02761 (the denoising task). Gu, Dao 2023, "Mamba", section 3.1, arXiv:2312.00752.
    """
    who = "selective_copying"
    check_whole_numbers(who, num_symbols=num_symbols, num_recall=num_recall)
    check_length(who, length, 2 * num_recall + 1, f"{num_recall} symbols, a go marker, {num_recall} recalls")
    blank, go = num_symbols, num_symbols + 1
    before = length - num_recall - 1

    def sample(key: PRNGKeyArray, batch_size: int) -> tuple[Int[Array, "T B"], Int[Array, "T B"]]:
        for_symbols, for_places = jax.random.split(key)
        symbols = jax.random.randint(for_symbols, (num_recall, batch_size), 0, num_symbols, dtype=jnp.int32)
        # The positions of the num_recall largest random numbers, in order of time.
        drawn = jax.random.uniform(for_places, (batch_size, before), jnp.float32)
        places = jnp.sort(jax.lax.top_k(drawn, num_recall)[1], -1).T
        xs = jnp.full((length, batch_size), blank, jnp.int32).at[before].set(go)
        xs = xs.at[places, jnp.arange(batch_size)].set(symbols)
        return xs, jnp.full((length, batch_size), NOT_SCORED, jnp.int32).at[-num_recall:].set(symbols)

    reference = "Jing et al. 2019, arXiv:1706.02761; Gu, Dao 2023, arXiv:2312.00752"
    return classification(who, length, sample, (num_symbols + 2, num_symbols), "scored", reference)
