r"""Log-mel features of recordings, in jitted code."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seqjax.checks import check_above, check_whole


@functools.partial(jax.jit, static_argnames=("rate", "window", "hop", "num_mels", "low", "high"))
def log_mel(
    samples: Float[Array | np.ndarray, "*B N"],
    *,
    rate: int,
    window: float = 0.025,
    hop: float = 0.01,
    num_mels: int = 80,
    low: float = 20.0,
    high: float | None = None,
) -> Float[Array, "*B T M"]:
    r"""Log-mel spectrogram: the logarithm of the power in bands of the mel scale, frame by frame.

    .. math::
        S_{t,f} = \Big| \sum_{n=0}^{W-1} w_n x_{tR+n} e^{-2\pi i f n / F} \Big|^2, \qquad
        y_{t,m} = \log \Big( \sum_f S_{t,f} M_{f,m} + 10^{-6} \Big)

    w is the periodic Hann window, and F the smallest power of two that is at least W. The triangular filters M are
    evenly spaced on the mel scale :math:`2595 \log_{10}(1 + f / 700)` and have a height of 1. The ends are not padded:
    a recording of N samples has :math:`T = \lfloor (N - W) / R \rfloor + 1` frames, one if it is shorter than W.

    Shapes: samples ``[*B, N]`` -> ``[*B, T, M]``, in the dtype of the samples.

    Args:
        samples: from -1 to 1.
        rate: samples per second.
        window: length of a frame in seconds; W is ``rate * window``.
        hop: time from frame to frame in seconds; R is ``rate * hop``.
        num_mels: M, the number of bands.
        low: lowest frequency in Hz.
        high: highest frequency in Hz; half the rate by default.

    Raises:
        ValueError: when a size is not positive, or ``low < high <= rate / 2`` does not hold.

    Example:
        >>> import jax.numpy as jnp
        >>> from seqjax.datasets import log_mel
        >>> log_mel(jnp.sin(jnp.arange(8000) / 3), rate=8000, num_mels=32).shape
        (98, 32)

    References:
        Davis & Mermelstein 1980, "Comparison of parametric representations for monosyllabic word recognition"; the
        scale and the filters as in HTK and in ``torchaudio.functional.melscale_fbanks``.
    """
    size, step = frame_sizes(rate, window, hop)
    samples = jnp.asarray(samples)
    missing = max(size - samples.shape[-1], 0)
    samples = jnp.pad(samples, [(0, 0)] * (samples.ndim - 1) + [(0, missing)])
    count = (samples.shape[-1] - size) // step + 1
    places = np.arange(count)[:, None] * step + np.arange(size)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    length = 1 << (size - 1).bit_length()
    frames = samples[..., places] * hann.astype(samples.dtype)
    power = jnp.square(jnp.abs(jnp.fft.rfft(frames, length)))
    filters = mel_filters(length // 2 + 1, rate, num_mels, low, high).astype(samples.dtype)
    return jnp.log(jnp.einsum("...tf,fm->...tm", power, filters) + jnp.asarray(1e-6, samples.dtype))


def log_mel_features(
    recordings: Sequence[Any], *, rate: int, window: float = 0.025, hop: float = 0.01, **options: Any
) -> list[np.ndarray]:
    """Return the `log_mel` features ``[T_i, M]`` float32 of recordings ``[N_i]`` of any lengths.

    Recordings are padded to whole seconds, so that few programs are compiled. The frames of the padding are removed.

    Args:
        recordings: samples, each ``[N_i]``.
        rate: see `log_mel`, as are the others.
        window: length of a frame in seconds.
        hop: time from frame to frame in seconds.
        **options: ``num_mels``, ``low`` and ``high``.

    Example:
        >>> import numpy as np
        >>> from seqjax.datasets import log_mel_features
        >>> [f.shape for f in log_mel_features([np.zeros(900), np.zeros(3000)], rate=8000, num_mels=32)]
        [(9, 32), (36, 32)]
    """
    size, step = frame_sizes(rate, window, hop)
    found = []
    for recording in recordings:
        samples = np.asarray(recording, np.float32)
        padded = np.zeros(-(-max(len(samples), 1) // rate) * rate, np.float32)
        padded[: len(samples)] = samples
        count = max((len(samples) - size) // step + 1, 1)
        found.append(np.asarray(log_mel(padded, rate=rate, window=window, hop=hop, **options))[:count])
    return found


def per_utterance(features: Sequence[np.ndarray], epsilon: float = 1e-3) -> list[np.ndarray]:
    """Return the features of each recording with mean 0 and standard deviation 1 over its own time.

    Without this, the level and the frequency response of a microphone change the features more than the words do.

    Shapes: ``[T_i, M]`` -> ``[T_i, M]``.

    Args:
        features: the features of each recording.
        epsilon: added to the standard deviation.

    Example:
        >>> import numpy as np
        >>> from seqjax.datasets import per_utterance
        >>> (x,) = per_utterance([np.array([[1.0], [3.0]])])
        >>> x.round(2).ravel()
        array([-1., 1.])
    """
    return [((f - f.mean(0)) / (f.std(0) + epsilon)).astype(f.dtype) for f in features]


def mel_filters(
    num_bins: int, rate: int, num_mels: int, low: float = 0.0, high: float | None = None
) -> np.ndarray:
    """Return triangular filters ``[F, M]`` float64 of height 1, evenly spaced on the mel scale of HTK.

    Args:
        num_bins: F, the number of frequencies from 0 to half the rate.
        rate: samples per second.
        num_mels: M, the number of filters.
        low: lowest frequency in Hz.
        high: highest frequency in Hz; half the rate by default.

    Raises:
        ValueError: unless ``0 <= low < high <= rate / 2``.
    """
    high = rate / 2 if high is None else high
    if not 0 <= low < high <= rate / 2:
        raise ValueError(
            f"log_mel: expected 0 <= low < high <= rate / 2 = {rate / 2:g}, got low={low:g}, high={high:g}."
        )
    check_whole("log_mel(num_mels)", num_mels)
    first, last = (2595 * float(np.log10(1 + end / 700)) for end in (low, high))
    corners = 700 * (10 ** (np.linspace(first, last, num_mels + 2) / 2595) - 1)
    frequencies = np.linspace(0, rate / 2, num_bins)[:, None]
    left, center, right = corners[:-2], corners[1:-1], corners[2:]
    rising = (frequencies - left) / (center - left)
    falling = (right - frequencies) / (right - center)
    return np.maximum(0, np.minimum(rising, falling))


def frame_sizes(rate: int, window: float, hop: float) -> tuple[int, int]:
    """Return the samples of a frame, and from frame to frame."""
    check_whole("log_mel(rate)", rate)
    check_above("log_mel(window)", window)
    check_above("log_mel(hop)", hop)
    return max(round(rate * window), 1), max(round(rate * hop), 1)
