"""Dynamic time warping: the baseline for sequences that differ in speed."""

from collections.abc import Sequence

import numpy as np

from seqjax.datasets import pad


def distances(series: np.ndarray, templates: Sequence[np.ndarray], *, squared: bool = False) -> np.ndarray:
    r"""Return the warped distance of a series to each template.

    .. math::
        D_{ij} = d(x_i, z_j) + \min(D_{i-1,j},\, D_{i,j-1},\, D_{i-1,j-1}), \qquad
        \frac{D_{ST}}{S + T}, \text{ or } D_{ST} \text{ of squared distances}

    d is the Euclidean distance. Without `squared` the result is divided by the lengths, so that short templates have no
    advantage.

    Shapes: series x ``[S, D]``, N templates z ``[T_i, D]`` -> ``[N]``.

    Example:
        >>> import numpy as np
        >>> from benchmarks.applications.warping import distances
        >>> slow, fast = np.array([[0.0], [0.0], [1.0], [1.0]]), np.array([[0.0], [1.0]])
        >>> distances(slow, [fast, 1 - fast], squared=True)
        array([0., 4.])

    References:
        Sakoe, Chiba 1978, "Dynamic programming algorithm optimization for spoken word recognition", IEEE Transactions
        on Acoustics, Speech, and Signal Processing 26(1). Shokoohi-Yekta et al. 2017, "Generalizing DTW to the
        multi-dimensional case requires an adaptive approach", section 3 (the dependent one, squared).
    """
    known, mask = pad(list(templates))
    costs = ((series[:, None, None] - np.moveaxis(known, 0, 1)) ** 2).sum(-1)  # [S, T, N]
    costs = costs if squared else np.sqrt(costs)
    totals = np.full((len(series) + 1, costs.shape[1] + 1, len(known)), np.inf)
    totals[0, 0] = 0
    for i, row in enumerate(costs):
        for j, cost in enumerate(row):
            best = np.minimum(np.minimum(totals[i, j + 1], totals[i + 1, j]), totals[i, j])
            totals[i + 1, j + 1] = cost + best
    lengths = mask.sum(1)
    found = totals[-1, lengths, np.arange(len(known))]
    return found if squared else found / (len(series) + lengths)
