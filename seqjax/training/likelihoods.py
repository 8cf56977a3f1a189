"""Likelihood losses for forecasts: the model's outputs are the params of a distribution of the next value.

A distribution is made from the last axis of the outputs, by a softplus where a param is positive. Its `log_prob` is
that of ``jax.scipy.stats``; the losses are negative log-likelihoods.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy import stats
from jax.scipy.special import gammaln

from seqjax.training.losses import mean_over_events

SMALLEST_SCALE = 1e-4
"""Added to each positive param: the density of a scale of zero has no bound."""


class Gaussian(NamedTuple):
    """A normal distribution; mean and scale ``[...]``."""

    mean: jax.Array
    scale: jax.Array

    def log_prob(self, x: Any) -> jax.Array:
        """Return the log density."""
        return stats.norm.logpdf(x, self.mean, self.scale)


class StudentT(NamedTuple):
    """Student's t distribution; mean, scale and degrees of freedom ``[...]``."""

    mean: jax.Array
    scale: jax.Array
    freedom: jax.Array

    def log_prob(self, x: Any) -> jax.Array:
        """Return the log density."""
        return stats.t.logpdf(x, self.freedom, self.mean, self.scale)


class NegativeBinomial(NamedTuple):
    r"""A distribution of counts with mean :math:`\mu` and variance :math:`\mu + \alpha \mu^2`; both ``[...]``."""

    mean: jax.Array
    dispersion: jax.Array

    def log_prob(self, x: Any) -> jax.Array:
        """Return the log probability."""
        x, n = jnp.asarray(x, self.mean.dtype), 1 / self.dispersion
        ways = gammaln(x + n) - gammaln(x + 1) - gammaln(n)
        product = self.dispersion * self.mean
        return ways - (x + n) * jnp.log1p(product) + x * jnp.log(product)


def gaussian(ys: jax.Array) -> Gaussian:
    r"""The normal distribution of outputs ``[..., 2]``: mean, and scale by :math:`\ln(1 + e^y) + 10^{-4}`."""
    mean, scale = _parts("gaussian", ys, 2)
    return Gaussian(mean, _positive(scale))


def student_t(ys: jax.Array) -> StudentT:
    """Student's t of outputs ``[..., 3]``: mean, scale, and more than 2 degrees of freedom, for a finite variance."""
    mean, scale, freedom = _parts("student_t", ys, 3)
    return StudentT(mean, _positive(scale), 2 + _positive(freedom))


def negative_binomial(ys: jax.Array) -> NegativeBinomial:
    """The negative binomial distribution of outputs ``[..., 2]``: mean and dispersion, both by a softplus."""
    mean, dispersion = _parts("negative_binomial", ys, 2)
    return NegativeBinomial(_positive(mean), _positive(dispersion))


def gaussian_nll(ys: jax.Array, targets: jax.Array, *, event_ndim: int = 0) -> jax.Array:
    r"""Negative log-likelihood under a normal distribution.

    .. math:: \ell = \tfrac12 \ln 2\pi + \ln\sigma + \frac{(x - \mu)^2}{2 \sigma^2}

    Shapes: outputs ``[T, *B, *E, 2]``, targets x ``[T, *B, *E]`` -> losses ``[T, *B]``, the mean over the axes E of one
    example.

    Gradients: by :math:`\mu`, :math:`(\mu - x) / \sigma^2`: large for outliers, and without bound for small scales.

    Args:
        ys: outputs of the model, from which `gaussian` makes the distribution.
        targets: numbers.
        event_ndim: the number of axes E.

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from seqjax.training import gaussian_nll
        >>> gaussian_nll(jnp.asarray([[[0.0, 0.5413]]]), jnp.asarray([[1.0]])).round(3)     # a scale of 1
        Array([[1.419]], dtype=float32)

    References:
        Salinas, Flunkert, Gasthaus 2020, "DeepAR: probabilistic forecasting with autoregressive recurrent networks",
        arXiv:1704.04110, section 3.1.
    """
    return _nll("gaussian_nll", gaussian(ys), targets, event_ndim)


def student_t_nll(ys: jax.Array, targets: jax.Array, *, event_ndim: int = 0) -> jax.Array:
    r"""Negative log-likelihood under Student's t distribution, whose tails are heavy.

    .. math::
        \ell = \ln\frac{\Gamma(\frac\nu2)\sqrt{\pi\nu}\,\sigma}{\Gamma(\frac{\nu+1}2)}
        + \frac{\nu+1}2 \ln\Big(1 + \frac{(x-\mu)^2}{\nu\sigma^2}\Big)

    Shapes: outputs ``[T, *B, *E, 3]``, targets x ``[T, *B, *E]`` -> losses ``[T, *B]``, as for `gaussian_nll`.

    Gradients: by :math:`\mu` they fall as 1/(x - \mu) far away, so that outliers count little.

    Args:
        ys: outputs of the model, from which `student_t` makes the distribution.
        targets: numbers.
        event_ndim: the number of axes E.

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from seqjax.training import student_t_nll
        >>> student_t_nll(jnp.zeros((5, 4, 3)), jnp.zeros((5, 4))).shape
        (5, 4)

    References:
        Lange, Little, Taylor 1989, "Robust statistical modeling using the t distribution", JASA 84(408).
    """
    return _nll("student_t_nll", student_t(ys), targets, event_ndim)


def negative_binomial_nll(ys: jax.Array, targets: jax.Array, *, event_ndim: int = 0) -> jax.Array:
    r"""Negative log-likelihood of counts under the negative binomial distribution.

    .. math::
        \ell = -\ln\frac{\Gamma(x + \frac1\alpha)}{\Gamma(x+1)\,\Gamma(\frac1\alpha)}
        + \frac1\alpha \ln(1 + \alpha\mu) - x \ln\frac{\alpha\mu}{1 + \alpha\mu}

    Shapes: outputs ``[T, *B, *E, 2]``, targets x ``[T, *B, *E]`` -> losses ``[T, *B]``, as for `gaussian_nll`.

    Args:
        ys: outputs of the model, from which `negative_binomial` makes the distribution.
        targets: counts, of an integer or floating dtype.
        event_ndim: the number of axes E.

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from seqjax.training import negative_binomial_nll
        >>> negative_binomial_nll(jnp.zeros((5, 4, 2)), jnp.ones((5, 4), int)).shape
        (5, 4)

    References:
        Salinas, Flunkert, Gasthaus 2020, arXiv:1704.04110, section 3.1 (mean :math:`\mu`, shape :math:`\alpha`).
    """
    return _nll("negative_binomial_nll", negative_binomial(ys), targets, event_ndim)


def _positive(y: jax.Array) -> jax.Array:
    return jax.nn.softplus(y) + SMALLEST_SCALE


def _parts(who: str, ys: Any, number: int) -> list[jax.Array]:
    ys = jnp.asarray(ys)
    if ys.ndim == 0 or ys.shape[-1] != number:
        raise ValueError(f"{who}: expected outputs [..., {number}], got {list(ys.shape)}.")
    return [ys[..., i] for i in range(number)]


def _nll(who: str, distribution: Any, targets: Any, event_ndim: int) -> jax.Array:
    targets = jnp.asarray(targets)
    if targets.shape != distribution.mean.shape:
        raise ValueError(
            f"{who}: expected targets {list(distribution.mean.shape)}, as the outputs without their last axis, got "
            f"{list(targets.shape)}."
        )
    return mean_over_events(who, -distribution.log_prob(targets), event_ndim)
