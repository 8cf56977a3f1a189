"""The copying problem: keep symbols in mind over a delay."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from seqjax.definition import definition
from seqjax.tasks.base import Task, check_batch, check_length, cross_entropy


@definition
def copying(length: int, num_symbols: int = 8, num_recall: int = 10) -> Task:
    r"""Read num_recall random symbols, wait, and write them down once told to.

    In the order of time: num_recall symbols, ``delay - 1`` blanks, one go marker, num_recall blanks. The target is
    blank up to and including the go marker, then the symbols. Symbols are ``0 .. num_symbols - 1``, blank is
    ``num_symbols``, the go marker ``num_symbols + 1``. With 3 symbols, of which 2 are to be recalled, and a delay
    of 4::

        xs       2 0 _ _ _ ! _ _
        targets  _ _ _ _ _ _ 2 0

    Without memory one knows the time, hence every blank, and guesses the symbols among num_symbols equals:

    .. math:: baseline = num\_recall \, \ln(num\_symbols) \,/\, length

    nats per step, the :math:`10 \ln 8 / (delay + 20)` of the paper.

    Shapes: xs ``[T, B]``, targets ``[T, B]``, both int32; ys ``[T, B, num_symbols + 1]``.

    Args:
        length: all time steps T; the delay between a symbol and its recall is ``length - num_recall``, and the
            paper's delay is ``length - 2 * num_recall``.
        num_symbols: how many symbols there are to choose from.
        num_recall: how many symbols are to be recalled.

    Returns:
        A `Task` whose baseline is the mean over all steps.

    Raises:
        ValueError: when the length has no room for the symbols, the go marker and their recall, or a number is not
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
    for name, value in (("num_symbols", num_symbols), ("num_recall", num_recall)):
        if value < 1:
            raise ValueError(f"{who}: expected {name} of at least 1, got {value}.")
    check_length(who, length, 2 * num_recall + 1, f"{num_recall} symbols, a go marker, {num_recall} recalls")
    blank, go = num_symbols, num_symbols + 1

    def sample(key: PRNGKeyArray, batch: int) -> tuple[Int[Array, "T B"], Int[Array, "T B"]]:
        check_batch(who, batch)
        # The dtype is given because the default follows jax_enable_x64, and with it the draw.
        symbols = jax.random.randint(key, (num_recall, batch), 0, num_symbols, dtype=jnp.int32)
        blanks = jnp.full((length, batch), blank, jnp.int32)
        xs = blanks.at[:num_recall].set(symbols).at[-num_recall - 1].set(go)
        return xs, blanks.at[-num_recall:].set(symbols)

    return Task(
        name=who,
        length=length,
        sample=sample,
        num_inputs=num_symbols + 2,
        num_outputs=num_symbols + 1,
        loss=cross_entropy,
        baseline=num_recall * math.log(num_symbols) / length,
        baseline_at="mean",
        reference="Hochreiter and Schmidhuber 1997; Arjovsky et al. 2016, arXiv:1511.06464",
    )
