"""Classes of texts: a table with a text and a label per row."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from seqjax import datasets, models
from seqjax.base import Batch, Layer
from seqjax.datasets.vocabulary_files import vocabulary_from_json, vocabulary_to_json
from seqjax.layers.pooling import last
from seqjax.training.applications.batches import in_batches, number_of_batches, outputs
from seqjax.training.applications.common import (
    Definition,
    Examples,
    Kind,
    Learning,
    Trained,
    columns_of,
    encoded,
    entropy,
    layers_of,
    one_token,
    train_vocabulary,
)
from seqjax.training.evaluation import CorpusMetrics
from seqjax.training.losses import cross_entropy, last_step
from seqjax.training.recipe import Recipe


def _read(recipe: Recipe) -> Examples:
    text, label = columns_of(recipe, ("text", "label"))
    found = datasets.read_labelled(recipe.data or "", text=text, label=label)
    return Examples(found.texts, [found.names[place] for place in found.labels])


def _define(recipe: Recipe, train: Examples) -> Definition:
    vocabulary = train_vocabulary(recipe, train.inputs)
    return {"vocabulary": vocabulary_to_json(vocabulary), "classes": sorted(set(train.targets))}


def _model(recipe: Recipe, definition: Definition) -> Layer:
    size = vocabulary_from_json(definition["vocabulary"]).size
    return models.sequence_classifier(len(definition["classes"]), vocabulary_size=size, **layers_of(recipe))


def _learn(recipe: Recipe, definition: Definition, train: Examples, held_out: Examples) -> Learning:
    vocabulary = vocabulary_from_json(definition["vocabulary"])
    loaders = [
        datasets.bucketed(
            encoded(vocabulary, part.inputs, recipe.length),
            _labels(definition, part),
            batch_size=recipe.batch_size,
            seed=recipe.seed,
        )
        for part in (train, held_out)
    ]
    longer = sum(len(vocabulary.encode(text)) > recipe.length for text in train.inputs)
    notes = (
        [f"{longer} of {len(train.inputs)} texts are cut to their first {recipe.length} tokens (--length)."]
        if longer
        else []
    )
    return Learning(
        last_step(cross_entropy),
        loaders[0],
        loaders[1],
        number_of_batches(recipe, loaders[1]),
        CorpusMetrics(_compute, _collect),
        entropy(list(Counter(held_out.targets).values())),
        tuple(notes),
    )


def _labels(definition: Definition, examples: Examples) -> np.ndarray:
    places = {name: place for place, name in enumerate(definition["classes"])}
    unknown = [each for each in examples.targets if each not in places]
    if unknown:
        raise ValueError(
            f"expected labels of the training data ({', '.join(list(places)[:8])}), got {unknown[0]!r}. Correct the "
            "label, or train with more data."
        )
    return np.array([places[each] for each in examples.targets], np.int32)


def _collect(params: Any, ys: Any, batch: Batch) -> Any:
    return last(ys, batch.mask).argmax(-1), batch.targets


def _compute(found: list[Any]) -> dict[str, float]:
    predicted, labels = (np.concatenate([part[i] for part in found]) for i in (0, 1))
    return {"accuracy": float(np.mean(predicted == labels)), "macro_f1": macro_f1(predicted, labels)}


def macro_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean F1 of all classes that occur in labels or predictions.

    Example:
        >>> import numpy as np
        >>> from seqjax.training.applications.classes import macro_f1
        >>> macro_f1(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]))  # the mean of 2/3 and 4/5
        0.7333333333333334
    """
    found = []
    for each in np.union1d(predicted, labels):
        right = np.sum((predicted == each) & (labels == each))
        found.append(2 * right / (np.sum(predicted == each) + np.sum(labels == each)))
    return float(np.mean(found))


def probabilities(trained: Trained, texts: Sequence[str]) -> np.ndarray:
    """Return the probability of each class for each text, ``[N, K]``."""
    vocabulary = vocabulary_from_json(trained.definition["vocabulary"])
    tokens = encoded(vocabulary, texts, trained.recipe.length)
    result = np.zeros((len(texts), len(trained.definition["classes"])))
    for rows, xs, mask in in_batches(tokens, trained.recipe.batch_size):
        logits = last(outputs(trained, xs, mask), mask.T)
        result[rows] = np.asarray(jax.nn.softmax(logits, -1))[: len(rows)]
    return result


def _answer(trained: Trained, texts: Sequence[str], beam_size: int) -> list[str]:
    found, names = probabilities(trained, texts), trained.definition["classes"]
    return [f"{names[row.argmax()]}\t{row.max():.4f}" for row in found]


def _score(trained: Trained, examples: Examples, beam_size: int) -> dict[str, float]:
    labels = _labels(trained.definition, examples)
    found = probabilities(trained, examples.inputs)
    losses = -np.log(np.maximum(found[np.arange(len(labels)), labels], 1e-38))
    return {"loss": float(losses.mean()), **_compute([(found.argmax(-1), labels)])}


CLASSES = Kind(_read, _define, _model, one_token, _learn, _answer, _score)
