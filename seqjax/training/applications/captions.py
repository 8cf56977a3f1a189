"""Captions: a folder of images with texts about them."""

from collections import Counter
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np

from seqjax import datasets, models
from seqjax.base import Batch, Layer
from seqjax.combinators import Source
from seqjax.datasets import END, Loader, Vocabulary
from seqjax.datasets.vocabulary_files import vocabulary_from_json, vocabulary_to_json
from seqjax.training.applications.batches import in_batches, number_of_batches, token_accuracy
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
    one_token,
    train_vocabulary,
)
from seqjax.training.applications.decoding import Sources, teacher_forced_metrics, text_metrics, written
from seqjax.training.applications.folders import digest_of_examples, folder_of, split_by_name, table_of
from seqjax.training.losses import cross_entropy
from seqjax.training.recipe import Recipe

IMAGES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff")
SIZE = 64
"""The usual number of pixels of a side."""


def _read(recipe: Recipe) -> Examples:
    """Return the paths of images, and their captions; an image with several captions is there several times."""
    folder = folder_of(recipe, IMAGES, "images")
    table = table_of(recipe, folder)
    found = (
        datasets.read_coco(table, folder)
        if table.endswith(".json")
        else datasets.read_captions(folder, table)
    )
    return Examples(list(map(str, found.paths)), found.captions)


def _digest(recipe: Recipe) -> str:
    return digest_of_examples(recipe, _read(recipe))


def _define(recipe: Recipe, train: Examples) -> Definition:
    return {"vocabulary": vocabulary_to_json(train_vocabulary(recipe, train.targets))}


def _model(recipe: Recipe, definition: Definition) -> Layer:
    size = vocabulary_from_json(definition["vocabulary"]).size
    return models.captioner(size, image_shape=(*_shape(recipe), 3), **layers_of(recipe))


def _shape(recipe: Recipe) -> tuple[int, int]:
    side = SIZE if recipe.image_size is None else recipe.image_size
    return side, side


def _images(recipe: Recipe, paths: Sequence[str]) -> np.ndarray:
    """Return images ``[N, S, S, 3]`` uint8."""
    return np.stack([datasets.read_image(path, _shape(recipe)) for path in paths])


def _learn(recipe: Recipe, definition: Definition, train: Examples, held_out: Examples) -> Learning:
    vocabulary = vocabulary_from_json(definition["vocabulary"])
    loaders, notes, tokens = [], [], []
    for part in (train, held_out):
        tokens = encoded(vocabulary, part.targets, 2**31)
        short = [len(each) <= recipe.length for each in tokens]
        limit = f"longer than {recipe.length} tokens"
        part, note = fitting(recipe, Examples(part.inputs, tokens), short, "captions", limit)
        notes.append(note)
        tokens = part.targets
        loaders.append(_loader(recipe, part))
    counts = Counter(token for each in tokens for token in [*each.tolist(), END])
    return Learning(
        cross_entropy,
        loaders[0],
        loaders[1],
        number_of_batches(recipe, loaders[1]),
        token_accuracy(),
        entropy(list(counts.values())),
        tuple(filter(None, notes)),
    )


def _loader(recipe: Recipe, examples: Examples) -> Loader:
    """Return batches of captions, as tokens, with their images as the context; each image is in memory once."""
    paths = list(dict.fromkeys(examples.inputs))
    images, places = _images(recipe, paths), {path: place for place, path in enumerate(paths)}
    inputs, targets = datasets.teacher_forced(examples.targets)
    which = np.array([places[path] for path in examples.inputs])
    loader = datasets.bucketed(inputs, targets, context=which, batch_size=recipe.batch_size, seed=recipe.seed)

    def of_rows(step: int, rows: np.ndarray) -> Batch:
        batch = loader.rows(step, rows)
        return batch._replace(context=images[batch.context])

    return Loader(of_rows, loader.batch_size, loader.steps_per_epoch)


def described(trained: Trained, paths: Sequence[str], beam_size: int) -> list[str]:
    """Return the caption of each image by beam search; a caption has at most the recipe's length of tokens."""
    vocabulary, recipe = vocabulary_from_json(trained.definition["vocabulary"]), trained.recipe

    def batches() -> Iterator[Sources]:
        for begin in range(0, len(paths), recipe.batch_size):
            rows = range(begin, min(begin + recipe.batch_size, len(paths)))
            images = _images(recipe, [paths[row] for row in rows])
            filled = np.resize(images, (recipe.batch_size, *images.shape[1:]))
            yield Sources(rows, Source(jnp.asarray(filled)), recipe.length + 1)

    return written(trained, vocabulary, batches(), len(paths), beam_size)


def _answer(trained: Trained, paths: Sequence[str], beam_size: int) -> list[str]:
    """Return each path and its caption, separated by a tab."""
    return [f"{path}\t{text}" for path, text in zip(paths, described(trained, paths, beam_size), strict=True)]


def _score(trained: Trained, examples: Examples, beam_size: int) -> dict[str, float]:
    """Return loss and accuracy per token, given the tokens before; and scores of the beams beside all captions."""
    vocabulary = vocabulary_from_json(trained.definition["vocabulary"])
    known: dict[str, list[str]] = {}
    for path, caption in zip(*examples, strict=True):
        known.setdefault(path, []).append(caption)
    made = described(trained, list(known), beam_size)
    found = teacher_forced_metrics(trained, _every(trained, vocabulary, examples))
    return {**found, **text_metrics(vocabulary, made, list(known.values()))}


def _every(trained: Trained, vocabulary: Vocabulary, examples: Examples) -> list[Batch]:
    """Return every example once; rows that fill up the last batch are masked."""
    inputs, targets = datasets.teacher_forced(encoded(vocabulary, examples.targets, 2**31))
    found = []
    for rows, xs, mask in in_batches(inputs, trained.recipe.batch_size):
        filled = [*rows, *[rows[-1]] * (len(xs) - len(rows))]
        mask = mask & (np.arange(len(xs)) < len(rows))[:, None]
        wanted, _ = datasets.pad([targets[row] for row in filled], xs.shape[1])
        images = _images(trained.recipe, [examples.inputs[row] for row in filled])
        found.append(Batch(xs.T, wanted.T, None, mask.T, images))
    return found


CAPTIONS = Kind(
    _read,
    _define,
    _model,
    one_token,
    _learn,
    _answer,
    _score,
    split=split_by_name,
    digest=_digest,
    suffixes=IMAGES,
)
