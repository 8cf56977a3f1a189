"""Classification of images pixel by pixel, in row-major or shuffled order, from user-supplied arrays."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from seqjax.tasks.base import NOT_SCORED, Success, Task, classification


def sequential_images(
    images: np.ndarray, labels: np.ndarray, *, permuted: bool = False, seed: int = 0, success: float = 0.95
) -> Task:
    r"""Classify images from one pixel per step ("sequential MNIST"), optionally in shuffled order ("permuted MNIST").

    Every batch draws images with replacement. The target of the last step is the label. A prediction from the
    frequencies of the labels alone has their entropy as loss:

    .. math:: baseline = -\sum_c p_c \ln p_c

    (The last pixel, which is available without memory, is nearly always background.) The task holds arrays, so this
    factory is a plain function: two tasks of the same images are not equal.

    Shapes: images ``[N, height, width]`` or ``[N, height, width, channels]``; labels ``[N]``; xs ``[T, B, channels]``
    with ``T = height * width``, float32, integers scaled by 1/255; targets ``[T, B]`` int32; ys ``[T, B, classes]``.

    Args:
        images: 8-bit integers or floating numbers.
        labels: integers from 0.
        permuted: whether to use one fixed random order of the pixels for all images.
        seed: seed of the random order.
        success: the accuracy at which the task is solved.

    Returns:
        A `Task` whose baseline refers to the last step.

    Raises:
        ValueError: for arrays that do not match.

    Example:
        >>> import jax, numpy as np
        >>> from seqjax.tasks import sequential_images
        >>> images = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)
        >>> task = sequential_images(images, np.array([0, 1]))
        >>> xs, targets = task.sample(jax.random.key(0), 3)
        >>> xs.shape, targets[-1].tolist()
        ((16, 3, 1), [1, 0, 0])

    References:
        Le, Jaitly, Hinton 2015, "A simple way to initialize recurrent networks of rectified linear units",
        arXiv:1504.00941, section 4.2.
    """
    who = "sequential_images"
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise ValueError(
            f"{who}: expected images [N, height, width] or [N, height, width, channels], got {list(images.shape)}."
        )
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise ValueError(
            f"{who}: expected {len(images)} labels, integers from 0, got {list(labels.shape)} of {labels.dtype}."
        )
    scale = 255 if np.issubdtype(images.dtype, np.integer) else 1
    length = images.shape[1] * images.shape[2]
    pixels = (images.reshape(len(images), length, -1) / scale).astype(np.float32)
    if not np.isfinite(pixels).all():
        raise ValueError(f"{who}: expected finite images, got NaN or infinity.")
    if permuted:
        pixels = pixels[:, np.random.default_rng(seed).permutation(length)]
    p = np.bincount(labels) / len(labels)
    entropy = float(-np.sum(p[p > 0] * np.log(p[p > 0])))

    def sample(key: PRNGKeyArray, batch_size: int) -> tuple[Float[Array, "T B C"], Int[Array, "T B"]]:
        chosen = jax.random.randint(key, (batch_size,), 0, len(images), dtype=jnp.int32)
        xs = jnp.moveaxis(jnp.asarray(pixels)[chosen], 0, 1)
        classes = jnp.asarray(labels, jnp.int32)[chosen]
        return xs, jnp.full((length, batch_size), NOT_SCORED, jnp.int32).at[-1].set(classes)

    name, reference = "permuted_images" if permuted else who, "Le et al. 2015, arXiv:1504.00941"
    return classification(
        name,
        length,
        sample,
        (None, len(p)),
        "last",
        reference,
        baseline=entropy,
        success=Success("accuracy", success),
    )
