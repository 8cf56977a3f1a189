"""Speech: a folder of recordings with their transcripts, recognized by CTC."""

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import datasets, models
from seqjax.base import Batch, Layer
from seqjax.datasets import Vocabulary
from seqjax.datasets.speech import ENDS
from seqjax.datasets.vocabulary_files import vocabulary_from_json, vocabulary_to_json
from seqjax.decode import best_path
from seqjax.training.applications.batches import in_batches, number_of_batches, outputs
from seqjax.training.applications.common import (
    Definition,
    Examples,
    Kind,
    Learning,
    Trained,
    encoded,
    entropy,
    fitting,
    layers_of,
    train_vocabulary,
)
from seqjax.training.applications.edits import error_rate
from seqjax.training.applications.folders import digest_of_examples, folder_of, split_by_name, table_of
from seqjax.training.evaluation import CorpusMetrics
from seqjax.training.losses import ctc_loss
from seqjax.training.recipe import Recipe

NUM_MELS, WINDOW, HOP = 40, 0.025, 0.02
"""Bands of a frame, and its length and distance in seconds. A step of the model is a frame."""


def _read(recipe: Recipe) -> Examples:
    """Return the paths of recordings, and their transcripts."""
    folder = folder_of(recipe, ENDS, "recordings")
    of_librispeech = recipe.target is None and any(folder.rglob("*.trans.txt"))
    found = datasets.read_speech(folder, None if of_librispeech else table_of(recipe, folder))
    return Examples(list(map(str, found.paths)), found.transcripts)


def _digest(recipe: Recipe) -> str:
    return digest_of_examples(recipe, _read(recipe))


def _define(recipe: Recipe, train: Examples) -> Definition:
    rate = recipe.sample_rate
    return {
        "vocabulary": vocabulary_to_json(train_vocabulary(recipe, train.targets)),
        "sample_rate": datasets.read_audio(train.inputs[0]).rate if rate is None else rate,
    }


def _model(recipe: Recipe, definition: Definition) -> Layer:
    return models.ctc_recognizer(vocabulary_from_json(definition["vocabulary"]).size, **layers_of(recipe))


def _example(definition: Definition) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, NUM_MELS), np.float32)


def frames(path: str, rate: int, resample: bool = True) -> np.ndarray:
    """Return the log-mel features ``[T, 40]`` of a recording, each band with mean 0 and standard deviation 1.

    Args:
        path: the file.
        rate: samples per second.
        resample: resample recordings with another rate; otherwise refuse them.

    Raises:
        ValueError: for a damaged file, or another rate.
    """
    audio = datasets.read_audio(path, rate=rate if resample else None)
    if audio.rate != rate:
        raise ValueError(
            f"expected recordings with one sample rate, got {audio.rate} per second in '{path}' and {rate} in others. "
            f"Pass --sample-rate {min(rate, audio.rate)} to resample them."
        )
    features = datasets.log_mel_features(
        [audio.samples], rate=rate, num_mels=NUM_MELS, window=WINDOW, hop=HOP
    )
    return datasets.per_utterance(features)[0]


def _steps_needed(tokens: np.ndarray) -> int:
    """Return the number of steps of the shortest path of labels: repeated labels have a blank between them."""
    return len(tokens) + int(np.sum(tokens[1:] == tokens[:-1]))


def _learn(recipe: Recipe, definition: Definition, train: Examples, held_out: Examples) -> Learning:
    vocabulary = vocabulary_from_json(definition["vocabulary"])
    rate, resample = definition["sample_rate"], recipe.sample_rate is not None
    loaders, notes, tokens = [], [], []
    for part in (train, held_out):
        tokens = encoded(vocabulary, part.targets, 2**31)
        short = [len(each) <= recipe.length for each in tokens]
        limit = f"longer than {recipe.length} tokens"
        part, note = fitting(recipe, Examples(part.inputs, tokens), short, "transcripts", limit)
        features = [frames(path, rate, resample) for path in part.inputs]
        fits = [_steps_needed(t) <= len(f) for t, f in zip(part.targets, features, strict=True)]
        notes += [note, *_too_short(part, fits)]
        features = [f for f, fit in zip(features, fits, strict=True) if fit]
        tokens = part.only(fits).targets
        loaders.append(
            datasets.bucketed(
                features, tokens, batch_size=recipe.batch_size, seed=recipe.seed, per_step=False
            )
        )
    counts = Counter(token for each in tokens for token in each.tolist())
    return Learning(
        ctc_loss,
        loaders[0],
        loaders[1],
        number_of_batches(recipe, loaders[1]),
        _metrics(vocabulary),
        entropy(list(counts.values())) * sum(counts.values()) / len(tokens),
        tuple(filter(None, notes)),
    )


def _too_short(part: Examples, fits: Sequence[bool]) -> list[str]:
    """Return a line about the recordings that are too short for their transcripts.

    Raises:
        ValueError: when all of them are.
    """
    left_out = [path for path, fit in zip(part.inputs, fits, strict=True) if not fit]
    if len(left_out) == len(fits):
        raise ValueError(
            f"expected recordings with a frame ({HOP:g} seconds) for each token of their transcripts, got shorter ones "
            f"alone, such as '{left_out[0]}'. Check that transcripts and recordings belong together."
        )
    count = f"{len(left_out)} of {len(fits)}"
    return [f"{count} recordings are left out: they are too short for their transcripts."] if left_out else []


def _metrics(vocabulary: Vocabulary) -> CorpusMetrics:
    def compute(found: list[Any]) -> dict[str, float]:
        heard, said = ([row for part in found for row in part[i]] for i in (0, 1))
        return _error_rates(*([_text(vocabulary, row) for row in rows] for rows in (heard, said)))

    return CorpusMetrics(compute, _collect)


def _collect(params: Any, ys: Any, batch: Batch) -> Any:
    return best_path(ys, batch.mask), batch.targets


def _text(vocabulary: Vocabulary, labels: np.ndarray) -> str:
    return vocabulary.decode(labels[labels >= 0])


def _error_rates(heard: Sequence[str], said: Sequence[str]) -> dict[str, float]:
    """Return the rates of wrong words, separated by spaces, and of wrong characters."""
    words = error_rate([text.split() for text in heard], [text.split() for text in said])
    return {"word_error": words, "character_error": error_rate(heard, said)}


def recognized(trained: Trained, features: Sequence[np.ndarray]) -> list[str]:
    """Return the transcript of the features of each recording: the text of its best path."""
    vocabulary = vocabulary_from_json(trained.definition["vocabulary"])
    result = [""] * len(features)
    for rows, xs, mask in in_batches(features, trained.recipe.batch_size):
        labels = np.asarray(best_path(outputs(trained, xs, mask), jnp.asarray(mask.T)))
        for place, row in enumerate(rows):
            result[row] = _text(vocabulary, labels[place]).replace("\n", " ")
    return result


def _answer(trained: Trained, paths: Sequence[str], beam_size: int) -> list[str]:
    """Return each path and its transcript, separated by a tab. Recordings with another rate are resampled."""
    features = [frames(path, trained.definition["sample_rate"]) for path in paths]
    return [f"{path}\t{text}" for path, text in zip(paths, recognized(trained, features), strict=True)]


def _score(trained: Trained, examples: Examples, beam_size: int) -> dict[str, float]:
    """Return the CTC loss per recording, over those that are long enough; and error rates over all."""
    vocabulary = vocabulary_from_json(trained.definition["vocabulary"])
    features = [frames(path, trained.definition["sample_rate"]) for path in examples.inputs]
    tokens = encoded(vocabulary, examples.targets, 2**31)
    losses = np.zeros(len(tokens))
    for rows, xs, mask in in_batches(features, trained.recipe.batch_size):
        filled = [tokens[row] for row in [*rows, *[rows[-1]] * (len(xs) - len(rows))]]
        labels, there = datasets.pad(filled, max(map(len, tokens)))
        found = _ctc()(outputs(trained, xs, mask), np.where(there, labels, -1), mask.T)
        losses[rows] = np.asarray(found)[: len(rows)]
    finite = losses[np.isfinite(losses)]
    loss = {"loss": float(finite.mean())} if len(finite) else {}
    return {**loss, **_error_rates(recognized(trained, features), examples.targets)}


@functools.cache
def _ctc() -> Callable:
    return jax.jit(ctc_loss)


SPEECH = Kind(
    _read,
    _define,
    _model,
    _example,
    _learn,
    _answer,
    _score,
    split=split_by_name,
    digest=_digest,
    suffixes=ENDS,
)
