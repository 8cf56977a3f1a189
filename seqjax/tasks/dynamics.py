"""Time series from equations: a partially observed chaotic flow, a delay equation, system identification."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from seqjax.checks import check_multiple, check_whole, check_whole_numbers
from seqjax.tasks.base import Task, check_length, regression
from seqjax.values import definition

Series = tuple[Float[Array, "T B 1"], Float[Array, "T B"]]


@definition
def lorenz(length: int, horizon: int = 10) -> Task:
    r"""Predict the first coordinate of the Lorenz flow from its own past.

    .. math:: \dot x = 10 (y - x), \qquad \dot y = x (28 - z) - y, \qquad \dot z = x y - \tfrac83 z

    integrated by Runge-Kutta steps of 0.02, from random states on the attractor (1,000 steps after a normal initial
    state). The input is x, scaled to unit variance; the target is x `horizon` steps later. y and z are not observed;
    the model infers them from the past.

    The baseline is the squared error of linear regression on the current x, :math:`1 - \rho^2` for the autocorrelation
    :math:`\rho` at the horizon, measured over 256 sequences (standard error below 2%).

    Shapes: xs ``[T, B, 1]``, targets ``[T, B]``, both float32; ys ``[T, B, 1]``.

    Args:
        length: time steps T, at least 2.
        horizon: number of steps ahead.

    Returns:
        A `Task` whose baseline refers to all steps; solved at a tenth of the baseline.

    Raises:
        ValueError: when an argument is too small.

    Example:
        >>> import jax
        >>> from seqjax.tasks import lorenz
        >>> xs, targets = lorenz(30).sample(jax.random.key(0), 1)
        >>> bool((xs[10:, 0, 0] == targets[:-10, 0]).all())
        True

    References:
        Lorenz 1963, "Deterministic nonperiodic flow", Journal of the Atmospheric Sciences 20(2), equations 25-27.
    """
    who = "lorenz"
    check_whole_numbers(who, horizon=horizon)

    def flow(s: Array) -> Array:
        x, y, z = s
        return jnp.stack([10 * (y - x), x * (28 - z) - y, x * y - z * (8 / 3)])

    def advance(s: Array, _: None) -> tuple[Array, Array]:
        h = 0.02
        k1 = flow(s)
        k2 = flow(s + (h / 2) * k1)
        k3 = flow(s + (h / 2) * k2)
        k4 = flow(s + h * k3)
        s = s + (h / 6) * (k1 + 2 * k2 + 2 * k3 + k4)
        return s, s[0]

    def simulate(key: PRNGKeyArray, steps: int) -> Float[Array, "S"]:
        start = jnp.asarray([0, 0, 25], jnp.float32) + jax.random.normal(key, (3,), jnp.float32)
        start = jax.lax.scan(advance, start, None, length=1000)[0]
        return jax.lax.scan(advance, start, None, length=steps)[1] / LORENZ_DEVIATION

    return _forecast(who, length, horizon, simulate, "Lorenz 1963, J. Atmos. Sci. 20(2)")


LORENZ_DEVIATION = 7.92
"""Standard deviation of x on the attractor, measured in `tests/test_tasks.py`. The mean is zero by symmetry."""


@definition
def mackey_glass(length: int, horizon: int = 6, delay: int = 17) -> Task:
    r"""Predict the Mackey-Glass delay equation, chaotic for delays from 17 on.

    .. math:: \dot x(t) = \frac{0.2\, x(t - \tau)}{1 + x(t - \tau)^{10}} - 0.1\, x(t)

    integrated by Euler steps of 0.1, with one input per unit of time, from random constant histories after 500 units.
    The input is ``(x - 0.9) / 0.25``; the target is the input `horizon` steps later.

    The baseline is the squared error of linear regression on the current input, measured over 256 sequences (standard
    error below 2%).

    Shapes: xs ``[T, B, 1]``, targets ``[T, B]``, both float32; ys ``[T, B, 1]``.

    Args:
        length: time steps T, at least 2.
        horizon: number of steps ahead.
        delay: tau, in units of time.

    Returns:
        A `Task` whose baseline refers to all steps; solved at a tenth of the baseline.

    Raises:
        ValueError: when an argument is too small.

    Example:
        >>> import jax
        >>> from seqjax.tasks import mackey_glass
        >>> xs, targets = mackey_glass(30).sample(jax.random.key(0), 2)
        >>> xs.shape, targets.shape
        ((30, 2, 1), (30, 2))

    References:
        Mackey, Glass 1977, "Oscillation and chaos in physiological control systems", Science 197. Jaeger, Haas 2004,
        "Harnessing nonlinearity", Science 304 (as a test of recurrent networks).
    """
    who = "mackey_glass"
    check_whole_numbers(who, horizon=horizon, delay=delay)
    fine = 10  # Euler steps per unit of time

    def advance(state: tuple[Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array], Array]:
        history, place, x = state

        def euler(_: Array, inner: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            history, place, x = inner
            past = history[place]  # written `delay` units earlier
            history = history.at[place].set(x)
            x = x + (0.2 * past / (1 + past**10) - 0.1 * x) / fine
            return history, (place + 1) % (fine * delay), x

        state = jax.lax.fori_loop(0, fine, euler, (history, place, x))
        return state, state[2]

    def simulate(key: PRNGKeyArray, steps: int) -> Float[Array, "S"]:
        x = jax.random.uniform(key, (), jnp.float32, 0.5, 1.5)
        start = (jnp.full(fine * delay, x), jnp.zeros((), jnp.int32), x)
        start = jax.lax.scan(advance, start, None, length=500)[0]
        return (jax.lax.scan(advance, start, None, length=steps)[1] - 0.9) / 0.25

    reference = "Mackey, Glass 1977, Science 197; Jaeger, Haas 2004, Science 304"
    return _forecast(who, length, horizon, simulate, reference)


@definition
def narma10(length: int) -> Task:
    r"""Identify a nonlinear system of order ten (NARMA-10).

    .. math:: y_{t+1} = 0.3 y_t + 0.05 y_t \sum_{i=0}^{9} y_{t-i} + 1.5 u_{t-9} u_t + 0.1, \qquad u_t \sim U[0, 0.5]

    Input ``4 u_t - 1``, in [-1, 1]; target ``(y_{t+1} - 0.4) / 0.1``. (The published equation diverges in rare cases,
    so y is clipped at 1.) Histories start at zero.

    The baseline is the squared error of linear regression on the current input, measured over 1,024 sequences.

    Shapes: xs ``[T, B, 1]``, targets ``[T, B]``, both float32; ys ``[T, B, 1]``.

    Args:
        length: time steps T, at least 2.

    Returns:
        A `Task` whose baseline refers to all steps; solved at a tenth of the baseline.

    Raises:
        ValueError: when the length is below 2.

    Example:
        >>> import jax
        >>> from seqjax.tasks import narma10
        >>> xs, targets = narma10(20).sample(jax.random.key(0), 3)
        >>> xs.shape, targets.shape
        ((20, 3, 1), (20, 3))

    References:
        Atiya, Parlos 2000, "New results on recurrent network training: unifying the algorithms and accelerating
        convergence", IEEE Transactions on Neural Networks 11(3).
    """
    who = "narma10"
    check_length(who, length, 2, "one step has no past")

    def sample(key: PRNGKeyArray, batch_size: int) -> Series:
        u = jax.random.uniform(key, (length, batch_size), jnp.float32, 0, 0.5)
        earlier = jnp.concatenate([jnp.zeros((9, batch_size), jnp.float32), u])[:length]

        def advance(ys: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            now, before = inputs
            y = 0.3 * ys[0] + 0.05 * ys[0] * jnp.sum(ys, 0) + 1.5 * before * now + 0.1
            y = jnp.minimum(y, 1)
            return jnp.concatenate([y[None], ys[:-1]]), y

        _, y = jax.lax.scan(advance, jnp.zeros((10, batch_size), jnp.float32), (u, earlier))
        return (4 * u - 1)[..., None], (y - 0.4) / 0.1

    baseline, reference = _line_error(sample, 1024), "Atiya, Parlos 2000, IEEE TNN 11(3)"
    return regression(who, length, sample, baseline, reference, success=baseline / 10)


@definition
def linear_system(length: int, state_size: int = 8, slowest: float = 0.98, seed: int = 0) -> Task:
    r"""Identify a random linear system from white noise and its response.

    .. math:: s_t = A s_{t-1} + B u_t, \qquad target_t = C s_t, \qquad u_t \sim N(0, 1)

    A is block-diagonal with pairs of eigenvalues :math:`r e^{\pm i\theta}`, r uniform from 0.5 to slowest, theta
    uniform; B and C are normal, and C is scaled so that the stationary target has unit variance. With the impulse
    response :math:`g_k = C A^k B`, the variance that the current input does not explain is

    .. math:: baseline = \frac1T \sum_{t} \sum_{1 \le k \le t} g_k^2

    exactly. A diagonal recurrence of the same size can represent the system.

    Shapes: xs ``[T, B, 1]``, targets ``[T, B]``, both float32; ys ``[T, B, 1]``.

    Args:
        length: time steps T, at least 2.
        state_size: size of the state, an even number.
        slowest: largest modulus of the eigenvalues, between 0.5 and 1.
        seed: seed of the random system.

    Returns:
        A `Task` whose baseline refers to all steps; solved at a hundredth of the baseline.

    Raises:
        ValueError: for a length below 2, an odd size, or a modulus out of range.

    Example:
        >>> from seqjax.tasks import linear_system
        >>> 0.5 < linear_system(500).baseline < 1
        True

    References:
        Hardt, Ma, Recht 2018, "Gradient descent learns linear dynamical systems", arXiv:1609.05191.
    """
    who = "linear_system"
    check_length(who, length, 2, "one step has no past")
    check_multiple(f"{who}(state_size)", check_whole(f"{who}(state_size)", state_size))
    if not 0.5 < slowest < 1:
        raise ValueError(f"{who}: expected slowest between 0.5 and 1, got {slowest}.")
    rng = np.random.default_rng(seed)
    eigenvalues = rng.uniform(0.5, slowest, state_size // 2) * np.exp(
        1j * rng.uniform(0, np.pi, state_size // 2)
    )
    # In the eigenbasis C A^k B is the real part of a sum of weighted powers.
    weights = rng.standard_normal(state_size // 2) + 1j * rng.standard_normal(state_size // 2)
    pairs = 1 - eigenvalues[:, None] * eigenvalues.conj(), 1 - eigenvalues[:, None] * eigenvalues
    outer = weights[:, None] * weights.conj(), weights[:, None] * weights
    # The sum of g_k^2 over all k, from Re(a) Re(b) = (Re(a conj(b)) + Re(a b)) / 2 and geometric series.
    variance = 0.5 * np.real(np.sum(outer[0] / pairs[0]) + np.sum(outer[1] / pairs[1]))
    weights = weights / np.sqrt(variance)
    response = np.real(eigenvalues ** np.arange(length)[:, None] @ weights)

    def sample(key: PRNGKeyArray, batch_size: int) -> Series:
        u = jax.random.normal(key, (length, batch_size), jnp.float32)
        decays = jnp.asarray(eigenvalues, jnp.complex64)[:, None]

        def advance(state: Array, now: Array) -> tuple[Array, Array]:
            state = decays * state + now
            return state, jnp.real(jnp.asarray(weights, jnp.complex64) @ state)

        start = jnp.zeros((state_size // 2, batch_size), jnp.complex64)
        return u[..., None], jax.lax.scan(advance, start, u)[1]

    later = np.concatenate([[0.0], response[1:] ** 2])
    baseline = float(np.mean(np.cumsum(later)))
    reference = "Hardt et al. 2018, arXiv:1609.05191"
    return regression(who, length, sample, baseline, reference, success=baseline / 100)


def _forecast(
    who: str, length: int, horizon: int, simulate: Callable[[PRNGKeyArray, int], Array], reference: str
) -> Task:
    """Return a task that predicts a series from its past."""
    check_length(who, length, 2, "one step has no past")

    def sample(key: PRNGKeyArray, batch_size: int) -> Series:
        series = jax.vmap(lambda key: simulate(key, length + horizon), out_axes=1)(
            jax.random.split(key, batch_size)
        )
        return series[:length, :, None], series[horizon:]

    baseline = _line_error(sample, 256)
    return regression(who, length, sample, baseline, reference, success=baseline / 10)


def _line_error(sample: Callable, batch_size: int) -> float:
    """Return the squared error of linear regression from the current input to the target."""
    drawn = jax.jit(sample, static_argnums=1)(jax.random.key(0), batch_size)
    xs, targets = (np.asarray(a, np.float64).ravel() for a in drawn)
    correlation = np.corrcoef(xs, targets)[0, 1]
    return float(np.var(targets) * (1 - correlation**2))
