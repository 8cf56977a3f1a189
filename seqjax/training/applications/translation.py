"""Translation: sentences and their translations, in two files of lines or in one table."""

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import datasets, models
from seqjax.base import Batch, Layer
from seqjax.combinators import Source
from seqjax.datasets import END, START, Loader, Vocabulary
from seqjax.datasets.vocabulary_files import vocabulary_from_json, vocabulary_to_json
from seqjax.decode import beam_search
from seqjax.fields import SettingError
from seqjax.training.applications.common import (
    Definition,
    Examples,
    Kind,
    Learning,
    Trained,
    columns_of,
    encoded,
    entropy,
    in_batches,
    layers_of,
    number_of_batches,
    one_token,
    power_of_two,
    token_accuracy,
    train_vocabulary,
)
from seqjax.training.evaluation import evaluation
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
    short = [_short(vocabularies, part, recipe.length) for part in (train, held_out)]
    for name, part in zip(("training", "held-out"), short, strict=True):
        if not part.inputs:
            raise SettingError(
                "{length}: expected at least one {name} pair of at most {given} tokens, got none. Choose a larger one.",
                name=name,
                given=recipe.length,
            )
    left_out = len(train.inputs) - len(short[0].inputs)
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
        (
            f"{left_out} of {len(train.inputs)} pairs with more than {recipe.length} tokens are left out (--length).",
        )
        if left_out
        else (),
    )


def _short(vocabularies: tuple[Vocabulary, Vocabulary], examples: Examples, longest: int) -> Examples:
    """Return the pairs in which neither sentence has more tokens."""
    fits = [
        all(len(v.encode(text)) <= longest for v, text in zip(vocabularies, pair, strict=True))
        for pair in zip(*examples, strict=True)
    ]
    return Examples(*([text for text, fit in zip(texts, fits, strict=True) if fit] for texts in examples))


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
    result = [""] * len(sentences)
    for rows, xs, mask in in_batches(tokens, trained.recipe.batch_size):
        start = jnp.full((1, len(xs)), START, jnp.int32)
        carry = _condition(trained.model)(
            trained.params, start[0], Source(jnp.asarray(xs), jnp.asarray(mask))
        )
        limits = {"beam_size": beam_size, "max_length": 2 * xs.shape[1] + 10, "end_token": END}
        beams = beam_search(trained.model, trained.params, carry, start, **limits)  # type: ignore[arg-type]
        best = np.asarray(beams.tokens)[:, :, 0]
        for place, row in enumerate(rows):
            result[row] = target.decode(np.maximum(best[:, place], 0))
    return result


@functools.lru_cache(maxsize=8)
def _condition(model: Layer) -> Callable:
    def conditioned(params: Any, first: jax.Array, source: Source) -> Any:
        assert model.condition is not None
        return model.condition(params, model.initial_carry(params, first), source)

    return jax.jit(conditioned)


def _answer(trained: Trained, sentences: Sequence[str], beam_size: int) -> list[str]:
    return [line.replace("\n", " ") for line in translations(trained, sentences, beam_size)]


def _score(trained: Trained, examples: Examples, beam_size: int) -> dict[str, float]:
    """Return loss and accuracy per token, given the tokens before; and exact matches, BLEU and chrF of the beams."""
    found = teacher_forced_metrics(trained, _loader_of_all(trained, examples))
    made = translations(trained, examples.inputs, beam_size)
    same = [a.strip() == b.strip() for a, b in zip(made, examples.targets, strict=True)]
    return {**found, "exact": float(np.mean(same)), **bleu(made, examples.targets)}


def teacher_forced_metrics(trained: Trained, batches: Sequence[Batch]) -> dict[str, float]:
    """Return loss and token accuracy over batches."""
    evaluate = evaluation(
        trained.model,
        cross_entropy,
        lambda number: batches[number],
        len(batches),
        corpus_metrics=token_accuracy(),
    )
    return evaluate(trained)


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


def bleu(made: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return BLEU and chrF by sacrebleu, with its own tokens; nothing without that package."""
    try:
        import sacrebleu
    except ImportError:
        return {}
    return {
        "bleu": sacrebleu.corpus_bleu(list(made), [list(references)]).score,
        "chrf": sacrebleu.corpus_chrf(list(made), [list(references)]).score,
    }


TRANSLATION = Kind(_read, _define, _model, one_token, _learn, _answer, _score)
