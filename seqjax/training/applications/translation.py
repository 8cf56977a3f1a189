"""Translation: sentences and their translations, in two files of lines or in one table."""

from collections import Counter
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from seqjax import datasets, models
from seqjax.base import Batch, Layer
from seqjax.combinators import Source
from seqjax.datasets import END, Loader, Vocabulary
from seqjax.datasets.vocabulary_files import vocabulary_from_json, vocabulary_to_json
from seqjax.fields import SettingError
from seqjax.training.applications.batches import in_batches, number_of_batches, power_of_two, token_accuracy
from seqjax.training.applications.common import (
    Definition,
    Examples,
    Kind,
    Learning,
    Trained,
    columns_of,
    encoded,
    entropy,
    fitting,
    layers_of,
    one_token,
    train_vocabulary,
)
from seqjax.training.applications.decoding import Sources, teacher_forced_metrics, text_metrics, written
from seqjax.training.losses import cross_entropy
from seqjax.training.recipe import Recipe


def _read(recipe: Recipe) -> Examples:
    if recipe.target is not None and recipe.columns is not None:
        raise SettingError(
            "{columns} goes with one table of both languages, got {target}, too. Leave it out."
        )
    found = datasets.read_parallel(recipe.data or "", recipe.target, columns=columns_of(recipe, (0, 1)))
    return Examples(*found)


def _define(recipe: Recipe, train: Examples) -> Definition:
    source, target = (vocabulary_to_json(train_vocabulary(recipe, texts)) for texts in train)
    return {"source": source, "target": target}


def _vocabularies(definition: Definition) -> tuple[Vocabulary, Vocabulary]:
    return vocabulary_from_json(definition["source"]), vocabulary_from_json(definition["target"])


def _model(recipe: Recipe, definition: Definition) -> Layer:
    source, target = _vocabularies(definition)
    return models.translator(source.size, target.size, **layers_of(recipe))


def _learn(recipe: Recipe, definition: Definition, train: Examples, held_out: Examples) -> Learning:
    vocabularies = _vocabularies(definition)
    short, notes = zip(*(_short(recipe, vocabularies, part) for part in (train, held_out)), strict=True)
    loaders = [_loader(vocabularies, part, recipe.batch_size, recipe.seed) for part in short]
    tokens = Counter(
        token for text in short[1].targets for token in [*vocabularies[1].encode(text).tolist(), END]
    )
    return Learning(
        cross_entropy,
        loaders[0],
        loaders[1],
        number_of_batches(recipe, loaders[1]),
        token_accuracy(),
        entropy(list(tokens.values())),
        tuple(filter(None, notes)),
    )


def _short(
    recipe: Recipe, vocabularies: tuple[Vocabulary, Vocabulary], examples: Examples
) -> tuple[Examples, str]:
    """Return the pairs in which no sentence has more tokens than the recipe's length, and a line about the others."""
    fits = [
        all(len(v.encode(text)) <= recipe.length for v, text in zip(vocabularies, pair, strict=True))
        for pair in zip(*examples, strict=True)
    ]
    limit = f"longer than {recipe.length} tokens"
    return fitting(recipe, examples, fits, "pairs of sentences", limit)


def _loader(
    vocabularies: tuple[Vocabulary, Vocabulary], examples: Examples, batch_size: int, seed: int
) -> Loader:
    sources, texts = (
        encoded(vocabulary, part, 2**31) for vocabulary, part in zip(vocabularies, examples, strict=True)
    )
    inputs, targets = datasets.teacher_forced(texts)
    return datasets.bucketed(inputs, targets, context=sources, batch_size=batch_size, seed=seed)


def translations(trained: Trained, sentences: Sequence[str], beam_size: int) -> list[str]:
    """Return the translation of each sentence by beam search; a translation has at most twice as many tokens, and 10.

    Of a sentence with more tokens than the recipe's length, the first ones are translated.
    """
    source, target = _vocabularies(trained.definition)
    tokens = encoded(source, sentences, trained.recipe.length)
    batches = (
        Sources(rows, Source(jnp.asarray(xs), jnp.asarray(mask)), 2 * xs.shape[1] + 10)
        for rows, xs, mask in in_batches(tokens, trained.recipe.batch_size)
    )
    return written(trained, target, batches, len(sentences), beam_size)


def _score(trained: Trained, examples: Examples, beam_size: int) -> dict[str, float]:
    """Return loss and accuracy per token, given the tokens before; and exact matches, BLEU and chrF of the beams."""
    found = teacher_forced_metrics(trained, _loader_of_all(trained, examples))
    made, target = translations(trained, examples.inputs, beam_size), _vocabularies(trained.definition)[1]
    return {**found, **text_metrics(target, made, [[each] for each in examples.targets])}


def _loader_of_all(trained: Trained, examples: Examples) -> list[Batch]:
    """Return every pair once; rows that fill up the last batch are masked."""
    source, target = _vocabularies(trained.definition)
    sources, texts = encoded(source, examples.inputs, 2**31), encoded(target, examples.targets, 2**31)
    inputs, targets = datasets.teacher_forced(texts)
    found = []
    for rows, xs, mask in in_batches(inputs, trained.recipe.batch_size):
        filled = [*rows, *[rows[-1]] * (len(xs) - len(rows))]
        mask = mask & (np.arange(len(xs)) < len(rows))[:, None]
        wanted, _ = datasets.pad([targets[row] for row in filled], xs.shape[1])
        longest = power_of_two(max(len(sources[row]) for row in filled))
        context = datasets.pad([sources[row] for row in filled], longest)
        found.append(Batch(xs.T, wanted.T, None, mask.T, context))
    return found


TRANSLATION = Kind(_read, _define, _model, one_token, _learn, translations, _score)
