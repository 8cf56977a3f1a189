"""The adding problem: the sum of two marked numbers, far apart in time."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from seqjax.tasks.base import Task, check_length, regression
from seqjax.values import definition


@definition
def adding(length: int) -> Task:
    r"""Adding problem: output the sum of the two marked numbers in a random sequence.

    The input of each step is a number :math:`v_t \sim \mathrm{Uniform}[0, 1)` and a marker :math:`m_t \in \{0, 1\}`.
    One marker is set in the first half (the first ``length // 2`` steps), one in the second half, each at a uniformly
    random step:

    .. math:: xs_t = (v_t, m_t), \qquad target_t = \sum_{s \le t} m_s v_s

    The last target is that of the paper. The earlier targets, the running sum, are an addition that gives every step a
    loss.

    Without memory the best prediction of the last target is its mean 1, and the squared error is the variance of the
    sum of two independent uniform numbers:

    .. math:: baseline = 2 \int_0^1 (v - 1/2)^2 dv = 2 \cdot \frac{1}{12} = \frac{1}{6}

    at the last step. (The second marker is on the last step itself with probability ``1 / (length - length // 2)``. A
    prediction from the input of that step has a slightly smaller error; the baseline ignores this, as does the paper.)

    Shapes: xs ``[T, B, 2]``, targets ``[T, B]``, both float32; ys ``[T, B, 1]``.

    Args:
        length: time steps T, at least 2.

    Returns:
        A `Task` whose baseline refers to the last step; solved at a squared error of 1e-3.

    Raises:
        ValueError: when the length is too short for two markers.

    Example:
        >>> import jax
        >>> from seqjax.tasks import adding
        >>> xs, targets = adding(6).sample(jax.random.key(0), 1)
        >>> print(xs[:, 0, 1])
        [0. 0. 1. 1. 0. 0.]
        >>> bool(targets[-1, 0] == xs[2, 0, 0] + xs[3, 0, 0])
        True

    References:
        Hochreiter and Schmidhuber, "Long short-term memory", Neural Computation 9(8), 1997, with numbers in [-1, 1].
        Arjovsky, Shah and Bengio, "Unitary evolution recurrent neural networks", 2016, section 5.1, arXiv:1511.06464
        (the form used here).
    """
    who = "adding"
    check_length(who, length, 2, "one marker in each half")
    half = length // 2

    def sample(key: PRNGKeyArray, batch_size: int) -> tuple[Float[Array, "T B 2"], Float[Array, "T B"]]:
        for_values, for_first, for_second = jax.random.split(key, 3)
        # Explicit dtypes, since the default dtypes, and with them the draws, depend on jax_enable_x64.
        values = jax.random.uniform(for_values, (length, batch_size), jnp.float32)
        first = jax.random.randint(for_first, (batch_size,), 0, half, dtype=jnp.int32)
        second = jax.random.randint(for_second, (batch_size,), half, length, dtype=jnp.int32)
        time = jnp.arange(length, dtype=jnp.int32)[:, None]
        markers = ((time == first) | (time == second)).astype(jnp.float32)
        return jnp.stack([values, markers], axis=-1), jnp.cumsum(markers * values, axis=0)

    reference = "Hochreiter and Schmidhuber 1997; Arjovsky et al. 2016, arXiv:1511.06464"
    return regression(who, length, sample, 1 / 6, reference, baseline_at="last", success=1e-3)
