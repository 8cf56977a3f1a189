"""Sizes and weights of the Griffin-like hybrid, by the names that the models in flax and PyTorch share."""

from typing import Any, NamedTuple

import jax

_RECURRENT = "norm/scale in/kernel conv/kernel conv/bias r/kernel r/bias i/kernel i/bias a_logit gate/kernel out/kernel"
_ATTENTION = "norm/scale q/kernel k/kernel v/kernel out/kernel"
_FEED_FORWARD = "norm/scale up/kernel gate/kernel down/kernel"


class Sizes(NamedTuple):
    """Sizes of an embedding, `seqjax.griffin` and a head: blocks 3, 6, ... are attention, the others recurrent."""

    vocabulary: int
    width: int
    depth: int
    num_heads: int
    window: int

    @property
    def channels(self) -> int:
        """The size of the recurrence."""
        return -(-4 * self.width // 3)


def is_attention(block: int) -> bool:
    """Return whether a block, counted from 0, is local attention."""
    return block % 3 == 2


def named(params: Any, depth: int) -> dict[str, jax.Array]:
    """Return the params of ``language_model(vocabulary, partial(griffin, ...))`` of seqjax by their names."""
    names = ["embed/embedding"]
    for block in range(depth):
        mixing = _ATTENTION if is_attention(block) else _RECURRENT
        names += [f"mix_{block}/{name}" for name in mixing.split()]
        names += [f"ff_{block}/{name}" for name in _FEED_FORWARD.split()]
    names += ["norm/scale", "head/bias", "head/kernel"]
    # The weights of the gates are block-diagonal, here with one block.
    leaves = (a[0] if a.ndim == 3 else a for a in jax.tree.leaves(params))
    return dict(zip(names, leaves, strict=True))
