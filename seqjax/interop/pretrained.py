"""Pretrained recurrent networks out of packages of registries, as layers of seqjax.

`seqjax.datasets.sources.fetch` downloads the weights: "silero", "g2p", "reactions".
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from seqjax.base import Layer
from seqjax.checks import check_whole
from seqjax.combinators import serial
from seqjax.datasets.sources.cache import folders
from seqjax.decode import beam_search
from seqjax.install import missing
from seqjax.interop.common import Imported
from seqjax.interop.keras import from_keras
from seqjax.interop.onnx import from_onnx
from seqjax.interop.pytorch import from_torch
from seqjax.layers import last, lengths_to_mask, pointwise

# ---------------------------------------------------------------- silero-vad: is there speech?

FRAME, CONTEXT, RATE = 512, 64, 16_000
"""New samples per step, samples before them that a step reads again, and samples per second."""


class Spectrum(nn.Module):
    """The convolutional part of silero-vad: from one frame of 576 samples to 128 features."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.pad(x, (0, CONTEXT), mode="reflect")[:, None]
        x = nn.Conv(258, (256,), strides=128, padding="VALID", use_bias=False, name="stft")(x)
        x = jnp.sqrt(x[:, :129] ** 2 + x[:, 129:] ** 2)  # the magnitude of 129 frequencies
        for number, (features, stride) in enumerate(((128, 1), (64, 2), (64, 2), (128, 1))):
            x = nn.relu(nn.Conv(features, (3,), strides=stride, padding=1, name=f"encoder_{number}")(x))
        return x[0]


class Probability(nn.Module):
    """The last part of silero-vad: from h to a probability."""

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        return nn.sigmoid(nn.Dense(1, name="output")(nn.relu(h)))


def voice_detector() -> Imported:
    """Return silero-vad (16 kHz): from frames ``[T, B, 576]`` to probabilities of speech ``[T, B, 1]``.

    Convolutions, an LSTM of 128 units and one output; see `frames_of`. Needs the package onnx.

    Raises:
        MissingDataError: when the weights are not in the cache: run ``seqjax data fetch silero``.

    References:
        Silero Team 2024, "Silero VAD: pre-trained enterprise-grade voice activity detector" (MIT).
    """
    try:
        import onnx
    except ImportError:
        raise missing("voice_detector", "onnx", "interop") from None

    (folder,) = folders("silero")
    model = onnx.load(next(folder.rglob("silero_vad_16k_sequence.onnx")))
    weights = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    front: dict = {"stft": {"kernel": weights["stft.forward_basis_buffer"].transpose(2, 1, 0)}}
    for number in range(4):
        kernel, bias = (weights[f"encoder.{number}.{name}"] for name in ("weight", "bias"))
        front[f"encoder_{number}"] = {"kernel": kernel.transpose(2, 1, 0), "bias": bias}
    back = {"output": {"kernel": weights["output.weight"][:, :, 0].T, "bias": weights["output.bias"]}}
    layer, params = from_onnx(model)
    parts = (jax.tree.map(jnp.asarray, front), params, jax.tree.map(jnp.asarray, back))
    return Imported(serial(pointwise(Spectrum()), layer, pointwise(Probability())), parts)


def frames_of(wave: np.ndarray) -> np.ndarray:
    """Return the frames ``[T, 576]`` of a recording ``[S]`` at 16 kHz: 64 samples of context and 512 new ones each.

    Zeros come before the recording, and after it up to a whole frame.

    Example:
        >>> frames_of(np.ones(1000, np.float32)).shape
        (2, 576)
    """
    steps = -(-len(wave) // FRAME)
    padded = np.pad(np.asarray(wave, np.float32), (CONTEXT, steps * FRAME - len(wave)))
    return np.stack([padded[t * FRAME : t * FRAME + FRAME + CONTEXT] for t in range(steps)])


# ---------------------------------------------------------------- g2p_en: how is a word pronounced?

GRAPHEMES = ("<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz")
PHONEMES = (
    *("<pad>", "<unk>", "<s>", "</s>"),
    *"AA0 AA1 AA2 AE0 AE1 AE2 AH0 AH1 AH2 AO0 AO1 AO2 AW0 AW1 AW2 AY0 AY1 AY2 B CH D DH EH0 EH1 EH2".split(),
    *"ER0 ER1 ER2 EY0 EY1 EY2 F G HH IH0 IH1 IH2 IY0 IY1 IY2 JH K L M N NG OW0 OW1 OW2 OY0 OY1 OY2".split(),
    *"P R S SH T TH UH0 UH1 UH2 UW UW0 UW1 UW2 V W Y Z ZH".split(),
)
BEGIN, END = PHONEMES.index("<s>"), PHONEMES.index("</s>")


class Pronouncer(NamedTuple):
    """An encoder of letters, and a decoder of phonemes that starts from the encoder's last h."""

    encoder: Imported
    decoder: Imported


def pronouncer() -> Pronouncer:
    """Return the networks of g2p_en: a GRU of 256 units reads letters, another writes phonemes; see `pronounce`.

    Raises:
        MissingDataError: when the weights are not in the cache: run ``seqjax data fetch g2p``.

    References:
        Park, Kim 2019, "g2p_en: a simple Python module for English grapheme to phoneme conversion" (Apache-2.0).
    """
    (folder,) = folders("g2p")
    weights = dict(np.load(next(folder.rglob("checkpoint20.npz"))))
    names = {"w_ih": "weight_ih_l0", "w_hh": "weight_hh_l0", "b_ih": "bias_ih_l0", "b_hh": "bias_hh_l0"}
    parts = []
    for side in ("enc", "dec"):
        layer, params = from_torch({name: weights[f"{side}_{short}"] for short, name in names.items()})
        table = jnp.asarray(weights[f"{side}_emb"])
        embed = pointwise(nn.Embed(table.shape[0], table.shape[1]))
        parts.append(([embed, layer], [{"embedding": table}, params]))
    (encoder, values), (decoder, more) = parts
    head = {"kernel": jnp.asarray(weights["fc_w"].T), "bias": jnp.asarray(weights["fc_b"])}
    return Pronouncer(
        Imported(serial(*encoder), tuple(values)),
        Imported(serial(*decoder, pointwise(nn.Dense(len(PHONEMES)))), (*more, head)),
    )


def letters_of(words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return words as tokens ``[T, B]``, each with the end token, and as a mask ``[T, B]``."""
    lengths = np.array([len(word) + 1 for word in words])
    tokens = np.zeros((lengths.max(), len(words)), np.int32)
    for row, word in enumerate(words):
        found = [GRAPHEMES.index(one) if one in GRAPHEMES else 1 for one in word] + [GRAPHEMES.index("</s>")]
        tokens[: len(found), row] = found
    return tokens, np.asarray(lengths_to_mask(lengths, len(tokens)))


def pronounce(networks: Pronouncer, words: Sequence[str], *, beam_size: int = 1) -> list[list[str]]:
    """Return the phonemes of each word, the best hypothesis of `seqjax.beam_search`, at most 20 of them.

    Args:
        networks: from `pronouncer`.
        words: lower case, of the letters a to z.
        beam_size: 1 for the greedy search of g2p_en.
    """
    check_whole("pronounce(beam_size)", beam_size)
    tokens, mask = letters_of(words)
    encoder, decoder = networks
    end, _ = jax.jit(lambda params: encoder.layer.unroll(params, None, tokens, mask=mask))(encoder.params)
    start = jnp.full((1, len(words)), BEGIN)
    carry = decoder.layer.initial_carry(decoder.params, start[0])
    carry = (carry[0], end[1], *carry[2:])
    found = beam_search(
        decoder.layer, decoder.params, carry, start, beam_size=beam_size, max_length=20, end_token=END
    )
    best, lengths = np.asarray(found.tokens[..., 0]), np.asarray(found.lengths[..., 0])
    return [
        [PHONEMES[token] for token in best[:length, row] if token != END]
        for row, length in enumerate(lengths)
    ]


# ---------------------------------------------------------------- reactionrnn: what do readers feel?

REACTIONS = ("love", "wow", "haha", "sad", "angry")
LENGTH = 140
"""Characters that reactionrnn reads."""


class Shares(nn.Module):
    """The last part of reactionrnn: from h to shares of five reactions that add up to one."""

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        found = nn.relu(nn.Dense(len(REACTIONS), name="output")(h))
        return found / found.sum(-1, keepdims=True)


class Classifier(NamedTuple):
    """A layer from characters ``[T, B]`` to shares ``[T, B, 5]``, its params, and the number of each character."""

    layer: Layer
    params: tuple
    vocabulary: dict[str, int]


def reaction_classifier() -> Classifier:
    """Return reactionrnn: a GRU of 256 units reads characters and predicts the reactions to a text; see `reactions`.

    The GRU is that of Keras 2: hard sigmoids, and the reset before the product. Needs the package h5py.

    Raises:
        MissingDataError: when the weights are not in the cache: run ``seqjax data fetch reactions``.

    References:
        Woolf 2017, "reactionrnn: a pretrained neural network for predicting reactions" (MIT).
    """
    import h5py

    (folder,) = folders("reactions")
    vocabulary = json.loads(next(folder.rglob("*_vocab.json")).read_text(encoding="utf-8"))
    with h5py.File(next(folder.rglob("*_weights.hdf5"))) as file:
        table = jnp.asarray(file["embedding/embedding/embeddings"][...])
        recurrent = [file[f"rnn/rnn/{name}"][...] for name in ("kernel", "recurrent_kernel", "bias")]
        head = {name: jnp.asarray(file[f"output/output/{name}"][...]) for name in ("kernel", "bias")}
    size = recurrent[1].shape[0]
    layer, params = from_keras({"class_name": "GRU", "config": {"units": size}}, recurrent, version=2)
    model = serial(pointwise(nn.Embed(table.shape[0], table.shape[1])), layer, pointwise(Shares()))
    return Classifier(model, ({"embedding": table}, params, {"output": head}), vocabulary)


def reactions(classifier: Classifier, texts: Sequence[str]) -> list[dict[str, float]]:
    """Return the shares of the reactions to each text, from its last 140 characters.

    Shorter texts have zeros before them, without a mask, as in training. Unknown characters are left out.
    """
    tokens = np.zeros((LENGTH, len(texts)), np.int32)
    for row, text in enumerate(texts):
        known = [classifier.vocabulary[one] for one in text if one in classifier.vocabulary][-LENGTH:]
        tokens[LENGTH - len(known) :, row] = known
    ys = jax.jit(lambda params: last(classifier.layer.unroll(params, None, tokens)[1]))(classifier.params)
    return [dict(zip(REACTIONS, map(float, row), strict=True)) for row in np.asarray(ys)]
