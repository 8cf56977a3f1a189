"""Recordings as arrays of samples."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seqjax.checks import check_whole_or_none
from seqjax.datasets.files import Name
from seqjax.datasets.text import read_bytes
from seqjax.install import missing


class Audio(NamedTuple):
    """Samples ``[N]`` float32 from -1 to 1, and their number per second."""

    samples: np.ndarray
    rate: int


def read_audio(path: Name, *, rate: int | None = None) -> Audio:
    r"""Read a recording; several channels are averaged.

    SciPy reads ``.wav`` files. All other formats, such as FLAC and MP3, need the package soundfile
    (the extra ``data`` of seqjax).

    Args:
        path: the file.
        rate: samples per second of the result; None keeps those of the file. The samples are resampled with a polyphase
            filter (`scipy.signal.resample_poly`).

    Raises:
        FileNotFoundError: when the path does not exist.
        ImportError: for other formats than WAV without soundfile.
        ValueError: when the file is empty or damaged, or the rate is not positive.

    Example:
        >>> import tempfile, pathlib, numpy as np, scipy.io.wavfile
        >>> from seqjax.datasets import read_audio
        >>> path = pathlib.Path(tempfile.mkdtemp(), "tone.wav")
        >>> tone = np.int16(2**14 * np.sin(np.arange(1600) / 5))
        >>> scipy.io.wavfile.write(path, 16000, tone)
        >>> audio = read_audio(path, rate=8000)
        >>> audio.samples.shape, audio.samples.dtype, audio.rate
        ((800,), dtype('float32'), 8000)
    """
    rate = check_whole_or_none("read_audio(rate)", rate)
    read_bytes(path)  # raises the errors of absent and empty files
    of_file, samples = (_read_wav if Path(path).suffix.lower() == ".wav" else _read_other)(path)
    if samples.ndim > 1:
        samples = samples.mean(1)
    if not len(samples):
        raise ValueError(
            f"read_audio: expected at least one sample, got none in '{path}'. Pass another file."
        )
    if rate is not None and rate != of_file:
        from scipy.signal import resample_poly  # its import takes a while

        samples = resample_poly(samples, rate, of_file)
    return Audio(samples.astype(np.float32), of_file if rate is None else rate)


def _read_wav(path: Name) -> tuple[int, np.ndarray]:
    """Return samples per second, and the samples ``[N]`` or ``[N, channels]`` from -1 to 1."""
    import scipy.io.wavfile

    try:
        with warnings.catch_warnings():  # of chunks that are no sound, such as the name of the artist
            warnings.simplefilter("ignore", scipy.io.wavfile.WavFileWarning)
            rate, samples = scipy.io.wavfile.read(path)
    except Exception as error:  # damaged files raise many types
        _refuse("a complete WAV file", path, error)
    if samples.dtype == np.uint8:
        return rate, (samples.astype(np.float64) - 128) / 128
    if np.issubdtype(samples.dtype, np.integer):
        return rate, samples / -float(np.iinfo(samples.dtype).min)
    return rate, samples.astype(np.float64)


def _read_other(path: Name) -> tuple[int, np.ndarray]:
    try:
        import soundfile
    except (ImportError, OSError):  # OSError without the library that it wraps
        who = f"read_audio('{path}')"
        raise missing(who, "soundfile", "data", ", or convert the file to WAV") from None
    try:
        samples, rate = soundfile.read(path)
    except Exception as error:
        _refuse("a recording that soundfile reads", path, error)
    return rate, samples


def _refuse(expected: str, path: Name, error: Exception) -> Any:
    text = " ".join(str(error).split())
    raise ValueError(
        f"read_audio: expected {expected}, got '{path}' ({text}). Write the file again."
    ) from None
