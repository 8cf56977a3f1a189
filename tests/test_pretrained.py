"""Pretrained networks of other libraries: the outputs that these libraries give. Data that are absent are skipped."""

import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import resample_poly

from seqjax.datasets import moby_dick, sources
from seqjax.interop import pretrained


def load(function, *arguments):
    try:
        return function(*arguments)
    except sources.MissingDataError as error:
        warnings.warn(f"skipped: {error}", stacklevel=2)  # shown at the end of the tests
        pytest.skip(str(error))


# ---------------------------------------------------------------- silero-vad


def recordings():
    """Spoken digits in English and Spanish with pauses between them, at 16 kHz: two recordings of one length."""
    spoken = load(sources.real_digits)
    waves = []
    for language in ("en-us", "es-419"):
        (wave,) = sources.strings_of(spoken, language, count=1, length=3, seed=1).recordings
        waves.append(resample_poly(np.concatenate([np.zeros(4000, np.float32), wave]), 2, 1))
    length = min(map(len, waves))
    return [wave[:length] for wave in waves]


@pytest.mark.peers
def test_the_voice_detector_equals_onnxruntime_on_real_speech_whole_and_streaming():
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    layer, params = load(pretrained.voice_detector)
    frames = np.stack([pretrained.frames_of(wave) for wave in recordings()], 1)  # [T, B, 576]
    (folder,) = sources.fetch("silero")
    session = runtime.InferenceSession(next(folder.rglob("*.onnx")), providers=["CPUExecutionProvider"])
    zeros = np.zeros((1, 1, 128), np.float32)
    theirs = [session.run(None, {"input": frames[:, b], "h": zeros, "c": zeros}) for b in range(2)]
    expected = np.stack([probability.reshape(-1) for probability, _, _ in theirs], 1)
    assert expected.max() > 0.9 and expected.min() < 0.1 and len(frames) > 40  # speech and pauses
    # Both libraries round in float32, each to 1e-5 of the exact result; ours is compared in float64.
    rough = jax.jit(layer.unroll)(params, None, jnp.asarray(frames))[1]
    np.testing.assert_allclose(rough[..., 0], expected, rtol=0, atol=3e-5)
    params, frames = jax.tree.map(lambda a: a.astype(jnp.float64), (params, jnp.asarray(frames)))
    carry, ys = jax.jit(layer.unroll)(params, None, frames)
    np.testing.assert_allclose(ys[..., 0], expected, rtol=0, atol=1e-5)
    for b, (_, h, c) in enumerate(theirs):
        np.testing.assert_allclose(carry[1].h[b], h[0, 0], rtol=0, atol=1e-5)
        np.testing.assert_allclose(carry[1].c[b], c[0, 0], rtol=0, atol=1e-4)
    step = jax.jit(layer.step)
    carry, found = layer.initial_carry(params, frames[0]), []
    for x in frames:
        carry, y = step(params, carry, x)
        found.append(y[:, 0])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_frames_overlap_by_their_context():
    frames = pretrained.frames_of(np.arange(1, 1301.0))
    assert frames.shape == (3, 576) and frames.dtype == np.float32
    assert frames[0, :64].tolist() == [0] * 64 and frames[0, 64] == 1
    np.testing.assert_array_equal(frames[1, :64], frames[0, -64:])
    assert frames[2, 64 + 1300 - 1024 - 1] == 1300 and (frames[2, 64 + 1300 - 1024 :] == 0).all()


# ---------------------------------------------------------------- g2p_en


def pronounce_in_numpy(weights, word):
    """`G2p.predict` of g2p_en 2.1.0, transcribed."""

    def gru(x, h, side):
        x = x @ weights[f"{side}_w_ih"].T + weights[f"{side}_b_ih"]
        u = h @ weights[f"{side}_w_hh"].T + weights[f"{side}_b_hh"]
        (x_r, x_z, x_n), (u_r, u_z, u_n) = np.split(x, 3), np.split(u, 3)
        r, z = 1 / (1 + np.exp(-x_r - u_r)), 1 / (1 + np.exp(-x_z - u_z))
        return (1 - z) * np.tanh(x_n + r * u_n) + z * h

    h = np.zeros(256, np.float32)
    for letter in [*word, "</s>"]:
        h = gru(weights["enc_emb"][pretrained.GRAPHEMES.index(letter)], h, "enc")
    token, found = 2, []
    for _ in range(20):
        h = gru(weights["dec_emb"][token], h, "dec")
        token = int((weights["fc_w"] @ h + weights["fc_b"]).argmax())
        if token == 3:
            break
        found.append(pretrained.PHONEMES[token])
    return found


def test_the_pronouncer_equals_g2p_on_more_than_100_words():
    networks = load(pretrained.pronouncer)
    (folder,) = sources.fetch("g2p")
    weights = dict(np.load(next(folder.rglob("checkpoint20.npz"))))
    words = sorted(set(re.findall(r"\b[a-z]{3,14}\b", moby_dick().tobytes().decode()[20_000:26_000])))[::4]
    words = ["recurrent", *words]
    assert len(words) > 100
    found = pretrained.pronounce(networks, words)
    assert found[0] == "R IH0 K ER1 AH0 N T".split()
    expected = [pronounce_in_numpy(weights, word) for word in words]
    assert found == expected


# ---------------------------------------------------------------- reactionrnn


def test_the_classifier_of_reactions_has_its_published_digits():
    """The numbers of the package's README."""
    pytest.importorskip("h5py")
    classifier = load(pretrained.reaction_classifier)
    sad, mother = pretrained.reactions(
        classifier, ["He was only 41.", "Happy Mother's Day from the Chicago Cubs!"]
    )
    assert {name: round(value, 4) for name, value in sad.items() if value > 5e-5} == {"sad": 1.0}
    found = {name: round(value, 4) for name, value in mother.items() if value > 5e-5}
    assert found == {"love": 0.9765, "wow": 0.0235}
