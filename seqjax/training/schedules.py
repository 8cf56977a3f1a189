"""Learning rates by update: constant, or falling along a cosine or a line, after a linear warm-up."""

from collections.abc import Callable

import optax

_AFTER_WARMUP: dict[str, Callable[[float, int, float], optax.Schedule]] = {
    "constant": lambda rate, updates, final: optax.constant_schedule(rate),
    "cosine": lambda rate, updates, final: optax.cosine_decay_schedule(rate, updates, final),
    "linear": lambda rate, updates, final: optax.linear_schedule(rate, rate * final, updates),
}
SCHEDULES = tuple(_AFTER_WARMUP)


def learning_rates(
    schedule: str, rate: float, *, end: int, warmup_steps: int = 0, final_rate: float = 0.0
) -> float | optax.Schedule:
    r"""Return the learning rate as a number, or as a function of the number of updates that were made.

    .. math::
        \eta_n &= \eta\, \frac{n + 1}{w + 1} && n < w \\
        \eta_n &= \eta && n \ge w \text{, constant} \\
        \eta_n &= \eta\, (1 - (1 - f)\, p) && n \ge w \text{, linear} \\
        \eta_n &= \eta\, \big(f + (1 - f)\, \tfrac{1}{2} (1 + \cos \pi p)\big) && n \ge w \text{, cosine}

    with n updates before this one, w of them in the warm-up, and :math:`p = \min((n - w) / (N - w), 1)` for a schedule
    that ends after N updates. No rate of the warm-up is zero. Skipped steps make no update and do not count.

    Args:
        schedule: "constant", "cosine" or "linear".
        rate: :math:`\eta`, the largest rate.
        end: N; a constant rate does not use it.
        warmup_steps: w, below N.
        final_rate: f, the last rate as a fraction of the largest one.

    Example:
        >>> from seqjax.training.schedules import learning_rates
        >>> learning_rates("constant", 0.1, end=10)
        0.1
        >>> rates = learning_rates("linear", 0.1, end=7, warmup_steps=3)
        >>> [round(float(rates(n)), 4) for n in range(9)]
        [0.025, 0.05, 0.075, 0.1, 0.075, 0.05, 0.025, 0.0, 0.0]

    References:
        Loshchilov, Hutter 2017, "SGDR: stochastic gradient descent with warm restarts", arXiv:1608.03983, eq. 5 (the
        cosine). Goyal et al. 2017, "Accurate, large minibatch SGD", arXiv:1706.02677, section 2.2 (gradual warm-up).
    """
    if schedule == "constant" and not warmup_steps:
        return rate
    after = _AFTER_WARMUP[schedule](rate, max(end - warmup_steps, 1), final_rate)
    if not warmup_steps:
        return after
    rising = optax.linear_schedule(rate / (warmup_steps + 1), rate, warmup_steps)
    return optax.join_schedules([rising, after], [warmup_steps])
