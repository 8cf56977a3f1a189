"""What the loaders share: checks of tokens and sequences, padding, masking."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from seqjax.checks import check_whole


def is_ragged(xs: Any) -> bool:
    """Return whether these are arrays ``[T_i, ...]`` of different lengths."""

    def length(x: Any) -> Any:
        if hasattr(x, "shape"):
            return x.shape[:1]
        return (len(x),) if isinstance(x, list | tuple) else ()

    return isinstance(xs, list | tuple) and len(set(map(length, xs))) > 1


def holds_arrays(xs: Any) -> bool:
    """Return whether this is an array of arrays, as NumPy and pandas hold sequences of different lengths."""
    return isinstance(xs, np.ndarray) and xs.dtype == object and all(map(np.ndim, xs))


def padded_array(who: str, sequences: Sequence[Any]) -> np.ndarray:
    """Return arrays ``[T_i, ...]`` as one array ``[N, T, ...]``, with zeros after their ends."""
    arrays = [np.asarray(s) for s in sequences]
    first = arrays[0]
    for number, array in enumerate(arrays):
        if array.ndim == 0 or array.shape[1:] != first.shape[1:]:
            raise ValueError(
                f"{who}: expected sequences [T_i, {', '.join(map(str, first.shape[1:])) or '...'}], as the first, got "
                f"{list(array.shape)} for sequence {number}."
            )
    found = np.zeros((len(arrays), max(map(len, arrays)), *first.shape[1:]), np.result_type(*arrays))
    for row, array in zip(found, arrays, strict=True):
        row[: len(array)] = array
    return found


def masked(array: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return ``[T, B, ...]`` with zeros where the mask is False."""
    return np.where(mask.reshape(*mask.shape, *(1,) * (array.ndim - mask.ndim)), array, np.zeros_like(array))


def check_sequences(who: str, documents: Sequence[Any]) -> list[np.ndarray]:
    """Return documents of tokens ``[N_i]`` int32, or of finite vectors ``[N_i, ...]`` of one floating dtype."""
    arrays = [np.asarray(d) for d in documents]
    for number, array in enumerate(arrays):
        if array.ndim == 1 and array.size and np.issubdtype(array.dtype, np.floating):
            raise ValueError(
                f"{who}: expected tokens [N_i], or sequences of floats [N_i, ...], got {list(array.shape)} of "
                f"{array.dtype} for sequence {number}. Write x[:, None] for one number per step."
            )
    if not any(np.issubdtype(a.dtype, np.floating) and a.ndim > 1 for a in arrays):
        return [check_tokens(who, a) for a in arrays]
    shape, dtype = next(a.shape[1:] for a in arrays if a.ndim > 1), np.result_type(*arrays)
    for number, array in enumerate(arrays):
        if array.ndim < 2 or array.shape[1:] != shape or not np.issubdtype(array.dtype, np.floating):
            raise ValueError(
                f"{who}: expected sequences of floats [N_i, {', '.join(map(str, shape))}], got {list(array.shape)} of "
                f"{array.dtype} for sequence {number}."
            )
        bad = np.argwhere(~np.isfinite(array).reshape(len(array), -1).all(-1))
        if len(bad):
            raise ValueError(
                f"{who}: expected finite sequences, got NaN or infinity in sequence {number} at step {bad[0][0]}. "
                "Clean the data."
            )
    return [a.astype(dtype) for a in arrays]


def check_tokens(who: str, tokens: Any) -> np.ndarray:
    """Return tokens ``[N]`` as an array; raise a ValueError for other shapes and dtypes."""
    array = np.asarray(tokens)
    if array.ndim != 1 or (array.size and not np.issubdtype(array.dtype, np.integer)):
        raise ValueError(
            f"{who}: expected integers [N], got {list(array.shape)} of {array.dtype}. Encode "
            "text with a vocabulary, such as Bytes().encode(text), or read a file with read_bytes."
        )
    if array.size and not (array.min() >= -(2**31) and array.max() < 2**31):
        raise ValueError(f"{who}: expected tokens that fit 32 bits, got {array.min()} to {array.max()}.")
    return array.astype(np.int32)


def check_sizes(who: str, *, seed: Any = 0, **sizes: Any) -> tuple[int, ...]:
    """Return seed and sizes as Python's ints, since products of a narrow NumPy integer would wrap around."""
    seed = check_whole(f"{who}(seed)", seed, 0)
    return seed, *(check_whole(f"{who}({name})", size) for name, size in sizes.items())
