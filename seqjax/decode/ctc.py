"""Labels from the outputs of a model trained by connectionist temporal classification."""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax.checks import check_whole


def ctc_labels(logits: jax.Array, mask: Any = None, *, blank: int = 0) -> jax.Array:
    """Return the labels of the most probable path: repeated classes are merged, then blanks are removed.

    Shapes: logits ``[T, *B, K]``, mask ``[T, *B]`` -> labels ``[*B, T]`` int32, with -1 after the last label of each
    row, the form that `seqjax.training.ctc_loss` takes.

    Args:
        logits: outputs of the model.
        mask: bool, True where a step happened; None for all.
        blank: the class of the blank.

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from seqjax.decode import ctc_labels
        >>> path = jnp.asarray([[1], [1], [0], [1], [2]])
        >>> ctc_labels(jax.nn.one_hot(path, 3))
        Array([[ 1,  1,  2, -1, -1]], dtype=int32)

    References:
        Graves et al. 2006, "Connectionist temporal classification", ICML, section 3.2 (best path decoding).
    """
    blank = check_whole("ctc_labels(blank)", blank, 0)
    logits = jnp.asarray(logits)
    mask = jnp.ones(logits.shape[:-1], bool) if mask is None else jnp.asarray(mask)
    if logits.ndim < 2 or mask.shape != logits.shape[:-1] or mask.dtype != jnp.bool_:
        raise ValueError(
            f"ctc_labels: expected logits [T, *B, K] and a mask bool [T, *B], got {list(logits.shape)} and "
            f"{mask.dtype} {list(mask.shape)}."
        )
    path = jnp.argmax(logits, -1).astype(jnp.int32)

    def step(last: jax.Array, inputs: Any) -> tuple[jax.Array, jax.Array]:
        label, happened = inputs
        kept = happened & (label != last) & (label != blank)
        return jnp.where(happened, label, last), kept

    _, kept = jax.lax.scan(step, jnp.full(path.shape[1:], -1, jnp.int32), (path, mask))
    path, kept = jnp.moveaxis(path, 0, -1), jnp.moveaxis(kept, 0, -1)
    order = jnp.argsort(~kept, -1, stable=True)
    return jnp.take_along_axis(jnp.where(kept, path, -1), order, -1)
