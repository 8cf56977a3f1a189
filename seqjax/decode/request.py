"""The arguments that all decoders share, checked in one place."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.base import Layer
from seqjax.checks import check_whole
from seqjax.decode.common import check_call, check_positions, tokens_of
from seqjax.decode.constraints import Constraints, Limits, check_constraints


class Request(NamedTuple):
    """Checked arguments of `generate`, `stream` and `beam_search`, which describe them."""

    prompt: jax.Array
    mask: jax.Array | None
    max_length: int
    constraints: Constraints
    limits: Limits
    pad_token: int


def request_of(
    who: str,
    layer: Layer,
    carry: Any,
    prompt: Any,
    *,
    mask: Any,
    max_length: Any,
    pad_token: Any,
    **asked: Any,
) -> Request:
    """Return the checked arguments of a call; `asked` are those of `check_constraints`.

    Raises:
        TypeError: for a prompt that is text, and for a layer that is not causal.
        ValueError: for shapes, dtypes or values that do not fit, and for more tokens than the max_length of attention.
    """
    prompt = tokens_of(who, prompt)
    mask = None if mask is None else jnp.asarray(mask)
    check_call(who, layer, prompt, mask)
    max_length = check_whole(f"{who}(max_length)", max_length)
    check_positions(who, layer, carry, prompt, mask, max_length)
    constraints, limits = check_constraints(who, prompt.shape[1:], max_length, **asked)
    return Request(
        prompt, mask, max_length, constraints, limits, check_whole(f"{who}(pad_token)", pad_token, 0)
    )
