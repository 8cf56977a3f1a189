"""Common part of all decoders: checks of arguments, and reading the prompt."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import AttentionCarry, Flags, Layer
from seqjax.checks import check_whole, check_whole_or_none, is_addressable, is_traced
from seqjax.ops.select import wide


def tokens_of(who: str, prompt: Any) -> jax.Array:
    """Return a prompt as an array; raise a TypeError for text."""
    if isinstance(prompt, str | bytes):
        raise TypeError(
            f"{who}(prompt): expected tokens [P, *B], got the text {prompt!r}. Encode it: "
            "jnp.asarray(vocabulary.encode(text))[:, None], or jnp.asarray(list(text.encode()))[:, None] for bytes."
        )
    return jnp.asarray(prompt)


def check_call(who: str, layer: Any, prompt: Any, mask: Any) -> None:
    """Raise unless the layer is causal, the prompt has tokens ``[P, *B]``, and a mask has the shape of the prompt."""
    if not isinstance(layer, Layer):
        hint = " Bind a cell with recurrent(cell)." if type(layer).__name__ == "Cell" else ""
        raise TypeError(f"{who}(layer): expected a layer, got {layer!r}.{hint}")
    if not layer.causal:
        raise TypeError(
            f"{who}({layer!r}): expected a causal layer, which runs token by token; this layer reads the "
            "whole sequence."
        )
    shape = list(prompt.shape)
    if not jnp.issubdtype(prompt.dtype, jnp.integer):
        raise ValueError(
            f"{who}(prompt): expected tokens [P, *B] of an integer dtype, got {prompt.dtype} {shape}."
        )
    if prompt.ndim < 2 or prompt.shape[0] < 1:
        raise ValueError(
            f"{who}(prompt): expected tokens [P, *B] with P of at least 1 and a batch axis, got {shape}. "
            "Pass first tokens [B] as `tokens[None]`."
        )
    if mask is not None and (mask.dtype != jnp.bool_ or mask.shape != prompt.shape):
        raise ValueError(
            f"{who}(mask): expected bool {shape}, as the prompt, got {mask.dtype} {list(mask.shape)}."
        )


def check_end_tokens(who: str, end_token: Any) -> tuple[int, ...]:
    """Return the end tokens as a tuple: none for None, and one for a number."""
    if isinstance(end_token, list | tuple | np.ndarray) and np.ndim(end_token) == 1:
        return tuple(check_whole(f"{who}(end_token)", token, 0) for token in end_token)
    token = check_whole_or_none(f"{who}(end_token)", end_token, 0)
    return () if token is None else (token,)


def check_vocabulary(who: str, tokens: tuple[int, ...], size: int) -> None:
    """Raise a ValueError for a token beyond the vocabulary."""
    for token in tokens:
        if token >= size:
            raise ValueError(f"{who}: expected a token below V = {size}, got {token}.")


def is_one_of(token: jax.Array, tokens: tuple[int, ...]) -> jax.Array:
    """Return where the token is one of a few tokens."""
    found = jnp.zeros(token.shape, jnp.bool_)
    for one in tokens:
        found = found | (token == one)
    return found


def check_positions(who: str, layer: Layer, carry: Any, prompt: Any, mask: Any, max_length: int) -> None:
    """Raise a ValueError where prompt and new tokens exceed the max_length of the layer's attention.

    The last token that is made is no input. Under `jax.jit` the steps before the call are unknown and count as none.
    """
    if layer.max_length is None:
        return
    length = len(prompt)
    if mask is not None and not is_traced(mask):
        length = int(np.max(np.sum(mask, 0), initial=0))
    before = 0
    for node in jax.tree.leaves(carry, is_leaf=lambda node: isinstance(node, AttentionCarry)):
        position = node.position if isinstance(node, AttentionCarry) else None
        if position is not None and not is_traced(position) and is_addressable(position):
            before = max(before, int(np.max(position, initial=0)))
    if before + length + max_length - 1 > layer.max_length:
        read = f"a prompt of {length}" + (f" after {before} earlier ones" if before else "")
        raise ValueError(
            f"{who}({layer!r}): expected at most max_length={layer.max_length} steps of attention, got {read} and "
            f"max_length={max_length} new tokens. Give a shorter max_length here, or attention with a larger "
            "max_length or a window."
        )


def read_prompt(
    who: str, layer: Layer, params: Any, carry: Any, prompt: jax.Array, mask: jax.Array | None
) -> tuple[Any, jax.Array, Any]:
    """Return the carry after all prompt tokens but the last, the last token ``[*B]``, and the shape of the logits.

    The token of a row whose prompt is fully masked is -1.
    """
    prompt = prompt.astype(jnp.int32)
    if mask is None:
        token, head = prompt[-1], None
    else:
        steps = jnp.arange(len(prompt), dtype=jnp.int32).reshape(-1, *(1,) * (mask.ndim - 1))
        at = jnp.max(jnp.where(mask, steps, -1), 0)
        token = jnp.take_along_axis(prompt, jnp.maximum(at, 0)[None], 0)[0]
        token = jnp.where(at < 0, -1, token)
        head = (mask & (steps < at[None]))[:-1]
    carry = layer.initial_carry(params, token) if carry is None else carry
    carry, logits = _fit(who, layer, params, carry, token)
    if len(prompt) > 1:
        # The outputs are unused, so the compiler removes the head, the larger part of a small language model.
        carry, _ = layer.unroll(params, carry, prompt[:-1], mask=head)
    return carry, token, logits


def read_token(
    layer: Layer, params: Any, carry: Any, token: jax.Array, mask: jax.Array
) -> tuple[Any, jax.Array, jax.Array]:
    """Run one step: return the carry, logits ``[*B, V]`` in float32 at least, and whether they are valid ``[*B]``.

    Logits are invalid where one is NaN, or the largest is not finite. For the token -1 the step is masked out, and the
    logits are invalid.
    """
    is_token = token >= 0
    carry, logits = layer.step(params, carry, jnp.maximum(token, 0), mask=mask & is_token)
    logits = logits.astype(wide(logits.dtype))
    return carry, logits, jnp.isfinite(jnp.max(logits, -1)) & is_token


def _fit(who: str, layer: Layer, params: Any, carry: Any, token: jax.Array) -> tuple[Any, Any]:
    """Return the carry in the dtypes of a step, and the shape of the logits; raise a ValueError if they do not fit."""
    happens = jax.ShapeDtypeStruct(token.shape, jnp.bool_)
    carry = jax.tree.map(jnp.asarray, carry)
    after, logits = jax.eval_shape(
        lambda params, carry, x, mask: layer.step_fn(params, carry, x, Flags(mask=mask)),
        params,
        carry,
        token,
        happens,
    )
    form: Any = jax.tree.structure
    if form(after) != form(carry) or any(
        a.shape != b.shape for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(carry))
    ):
        shapes = [jax.tree.map(lambda a: list(a.shape), tree) for tree in (after, carry)]
        raise ValueError(f"{who}(carry): expected the carry of {layer!r}, {shapes[0]}, got {shapes[1]}.")
    if (
        not isinstance(logits, jax.ShapeDtypeStruct)
        or logits.shape[:-1] != token.shape
        or not jnp.issubdtype(logits.dtype, jnp.floating)
    ):
        got = jax.tree.map(lambda a: f"{a.dtype} {list(a.shape)}", logits)
        raise ValueError(
            f"{who}({layer!r}): expected floating logits [*B, V] for tokens [*B] = {list(token.shape)}, got {got}."
        )
    return jax.tree.map(lambda a, b: a if a.dtype == b.dtype else a.astype(b.dtype), carry, after), logits
