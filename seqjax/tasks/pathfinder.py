"""Pathfinder: whether the two dots of an image are on one dashed path, pixel by pixel."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from seqjax.checks import check_whole_numbers
from seqjax.tasks.base import NOT_SCORED, Success, Task, check_length, classification
from seqjax.values import definition


@definition
def pathfinder(length: int, num_distractors: int = 2) -> Task:
    r"""Pathfinder: classify whether two dots are on the same dashed path, from an image read row by row.

    An image of n x n pixels, ``length = n^2``, shows two long smooth dashed paths, shorter distractor paths, and two
    dots (brightness 1, against 0.5 for paths). In half of the images the dots mark the two ends of one path, in the
    other half one end of each path. The target of the last step is 1 if one path joins the dots:

    .. math:: baseline = \ln 2

    The direction of a path is a random walk. Paths have length n (distractors n/3) and are reflected at the border;
    three of every four pixels of a path are drawn. Unlike in the original, paths may cross.

    Shapes: xs ``[T, B, 1]`` float32 in [0, 1], targets ``[T, B]`` int32; ys ``[T, B, 2]``.

    Args:
        length: pixels T, the square of a number of at least 6.
        num_distractors: number of distractor paths.

    Returns:
        A `Task` whose baseline refers to the last step; solved at an accuracy of 0.9.

    Raises:
        ValueError: when the length is not a square or too small, or num_distractors is below 1.

    Example:
        >>> import jax
        >>> from seqjax.tasks import pathfinder
        >>> xs, targets = pathfinder(256).sample(jax.random.key(0), 2)
        >>> xs.shape, targets[-1].tolist()
        ((256, 2, 1), [1, 0])

    References:
        Linsley et al. 2018, "Learning long-range spatial dependencies with horizontal gated recurrent units",
        arXiv:1805.08315. Tay et al. 2021, "Long range arena", arXiv:2011.04006.
    """
    who = "pathfinder"
    check_whole_numbers(who, num_distractors=num_distractors)
    check_length(who, length, 36, "6 x 6 pixels")
    side = math.isqrt(length)
    if side * side != length:
        raise ValueError(
            f"{who}: expected a length that is a square, got {length}. Use {side**2} or {(side + 1) ** 2}."
        )

    def path(key: PRNGKeyArray, steps: int) -> Float[Array, "S 2"]:
        """Return a smooth walk of unit steps inside the image."""
        for_start, for_angle, for_turns = jax.random.split(key, 3)
        start = jax.random.uniform(for_start, (2,), jnp.float32, 0, side - 1)
        angle = jax.random.uniform(for_angle, (), jnp.float32, 0, 2 * math.pi)
        turns = 0.25 * jax.random.normal(for_turns, (steps,), jnp.float32)
        angles = angle + jnp.cumsum(turns)
        walk = start + jnp.cumsum(jnp.stack([jnp.sin(angles), jnp.cos(angles)], -1), 0)
        period = 2 * (side - 1)  # a reflection at both borders is a triangle wave
        return (side - 1) - jnp.abs(jnp.mod(walk, period) - (side - 1))

    def draw(image: Array, points: Array, brightness: Array) -> Array:
        place = jnp.round(points).astype(jnp.int32)
        return image.at[place[:, 0], place[:, 1]].max(brightness)

    def one(key: PRNGKeyArray) -> tuple[Array, Array]:
        for_label, for_paths, for_short = jax.random.split(key, 3)
        joined = jax.random.bernoulli(for_label, jnp.float32(0.5))
        first, second = (path(k, side) for k in jax.random.split(for_paths))
        dashes = jnp.where(jnp.arange(side) % 4 < 3, 0.5, 0.0).astype(jnp.float32)
        image = jnp.zeros((side, side), jnp.float32)
        distractors = [path(k, side // 3) for k in jax.random.split(for_short, num_distractors)]
        for points in (first, second, *distractors):
            image = draw(image, points, dashes[: len(points)])
        ends = jnp.stack([first[0], jnp.where(joined, first[-1], second[-1])])
        return draw(image, ends, jnp.ones(2, jnp.float32)), joined.astype(jnp.int32)

    def sample(key: PRNGKeyArray, batch_size: int) -> tuple[Float[Array, "T B 1"], Int[Array, "T B"]]:
        images, labels = jax.vmap(one)(jax.random.split(key, batch_size))
        targets = jnp.full((length, batch_size), NOT_SCORED, jnp.int32).at[-1].set(labels)
        return images.reshape(batch_size, length).T[..., None], targets

    reference = "Linsley et al. 2018, arXiv:1805.08315; Tay et al. 2021, arXiv:2011.04006"
    return classification(who, length, sample, (None, 2), "last", reference, success=Success("accuracy", 0.9))
