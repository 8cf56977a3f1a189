"""Recall tasks: the first symbol, the symbol after a mark, the value of a key."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from seqjax.checks import check_whole_numbers
from seqjax.tasks.base import NOT_SCORED, Task, check_length, classification
from seqjax.values import definition


@definition
def delayed_recall(length: int, num_symbols: int = 8, num_noise: int = 8) -> Task:
    r"""First-symbol recall: output the first symbol at the last step, after noise.

    The first input is one of num_symbols symbols, all later inputs are noise symbols, of which there are num_noise. The
    target of the last step is the first symbol; no other step is scored:

    .. math:: baseline = \ln(num\_symbols)

    The task needs a single stored number, so it is the simplest test of long-range gradients.

    Shapes: xs ``[T, B]``, targets ``[T, B]``, both int32; ys ``[T, B, num_symbols]``.

    Args:
        length: time steps T, at least 2.
        num_symbols: number of different symbols.
        num_noise: number of noise symbols.

    Returns:
        A `Task` whose baseline refers to the last step; solved at an accuracy of 0.99.

    Raises:
        ValueError: when the length is too short, or a number is not positive.

    Example:
        >>> import jax
        >>> from seqjax.tasks import delayed_recall
        >>> xs, targets = delayed_recall(20).sample(jax.random.key(0), 4)
        >>> bool((targets[-1] == xs[0]).all())
        True

    References:
        Hochreiter and Schmidhuber, "Long short-term memory", Neural Computation 9(8), 1997, experiment 2 (the first
        symbol determines the last, with distractors in between).
    """
    who = "delayed_recall"
    check_whole_numbers(who, num_symbols=num_symbols, num_noise=num_noise)
    check_length(who, length, 2, "the symbol and its recall")

    def sample(key: PRNGKeyArray, batch_size: int) -> tuple[Int[Array, "T B"], Int[Array, "T B"]]:
        for_symbol, for_noise = jax.random.split(key)
        symbol = jax.random.randint(for_symbol, (batch_size,), 0, num_symbols, dtype=jnp.int32)
        noise = jax.random.randint(
            for_noise, (length, batch_size), num_symbols, num_symbols + num_noise, dtype=jnp.int32
        )
        targets = jnp.full((length, batch_size), NOT_SCORED, jnp.int32).at[-1].set(symbol)
        return noise.at[0].set(symbol), targets

    reference = "Hochreiter and Schmidhuber 1997, Neural Computation 9(8), experiment 2"
    return classification(who, length, sample, (num_symbols + num_noise, num_symbols), "last", reference)


@definition
def induction_heads(length: int, num_symbols: int = 16) -> Task:
    r"""Induction heads: output the symbol that followed a mark, when the mark appears again.

    The inputs are random symbols, with a mark at one random step before the last two. The last input is the mark again,
    and its target is the symbol that followed the first mark:

    .. math:: baseline = \ln(num\_symbols)

    Symbols are ``0 .. num_symbols - 1``, the mark is ``num_symbols``.

    Shapes: xs ``[T, B]``, targets ``[T, B]``, both int32; ys ``[T, B, num_symbols]``.

    Args:
        length: time steps T, at least 3.
        num_symbols: size of the alphabet.

    Returns:
        A `Task` whose baseline refers to the last step; solved at an accuracy of 0.99.

    Raises:
        ValueError: when the length is too short, or num_symbols is below 1.

    Example:
        >>> import jax
        >>> from seqjax.tasks import induction_heads
        >>> xs, targets = induction_heads(12).sample(jax.random.key(0), 1)
        >>> place = xs[:, 0].tolist().index(16)
        >>> bool(xs[place + 1, 0] == targets[-1, 0]), int(xs[-1, 0])
        (True, 16)

    References:
        Olsson et al. 2022, "In-context learning and induction heads", arXiv:2209.11895. Fu et al. 2023, "Hungry hungry
        hippos", arXiv:2212.14052, section 3.1 (the synthetic form used here).
    """
    who = "induction_heads"
    check_whole_numbers(who, num_symbols=num_symbols)
    check_length(who, length, 3, "the mark, a symbol, the mark again")

    def sample(key: PRNGKeyArray, batch_size: int) -> tuple[Int[Array, "T B"], Int[Array, "T B"]]:
        for_symbols, for_place = jax.random.split(key)
        xs = jax.random.randint(for_symbols, (length, batch_size), 0, num_symbols, dtype=jnp.int32)
        place = jax.random.randint(for_place, (batch_size,), 0, length - 2, dtype=jnp.int32)
        everyone = jnp.arange(batch_size)
        answer = xs[place + 1, everyone]
        xs = xs.at[place, everyone].set(num_symbols).at[-1].set(num_symbols)
        return xs, jnp.full((length, batch_size), NOT_SCORED, jnp.int32).at[-1].set(answer)

    reference = "Olsson et al. 2022, arXiv:2209.11895; Fu et al. 2023, arXiv:2212.14052"
    return classification(who, length, sample, (num_symbols + 1, num_symbols), "last", reference)


@definition
def multi_query_recall(length: int, num_pairs: int = 4, num_keys: int = 16, num_values: int = 16) -> Task:
    r"""Associative recall: pairs of keys and values, then queries by key at random positions.

    A sequence starts with ``k_1 v_1 k_2 v_2 ...``, with num_pairs different keys. Each of these keys then appears once,
    at a random position among blanks. The target at this position is the value of the key; no other step is scored:

    .. math:: baseline = \ln(num\_values)

    Keys are ``0 .. num_keys - 1``; the values and the blank follow.

    Shapes: xs ``[T, B]``, targets ``[T, B]``, both int32; ys ``[T, B, num_values]``.

    Args:
        length: time steps T, at least ``3 num_pairs``.
        num_pairs: number of pairs.
        num_keys: number of different keys, at least num_pairs.
        num_values: number of different values.

    Returns:
        A `Task` whose baseline refers to the scored steps; solved at an accuracy of 0.99.

    Raises:
        ValueError: when the length is too short, num_keys is below num_pairs, or a number is not positive.

    Example:
        >>> import jax
        >>> from seqjax.tasks import multi_query_recall
        >>> xs, targets = multi_query_recall(16).sample(jax.random.key(0), 1)
        >>> memory = dict(zip(xs[0:8:2, 0].tolist(), xs[1:8:2, 0].tolist()))
        >>> [memory[int(x)] - 16 for x in xs[8:, 0] if x < 16] == [int(v) for v in targets[:, 0] if v >= 0]
        True

    References:
        Arora et al. 2024, "Zoology: measuring and improving recall in efficient language models", arXiv:2312.04927.
        In the paper the gaps between pair and query follow a power law; here every position is equally likely.
    """
    who = "multi_query_recall"
    check_whole_numbers(who, num_pairs=num_pairs, num_keys=num_keys, num_values=num_values)
    if num_keys < num_pairs:
        raise ValueError(f"{who}: expected num_keys of at least num_pairs = {num_pairs}, got {num_keys}.")
    check_length(who, length, 3 * num_pairs, f"{num_pairs} keys and values, {num_pairs} queries")
    blank = num_keys + num_values
    after = length - 2 * num_pairs

    def sample(key: PRNGKeyArray, batch_size: int) -> tuple[Int[Array, "T B"], Int[Array, "T B"]]:
        for_keys, for_values, for_places = jax.random.split(key, 3)
        drawn = jax.random.uniform(for_keys, (batch_size, num_keys), jnp.float32)
        keys = jax.lax.top_k(drawn, num_pairs)[1].T.astype(jnp.int32)
        values = jax.random.randint(for_values, (num_pairs, batch_size), 0, num_values, dtype=jnp.int32)
        drawn = jax.random.uniform(for_places, (batch_size, after), jnp.float32)
        places = 2 * num_pairs + jax.lax.top_k(drawn, num_pairs)[1].T  # in random order
        everyone = jnp.arange(batch_size)
        xs = jnp.full((length, batch_size), blank, jnp.int32)
        xs = xs.at[0 : 2 * num_pairs : 2].set(keys).at[1 : 2 * num_pairs : 2].set(values + num_keys)
        targets = jnp.full((length, batch_size), NOT_SCORED, jnp.int32).at[places, everyone].set(values)
        return xs.at[places, everyone].set(keys), targets

    reference = "Arora et al. 2024, arXiv:2312.04927"
    return classification(who, length, sample, (num_keys + num_values + 1, num_values), "scored", reference)
