"""Text as bytes, and windows of it for next-byte prediction.

A vocabulary of 256 fits any file, in any language and encoding, and needs no tokenizer. The functions that cut windows
accept any integer tokens ``[N]``, so they also work for tokenized text.
"""

from os import PathLike
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Integer, PRNGKeyArray, UInt8

from seqjax.checks import check_whole
from seqjax.files import read_limited
from seqjax.inputs import as_key

Tokens = Integer[Array | np.ndarray, "N"]
Part = Integer[Array | np.ndarray, "_"]
LARGEST = 2**31 - 1
"""Largest size of a file in bytes: positions of windows are int32."""
Windows = tuple[Int[Array, "T B"], Int[Array, "T B"]]


def moby_dick() -> UInt8[np.ndarray, "N"]:
    r"""The first 65 chapters of *Moby-Dick; or, The Whale* by Herman Melville (1851), 641 kB; public domain.

    Returns:
        The bytes of the text ``[N]``, read-only. `seqjax/datasets/README.md` states the source.

    Example:
        >>> from seqjax.datasets import moby_dick
        >>> bytes(moby_dick()[:37])
        b'CHAPTER 1. Loomings.\n\nCall me Ishmael'
    """
    return read_bytes(Path(__file__).with_name("moby_dick.txt"))


def read_bytes(path: str | PathLike[str]) -> UInt8[np.ndarray, "N"]:
    """Read the bytes of any file, text or binary; a pipe is read once.

    Args:
        path: path of the file or pipe.

    Returns:
        The bytes ``[N]`` with N > 0, read-only.

    Raises:
        FileNotFoundError: when the path does not exist.
        ValueError: when the path is a folder or a device, or the file cannot be read, is empty or has 2 GiB or more.
    """
    try:
        data = read_limited(path, LARGEST)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"read_bytes: expected a file, got '{path}', which does not exist. "
            f"Check the path; relative paths start at {Path.cwd()}."
        ) from None
    except IsADirectoryError:
        raise ValueError(
            f"read_bytes: expected a file, got the folder '{path}'. Pass one of its files."
        ) from None
    except OSError as error:
        raise ValueError(
            f"read_bytes: expected a readable file, got '{path}' ({error.strerror}). "
            "Check the path and its permissions."
        ) from None
    except ValueError as error:
        raise ValueError(f"read_bytes: {error}. Pass another file.") from None
    if not data:
        raise ValueError(
            f"read_bytes: expected at least one byte, got '{path}', which is empty. Pass another file."
        )
    return np.frombuffer(data, np.uint8)


def split(data: Tokens, held_out: float = 0.1) -> tuple[Part, Part]:
    """Split tokens into a training part and a held-out part at the end; windows of the two parts never overlap.

    Shapes: data ``[N]`` -> train ``[N - M]``, held_out ``[M]`` where M is N times the fraction, rounded, at least 1.

    Args:
        data: tokens in order.
        held_out: fraction to hold out, between 0 and 1.

    Returns:
        ``(train, held_out)``.

    Raises:
        ValueError: when the fraction is not between 0 and 1, or there are fewer than two tokens.

    Example:
        >>> import numpy as np
        >>> from seqjax.datasets import split
        >>> split(np.arange(10), held_out=0.2)
        (array([0, 1, 2, 3, 4, 5, 6, 7]), array([8, 9]))
    """
    if not 0 < held_out < 1:
        raise ValueError(
            f"split: expected a fraction held_out between 0 and 1, got {held_out}. Pass `held_out=0.1` for a tenth."
        )
    size = len(data)
    if size < 2:
        raise ValueError(
            f"split: expected at least 2 tokens, one for each part, got {size}. Use longer data."
        )
    cut = size - min(max(round(size * held_out), 1), size - 1)
    return data[:cut], data[cut:]


def sample_windows(
    data: Tokens,
    key: PRNGKeyArray | Int[Array, ""] | int,
    step: int | Int[Array, ""],
    batch_size: int,
    length: int,
) -> Windows:
    r"""Draw random windows of a text for next-token prediction: the batch of one training step.

    .. math::
        xs_{t,b} = data_{s_b + t}, \qquad targets_{t,b} = data_{s_b + t + 1}, \qquad
        s_b \sim \mathrm{Uniform}\{0, \dots, N - T - 1\}

    The windows are a pure function of the key and the step, so a resumed run gets the same batches as an uninterrupted
    run. Under ``jax.jit`` `batch_size` and `length` are static; pass the data as a JAX array.

    Shapes: data ``[N]`` -> xs ``[T, B]``, targets ``[T, B]``, both int32, with T = length and B = batch_size.

    Args:
        data: N tokens in order, N > length.
        key: a key, or a seed of a key.
        step: number of the batch.
        batch_size: number of windows.
        length: number of time steps.

    Returns:
        ``(xs, targets)``.

    Raises:
        ValueError: when the data is shorter than ``length + 1``, or a size is not positive.

    Example:
        >>> import numpy as np
        >>> from seqjax.datasets import sample_windows
        >>> xs, targets = sample_windows(np.arange(100), key=0, step=3, batch_size=8, length=5)
        >>> xs.shape, bool((targets == xs + 1).all())
        ((5, 8), True)
    """
    batch_size, length = _check_windows("sample_windows", data, batch_size, length)
    if isinstance(key, int) or (key.ndim == 0 and jnp.issubdtype(key.dtype, jnp.integer)):
        key = jax.random.key(key)  # a seed
    key = as_key("sample_windows(key)", key)
    # Explicit dtype, since the default dtype, and with it the draw, depends on jax_enable_x64.
    key = jax.random.fold_in(key, step)
    starts = jax.random.randint(key, (batch_size,), 0, len(data) - length, dtype=jnp.int32)
    return _windows(data, starts, length)


def held_out_windows(data: Tokens, batch_size: int, length: int) -> Windows:
    """Return evenly spaced windows from the first token to the last, equal in every run, for comparisons of runs.

    Windows overlap where ``batch_size * length`` exceeds the data.

    Shapes: data ``[N]`` -> xs ``[T, B]``, targets ``[T, B]``, both int32, with T = length and B = batch_size.

    Args:
        data: N tokens in order, N > length.
        batch_size: number of windows.
        length: number of time steps.

    Returns:
        ``(xs, targets)``, where targets are the inputs one step later.

    Raises:
        ValueError: when the data is shorter than ``length + 1``, or a size is not positive.

    Example:
        >>> import numpy as np
        >>> from seqjax.datasets import held_out_windows
        >>> xs, targets = held_out_windows(np.arange(100), batch_size=3, length=4)
        >>> print(xs)
        [[ 0 47 95]
         [ 1 48 96]
         [ 2 49 97]
         [ 3 50 98]]
    """
    batch_size, length = _check_windows("held_out_windows", data, batch_size, length)
    starts = np.arange(batch_size) * (len(data) - length - 1) // max(batch_size - 1, 1)
    return _windows(data, jnp.asarray(starts, jnp.int32), length)


def unigram_entropy(data: Tokens) -> float:
    r"""Entropy of single tokens: the loss of a model of token frequencies without context.

    .. math:: -\sum_v p_v \ln p_v

    Args:
        data: non-negative tokens ``[N]``.

    Returns:
        Nats per token.

    Raises:
        ValueError: when there are no tokens.

    Example:
        >>> from seqjax.datasets import moby_dick, unigram_entropy
        >>> round(unigram_entropy(moby_dick()), 3)
        3.137
    """
    if len(data) == 0:
        raise ValueError("unigram_entropy: expected at least 1 token, got 0. Use longer data.")
    counts = np.unique(np.asarray(data), return_counts=True)[1]
    p = counts / counts.sum()
    # The sum is 0 or more; adding 0.0 turns the -0.0 of a single symbol into 0.0.
    return float(-(p * np.log(p)).sum() + 0.0)


def _windows(data: Tokens, starts: Int[Array, "B"], length: int) -> Windows:
    positions = starts + jnp.arange(length + 1, dtype=jnp.int32)[:, None]
    tokens = jnp.asarray(data)[positions].astype(jnp.int32)
    return tokens[:-1], tokens[1:]


def _check_windows(who: str, data: Tokens, batch_size: Any, length: Any) -> tuple[int, int]:
    """Return the sizes as Python's ints, since ``length + 1`` of a narrow NumPy integer would wrap around."""
    batch_size = check_whole(f"{who}(batch_size)", batch_size)
    length = check_whole(f"{who}(length)", length)
    if len(data) < length + 1:
        raise ValueError(
            f"{who}: expected data of at least length + 1 = {length + 1} tokens, got {len(data)}. "
            "Use longer data or a shorter length."
        )
    return batch_size, length
