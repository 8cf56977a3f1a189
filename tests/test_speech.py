"""Test recordings, log-mel features and folders of speech; PyTorch and torchaudio have the same features."""

import builtins
import wave

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io.wavfile
import scipy.signal

from seqjax.datasets import log_mel, log_mel_features, per_utterance, read_audio, read_speech
from seqjax.datasets.features import mel_filters
from seqjax.datasets.sources.voices import base_voice

NOISE = np.random.default_rng(0).normal(size=3000) * 0.1


@pytest.mark.parametrize(
    ("dtype", "step"), [(np.uint8, 1 / 127), (np.int16, 2e-4), (np.int32, 1e-7), (np.float32, 1e-7)]
)
def test_wav_files_of_every_type_are_from_minus_one_to_one(dtype, step, tmp_path):
    sound = np.clip(NOISE, -0.9, 0.9)
    if dtype is np.uint8:
        stored = np.round(sound * 128 + 128).astype(dtype)
    elif dtype is np.float32:
        stored = sound.astype(dtype)
    else:
        stored = np.round(sound * -float(np.iinfo(dtype).min)).astype(dtype)
    scipy.io.wavfile.write(tmp_path / "x.wav", 8000, stored)
    audio = read_audio(tmp_path / "x.wav")
    assert audio.rate == 8000 and audio.samples.dtype == np.float32
    np.testing.assert_allclose(audio.samples, sound, atol=step)


def test_recordings_of_24_bits_are_read(tmp_path):
    """SciPy returns them as 32 bits."""
    values = np.array([-(2**23), 0, 2**22, 2**23 - 1], "<i4")
    with wave.open(str(tmp_path / "x.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(3)
        file.setframerate(8000)
        file.writeframes(b"".join(int(v).to_bytes(3, "little", signed=True) for v in values))
    np.testing.assert_allclose(read_audio(tmp_path / "x.wav").samples, values / 2**23, atol=1e-6)


def test_channels_are_averaged_and_rates_changed(tmp_path):
    stereo = np.stack([NOISE, 3 * NOISE], 1).astype(np.float32)
    scipy.io.wavfile.write(tmp_path / "x.wav", 22050, stereo)
    audio = read_audio(tmp_path / "x.wav", rate=8000)
    np.testing.assert_allclose(audio.samples, scipy.signal.resample_poly(stereo.mean(1), 160, 441), atol=1e-6)


def test_other_formats_need_soundfile(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "soundfile":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    (tmp_path / "x.flac").write_bytes(b"fLaC")
    with pytest.raises(
        ImportError, match=r"expected the package soundfile, .*pip install .*\[data\]'\", or convert"
    ):
        read_audio(tmp_path / "x.flac")


def test_flac_is_read_by_soundfile(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "x.flac", np.clip(NOISE, -1, 1), 16000, subtype="PCM_16")
    audio = read_audio(tmp_path / "x.flac")
    assert audio.rate == 16000
    np.testing.assert_allclose(audio.samples, NOISE, atol=1e-4)
    (tmp_path / "y.flac").write_bytes(b"fLaC")
    with pytest.raises(ValueError, match="expected a recording that soundfile reads, got .*y.flac"):
        read_audio(tmp_path / "y.flac")


@pytest.mark.parametrize("data", [b"RIFF", b"no sound at all, but text", b"RIFF\x24\0\0\0WAVEfmt "])
def test_damaged_wav_files_are_refused_in_one_line(data, tmp_path):
    (tmp_path / "x.wav").write_bytes(data)
    with pytest.raises(
        ValueError, match="expected a complete WAV file, got .*x.wav.* Write the file again"
    ) as caught:
        read_audio(tmp_path / "x.wav")
    assert "\n" not in str(caught.value)


def test_recordings_without_samples_are_refused(tmp_path):
    scipy.io.wavfile.write(tmp_path / "x.wav", 8000, np.zeros(0, np.int16))
    with pytest.raises(ValueError, match="expected at least one sample"):
        read_audio(tmp_path / "x.wav")


# torchaudio 2.11, melscale_fbanks(129, 60.0, 4000.0, 32, 8000, norm=None, mel_scale="htk").sum(0)
SUMS = """1.3608 1.5187 1.5318 1.7672 1.7296 1.8622 1.9814 2.0881 2.1835 2.3684 2.4541 2.621 2.7322 2.9174 3.0835 3.232
3.4497 3.6002 3.8593 4.0643 4.2871 4.5012 4.7873 5.072 5.3266 5.6552 5.9556 6.3038 6.6566 7.0595 7.4202 7.8657"""
# The mean frequency bin of each of these filters.
CENTERS = """3.34 4.813 6.271 7.972 9.744 11.507 13.427 15.464 17.589 19.879 22.284 24.842 27.507 30.325 33.335 36.488
39.834 43.345 47.077 51.059 55.239 59.628 64.26 69.203 74.403 79.896 85.701 91.829 98.306 105.175 112.415 120.054"""


def test_mel_filters_are_those_of_torchaudio():
    filters = mel_filters(129, 8000, 32, 60.0)
    np.testing.assert_allclose(filters.sum(0), np.array(SUMS.split(), float), atol=1e-4)
    centers = (filters * np.arange(129)[:, None]).sum(0) / filters.sum(0)
    np.testing.assert_allclose(centers, np.array(CENTERS.split(), float), atol=1e-3)


@pytest.mark.peers
def test_log_mel_equals_the_transform_of_torch():
    torch = pytest.importorskip("torch")
    ours = log_mel(NOISE, rate=8000, num_mels=32, low=60.0)
    # The window stands in the middle of torch's longer frames, which begin 28 samples before ours.
    signal = torch.tensor(np.pad(NOISE, (28, 28)))
    window = torch.hann_window(200, dtype=torch.float64)
    power = torch.stft(signal, 256, 80, 200, window, center=False, return_complex=True).abs() ** 2
    theirs = np.log(power.numpy().T @ mel_filters(129, 8000, 32, 60.0) + 1e-6)
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)


def test_log_mel_equals_a_loop_over_frames():
    ours = log_mel(jnp.float32(NOISE), rate=8000, num_mels=8, low=0.0, high=3000.0, hop=0.02)
    hann = scipy.signal.get_window("hann", 200)
    rows = [abs(np.fft.rfft(NOISE[s : s + 200] * hann, 256)) ** 2 for s in range(0, 2801, 160)]
    theirs = np.log(np.array(rows) @ mel_filters(129, 8000, 8, 0.0, 3000.0) + 1e-6)
    assert ours.shape == theirs.shape and ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-4)


def test_a_tone_is_in_the_band_of_its_frequency():
    tone = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000)
    found = np.asarray(log_mel(tone, rate=8000, num_mels=40)).mean(0).argmax()
    corners = np.linspace(2595 * np.log10(1 + 20 / 700), 2595 * np.log10(1 + 4000 / 700), 42)
    assert abs(corners[found + 1] - 2595 * np.log10(1 + 1000 / 700)) < corners[1] - corners[0]


def test_padding_changes_no_frame():
    recordings = [NOISE[:150], NOISE[:1999], NOISE]
    for features, samples in zip(
        log_mel_features(recordings, rate=2000, num_mels=8), recordings, strict=True
    ):
        alone = log_mel(np.float32(samples), rate=2000, num_mels=8)
        assert features.shape == alone.shape
        np.testing.assert_allclose(features, alone, rtol=1e-5, atol=1e-5)


def test_levels_vanish_per_utterance():
    features = [np.random.default_rng(1).normal(size=(50, 4)) * 3 + 7]
    (one,), (other,) = per_utterance(features), per_utterance([features[0] + 100])
    np.testing.assert_allclose(one, other, atol=1e-9)
    np.testing.assert_allclose([one.mean(0), one.std(0)], [[0] * 4, [1] * 4], atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate": 0}, r"log_mel\(rate\): expected a whole number of at least 1, got 0"),
        (
            {"rate": 8000, "high": 5000.0},
            "expected 0 <= low < high <= rate / 2 = 4000, got low=20, high=5000",
        ),
        ({"rate": 8000, "hop": 0.0}, r"log_mel\(hop\): expected a finite number above 0"),
        ({"rate": 8000, "num_mels": 0}, r"log_mel\(num_mels\): expected a whole number"),
    ],
)
def test_wrong_options_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        log_mel(NOISE, **arguments)


@pytest.fixture
def folder(tmp_path):
    def make(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def test_librispeech_has_a_file_of_transcripts_per_chapter(folder):
    place = folder(
        {
            "19/198/19-198.trans.txt": "19-198-0000 NORTHANGER ABBEY\n19-198-0001 THIS LITTLE WORK\n",
            "19/198/19-198-0000.flac": "x",
            "19/198/19-198-0001.wav": "x",
            "8/1/8-1.trans.txt": "8-1-0000 YES\n",
            "8/1/8-1-0000.flac": "x",
        }
    )
    speech = read_speech(place)
    assert [path.name for path in speech.paths] == ["19-198-0000.flac", "19-198-0001.wav", "8-1-0000.flac"]
    assert speech.transcripts == ["NORTHANGER ABBEY", "THIS LITTLE WORK", "YES"] and speech.speakers == [
        "19",
        "19",
        "8",
    ]


def test_common_voice_has_tables_and_clips(folder):
    table = 'client_id\tpath\tsentence\tup_votes\nab\tone.mp3\tHello.\t2\ncd\ttwo.mp3\tA "word"\t2\n'
    place = folder(
        {"train.tsv": table, "dev.tsv": "x\ty\n1\t2\n", "clips/one.mp3": "x", "clips/two.mp3": "x"}
    )
    speech = read_speech(place, "train.tsv")
    assert speech.paths == [place / "clips/one.mp3", place / "clips/two.mp3"]
    assert speech.transcripts == ["Hello.", 'A "word"'] and speech.speakers == ["ab", "cd"]


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({}, ValueError, "expected .trans.txt files or one .tsv or .csv table in .*, got none"),
        ({"a.tsv": "", "b.tsv": ""}, ValueError, "got a.tsv, b.tsv. Pass the name of a table"),
        (
            {"a.csv": "name,text\nx.wav,hi\n"},
            ValueError,
            r"a column of recordings \(path, .*got name, text in line 1",
        ),
        ({"a.csv": "file,words\nx.wav,hi\n"}, ValueError, "a column of transcripts"),
        (
            {"a.csv": "file,text\nx.wav,hi\n"},
            FileNotFoundError,
            "the recording .*x.wav' of line 2 of .*a.csv', got none",
        ),
        (
            {"a.csv": "file,text\nx.wav, \n"},
            ValueError,
            "expected a transcript, got an empty field in line 2",
        ),
        ({"a.trans.txt": "a-1\n"}, ValueError, "expected 'NAME TRANSCRIPT', got 'a-1' in line 1"),
    ],
)
def test_wrong_folders_are_refused_in_one_line(files, error, message, folder):
    with pytest.raises(error, match=message) as caught:
        read_speech(folder(files))
    assert "\n" not in str(caught.value)


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a folder, got .*gone"):
        read_speech(tmp_path / "gone")


def test_variants_of_a_voice_have_one_base_voice():
    assert base_voice("robosoft8") == base_voice("robosoft") and base_voice("whisperf") == base_voice(
        "whisper"
    )
    assert base_voice("m1") != base_voice("m2") and base_voice("Mike") == base_voice("mike2")
