"""Losses for sequences: thin adapters of optax's losses to time-major outputs and masks.

Each is a loss as `seqjax.gradients.objective` expects it, ``(ys, targets) -> losses`` or ``(ys, targets, mask) ->
losses``. Options are keywords: ``functools.partial(cross_entropy, label_smoothing=0.1)`` is a loss, too.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from seqjax.checks import check_whole, check_within
from seqjax.layers.pooling import last
from seqjax.ops.select import keep


def cross_entropy(
    logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0, ignored_label: int | None = None
) -> jax.Array:
    r"""Cross entropy of integer labels, with label smoothing and an ignored label.

    With :math:`p = \mathrm{softmax}(z)` over K classes, the label y and the smoothing :math:`\epsilon`,

    .. math::
        \ell = -(1 - \epsilon) \ln p_y - \frac{\epsilon}{K} \sum_k \ln p_k

    Shapes: logits z ``[T, *B, K]``, labels ``[T, *B]`` -> losses ``[T, *B]``, in nats.

    Args:
        logits: outputs of the model.
        labels: integers from 0 to K - 1, or the ignored label.
        label_smoothing: :math:`\epsilon` in [0, 1).
        ignored_label: steps with this label have a loss of zero and no gradient. They still count in the mean; steps
            that a mask leaves out do not.

    Raises:
        ValueError: for shapes that do not fit, or options out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from functools import partial
        >>> from seqjax.training import cross_entropy
        >>> logits, labels = jnp.log(jnp.asarray([[[0.5, 0.25, 0.25]]])), jnp.asarray([[0]])
        >>> cross_entropy(logits, labels), partial(cross_entropy, label_smoothing=0.3)(logits, labels)
        (Array([[0.6931472]], dtype=float32), Array([[0.8317766]], dtype=float32))

    References:
        Szegedy et al. 2016, "Rethinking the Inception architecture for computer vision", arXiv:1512.00567, section 7.
    """
    check_within("cross_entropy(label_smoothing)", label_smoothing)
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if logits.shape[:-1] != labels.shape or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"cross_entropy: expected logits [T, *B, K] and integer labels [T, *B], got {list(logits.shape)} and "
            f"{labels.dtype} {list(labels.shape)}."
        )
    counts = None if ignored_label is None else labels != ignored_label
    classes = labels if counts is None else jnp.where(counts, labels, 0)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, classes)
    if label_smoothing:
        chosen = jnp.take_along_axis(logits, classes[..., None], -1)[..., 0]
        losses = losses + label_smoothing * (chosen - jnp.mean(logits, -1))
    return losses if counts is None else jnp.where(counts, losses, 0)


def ctc_loss(logits: jax.Array, labels: jax.Array, mask: Any = None, *, blank: int = 0) -> jax.Array:
    r"""Connectionist temporal classification: labels of a sequence without their times.

    A path :math:`\pi_{1..T}` names one class per step. The labels l of a path are what is left after repeated classes
    are merged and blanks are removed:

    .. math::
        \ell = -\ln \sum_{\pi \to l} \prod_t \mathrm{softmax}(z_t)_{\pi_t}

    The product is over the steps that happened. Labels that fit into no path, since they and the blanks between
    repeated ones are more than the steps, have a loss of infinity.

    Shapes: logits z ``[T, *B, K]``, labels ``[*B, N]``, mask ``[T, *B]`` -> losses per sequence ``[*B]``, in nats.

    Gradients: by :math:`z_t`, the softmax minus the posterior share of each class at step t; dense in time, since every
    step can emit every label.

    Args:
        logits: outputs of the model, often bidirectional.
        labels: classes other than the blank; negative numbers fill up the end of each row.
        mask: bool, True where a step happened; None for all.
        blank: the class of the blank.

    Raises:
        ValueError: for shapes or dtypes that do not fit.

    Example:
        Of two steps with equal probabilities of the blank and one label, three of four paths emit the label:

        >>> import jax.numpy as jnp
        >>> from seqjax.training import ctc_loss
        >>> jnp.exp(-ctc_loss(jnp.zeros((2, 1, 2)), jnp.asarray([[1]])))
        Array([0.75], dtype=float32)

    References:
        Graves et al. 2006, "Connectionist temporal classification: labelling unsegmented sequence data with recurrent
        neural networks", ICML, eq. 3 and 8. The recursion is that of ``optax.ctc_loss``.
    """
    blank = check_whole("ctc_loss(blank)", blank, 0)
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    lead = logits.shape[:-1]
    mask = jnp.ones(lead, bool) if mask is None else jnp.asarray(mask)
    fits = logits.ndim > 2 and labels.shape[:-1] == lead[1:] and jnp.issubdtype(labels.dtype, jnp.integer)
    if not fits or mask.shape != lead or mask.dtype != jnp.bool_ or blank >= logits.shape[-1]:
        raise ValueError(
            f"ctc_loss: expected logits [T, *B, K] with K above blank={blank}, integer labels [*B, N] and a mask bool "
            f"[T, *B], got {list(logits.shape)}, {labels.dtype} {list(labels.shape)} and {mask.dtype} "
            f"{list(mask.shape)}."
        )
    logits = keep(mask, logits).reshape(lead[0], -1, logits.shape[-1])
    labels, steps = labels.reshape(-1, labels.shape[-1]), mask.reshape(lead[0], -1)
    padding = labels < 0
    losses = optax.ctc_loss(
        jnp.moveaxis(logits, 0, 1),
        (~steps.T).astype(logits.dtype),
        jnp.where(padding, 0, labels),
        padding.astype(logits.dtype),
        blank_id=blank,
    )
    repeated = jnp.sum((labels[:, 1:] == labels[:, :-1]) & ~padding[:, 1:], -1)
    fits_in = jnp.sum(~padding, -1) + repeated <= jnp.sum(steps, 0)
    return jnp.where(fits_in, losses, jnp.inf).reshape(lead[1:])


def quantile_loss(
    ys: jax.Array, targets: jax.Array, *, quantiles: tuple[float, ...], event_ndim: int = 0
) -> jax.Array:
    r"""The pinball loss: its minimum is at the quantiles of the targets.

    .. math::
        \ell = \frac1Q \sum_q \max\big(q\,(x - \hat x_q),\; (q - 1)(x - \hat x_q)\big)

    Shapes: outputs :math:`\hat x` ``[T, *B, *E, Q]``, targets x ``[T, *B, *E]`` -> losses ``[T, *B]``, the mean over
    the axes E of one example, such as the steps of a horizon. Outputs of the last step alone have no T.

    Gradients: by :math:`\hat x_q`, -q / Q above the output and (1 - q) / Q below: of bounded size, also for outliers.

    Args:
        ys: outputs of the model, one per quantile.
        targets: numbers.
        quantiles: levels q between 0 and 1; 0.5 alone is half the absolute error.
        event_ndim: the number of axes E.

    Raises:
        ValueError: for shapes that do not fit, or levels out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from seqjax.training import quantile_loss
        >>> quantile_loss(jnp.asarray([[[1.0, 2.0]]]), jnp.asarray([[3.0]]), quantiles=(0.1, 0.9))
        Array([[0.55]], dtype=float32)

    References:
        Koenker, Bassett 1978, "Regression quantiles", Econometrica 46(1), eq. 3.1.
    """
    levels = tuple(quantiles) if isinstance(quantiles, tuple | list) else (quantiles,)
    for level in levels:
        check_within("quantile_loss(quantiles)", level)
    ys, targets = jnp.asarray(ys), jnp.asarray(targets)
    if ys.shape != (*targets.shape, len(levels)):
        raise ValueError(
            f"quantile_loss: expected ys [T, *B, *E, {len(levels)}], one per quantile, for targets [T, *B, *E] "
            f"{list(targets.shape)}, got {list(ys.shape)}."
        )
    above = targets[..., None] - ys
    q = jnp.asarray(levels, above.dtype)
    losses = jnp.mean(jnp.maximum(q * above, (q - 1) * above), -1)
    return mean_over_events("quantile_loss", losses, event_ndim)


def last_step(loss: Callable) -> Callable:
    r"""Return the loss of the last output of each sequence: :math:`\ell(y_T, x)`, with the last step that happened.

    This is the loss of one label per sequence, or of a forecast at the end of a window.

    Shapes: the given loss takes outputs ``[*B, ...]``; the returned one takes ys ``[T, *B, ...]``, targets and mask
    ``[T, *B]``, and returns losses per sequence ``[*B]``.

    Args:
        loss: ``(ys, targets) -> losses``, such as `cross_entropy`.

    Example:
        >>> import jax.numpy as jnp
        >>> from seqjax.training import cross_entropy, last_step
        >>> ys = jnp.zeros((5, 2, 4)).at[-1, 0, 1].set(10.0)                       # [T, B, K]
        >>> last_step(cross_entropy)(ys, jnp.asarray([1, 1])).round(3)
        Array([0.   , 1.386], dtype=float32)
    """
    return partial(_last_step, loss)


def _last_step(loss: Callable, ys: Any, targets: Any, mask: Any = None) -> jax.Array:
    return loss(jax.tree.map(lambda y: last(y, mask), ys), targets)


def mean_over_events(who: str, losses: jax.Array, event_ndim: int) -> jax.Array:
    """Return the mean over the last axes; raise a ValueError for more axes than there are."""
    number = check_whole(f"{who}(event_ndim)", event_ndim, 0)
    if number > losses.ndim:
        raise ValueError(
            f"{who}(event_ndim): expected at most the {losses.ndim} axes of targets, got {number}."
        )
    return jnp.mean(losses, tuple(range(losses.ndim - number, losses.ndim)))
