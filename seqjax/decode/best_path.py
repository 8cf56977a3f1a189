"""Best path decoding of outputs that were trained with CTC."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from seqjax.checks import check_whole
from seqjax.ops.select import keep


def best_path(logits: jax.Array, mask: jax.Array | None = None, *, blank: int = 0) -> Int[Array, "*B T"]:
    r"""Return the labels of the most probable path: repeated classes are merged, then blanks are removed.

    .. math::
        \pi_t = \mathrm{argmax}_k\, z_{t,k}

    The labels of the most probable path are not always the most probable labels, which are the sum over many paths.

    Shapes: logits z ``[T, *B, K]``, mask ``[T, *B]`` -> labels ``[*B, T]``; rows are filled up with -1, the form that
    `seqjax.training.ctc_loss` takes.

    Args:
        logits: outputs of the model.
        mask: bool, True where a step happened; None for all.
        blank: the class of the blank.

    Raises:
        ValueError: for shapes or dtypes that do not fit.

    Example:
        >>> import jax, jax.numpy as jnp, seqjax as sj
        >>> path = jnp.asarray([3, 3, 0, 3, 5, 5])
        >>> sj.best_path(jax.nn.one_hot(path, 6)[:, None])
        Array([[ 3,  3,  5, -1, -1, -1]], dtype=int32)

    References:
        Graves et al. 2006, "Connectionist temporal classification: labelling unsegmented sequence data with recurrent
        neural networks", ICML, section 3.2 (best path decoding).
    """
    blank = check_whole("best_path(blank)", blank, 0)
    logits = jnp.asarray(logits)
    mask = jnp.ones(logits.shape[:-1], bool) if mask is None else jnp.asarray(mask)
    if logits.ndim < 2 or mask.shape != logits.shape[:-1] or mask.dtype != jnp.bool_:
        raise ValueError(
            f"best_path: expected logits [T, *B, K] and a mask bool [T, *B], got {list(logits.shape)} and "
            f"{mask.dtype} {list(mask.shape)}."
        )
    classes = jnp.argmax(keep(mask, logits), -1).astype(jnp.int32)
    path = _to_the_front(mask, jnp.where(mask, classes, blank))  # steps that did not happen separate nothing
    before = jnp.concatenate([jnp.full_like(path[:1], blank), path[:-1]])
    counts = (path != blank) & (path != before)
    return jnp.moveaxis(_to_the_front(counts, jnp.where(counts, path, -1)), 0, -1)


def _to_the_front(first: jax.Array, values: jax.Array) -> jax.Array:
    """Return values ``[T, ...]`` with those that are marked before the others, in their order."""
    order = jnp.argsort(~first, axis=0, stable=True)
    return jnp.take_along_axis(values, order, 0)
