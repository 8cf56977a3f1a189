"""What the kinds of applications share: examples, their parts, the cells of their models, and batches for use."""

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from seqjax import datasets
from seqjax.base import Cell, Layer
from seqjax.cells import REGISTRY, vector
from seqjax.datasets import UNKNOWN, Loader, Vocabulary
from seqjax.fields import SettingError
from seqjax.methods import named_method
from seqjax.names import known_name, parse_call
from seqjax.training.digests import files_digest
from seqjax.training.evaluation import CorpusMetrics
from seqjax.training.recipe import STACKS, USUAL_VOCABULARY, Recipe
from seqjax.user_model import is_own, own_layer

HELD_OUT = 0.1
"""The share of the examples that are held out."""

Definition = dict[str, Any]
"""What the training data add to a recipe, such as a vocabulary, as JSON: a trained model needs no training data."""


class Examples(NamedTuple):
    """Inputs and targets, N each: texts and labels, sentences and translations, files and what they say or show.

    Those of a forecast are the names of series, and their values.
    """

    inputs: list[str]
    targets: list[Any]

    def only(self, fits: Sequence[bool]) -> "Examples":
        """Return the examples that fit."""
        return Examples(
            *([each for each, fit in zip(part, fits, strict=True) if fit] for part in self)  # type: ignore[arg-type]
        )


class Learning(NamedTuple):
    """How a model learns from examples; the same names as those of a `seqjax.tasks.Task` have the same meaning.

    Attributes:
        objective: the loss.
        batches: training batches.
        held_out: batches of the evaluation, of which the first `number` are taken.
        corpus_metrics: metrics of the evaluation beside the loss.
        baseline: the loss of the frequencies of the targets, without the input, in nats.
        notes: what the user should know about the data, one line each.
    """

    objective: Callable
    batches: Loader
    held_out: Loader
    number: int
    corpus_metrics: CorpusMetrics
    baseline: float
    notes: tuple[str, ...] = ()
    score: None = None
    success: None = None


class Trained(NamedTuple):
    """The model of a run, with what its use needs."""

    recipe: Recipe
    definition: Definition
    model: Layer
    params: Any


def parts(
    examples: Examples, share: float = HELD_OUT, name: Callable[[str], str] = str
) -> tuple[Examples, Examples]:
    """Return training examples and held-out ones, chosen by the hash of the names of their inputs.

    Examples of one input are all in one part, and the choice does not depend on the order of the file.

    Raises:
        ValueError: for fewer than two different inputs.

    Example:
        >>> from seqjax.training.applications.common import Examples, parts
        >>> train, held_out = parts(Examples(list("abcdefghijabcdefghij"), list("0123456789" * 2)))
        >>> len(train.inputs), held_out
        (18, Examples(inputs=['j', 'j'], targets=['9', '9']))
    """
    order = sorted(set(examples.inputs), key=lambda text: hashlib.sha256(name(text).encode()).digest())
    if len(order) < 2:
        raise ValueError(
            f"expected at least two different inputs, one of which is held out, got {len(order)}. Use more data."
        )
    chosen = set(order[: max(round(share * len(order)), 1)])
    held = [each in chosen for each in examples.inputs]
    return examples.only([not each for each in held]), examples.only(held)


def by_hash(recipe: Recipe, examples: Examples) -> tuple[Examples, Examples]:
    """Return the `parts` of the examples of a recipe."""
    return parts(examples)


def files_of(recipe: Recipe) -> list[str]:
    """Return the files, or the folder and the file, that hold the data of a recipe."""
    return [path for path in (recipe.data, recipe.target) if path is not None]


def digest_of_files(recipe: Recipe) -> str:
    """Return the SHA-256 of the files of a recipe."""
    return files_digest(files_of(recipe))


class Kind(NamedTuple):
    """A kind of application.

    Attributes:
        read: ``recipe -> examples``.
        define: ``(recipe, training examples) -> definition``.
        model: ``(recipe, definition) -> model``.
        example: ``definition -> x``, shape and dtype of one step ``[B, ...]`` of the inputs.
        learn: ``(recipe, definition, training examples, held-out examples) -> Learning``.
        answer: ``(trained, inputs, beam_size) -> lines``. Inputs are lines of text, or files.
        score: ``(trained, examples, beam_size) -> metrics``.
        split: ``(recipe, examples) -> (training examples, held-out examples)``.
        digest: ``recipe -> SHA-256`` of all files that the examples are read from.
        suffixes: the ends of the names of files that are inputs; empty where inputs are lines of text.
    """

    read: Callable[[Recipe], Examples]
    define: Callable[[Recipe, Examples], Definition]
    model: Callable[[Recipe, Definition], Layer]
    example: Callable[[Definition], Any]
    learn: Callable[[Recipe, Definition, Examples, Examples], Learning]
    answer: Callable[[Trained, Sequence[str], int], list[str]]
    score: Callable[[Trained, Examples, int], dict[str, float]]
    split: Callable[[Recipe, Examples], tuple[Examples, Examples]] = by_hash
    digest: Callable[[Recipe], str] = digest_of_files
    suffixes: tuple[str, ...] = ()


def columns_of(recipe: Recipe, default: tuple[str | int, str | int]) -> tuple[str | int, str | int]:
    """Return the two columns of a recipe; numbers are positions."""
    if recipe.columns is None:
        return default
    found = listed(recipe.columns)
    if len(found) != 2:
        raise SettingError(
            "{columns}: expected two columns such as text,label, got {given!r}.", given=recipe.columns
        )
    return found[0], found[1]


def listed(columns: str) -> tuple[str | int, ...]:
    """Return columns from a text that separates them by commas; empty where a name is missing.

    Example:
        >>> from seqjax.training.applications.common import listed
        >>> listed("north, 2")
        ('north', 2)
    """
    found = [part.strip() for part in columns.split(",")]
    return tuple(int(each) if each.isdecimal() else each for each in found) if all(found) else ()


def train_vocabulary(recipe: Recipe, texts: Sequence[str]) -> Vocabulary:
    """Return the vocabulary of a recipe, trained on texts."""
    size = recipe.vocabulary_size
    match recipe.vocabulary or USUAL_VOCABULARY[recipe.task]:
        case "bytes":
            return datasets.Bytes()
        case "characters":
            return datasets.Characters.train(texts)
        case "subwords":
            try:
                return datasets.Subwords.train(texts, size=1000 if size is None else size)
            except ValueError as error:
                raise SettingError("{vocabulary_size}: {text}", text=error) from None
    try:
        return datasets.Words.train(texts, size=size)
    except ValueError as error:
        raise SettingError("{vocabulary_size}: {text}", text=error) from None


def encoded(vocabulary: Vocabulary, texts: Sequence[str], longest: int) -> list[np.ndarray]:
    """Return the first tokens of texts, at most `longest`; a text without tokens is one unknown token."""
    found = (vocabulary.encode(text)[:longest] for text in texts)
    return [tokens if len(tokens) else np.array([UNKNOWN], np.int32) for tokens in found]


def cell_of(recipe: Recipe) -> tuple[Callable[[int], Cell | Layer], int]:
    """Return the factory ``hidden_size -> Cell or Layer`` of a recipe's model, and how many layers are made by it."""
    if recipe.model in STACKS:
        stack = STACKS[recipe.model]
        return lambda width: stack(width, recipe.depth, num_heads=recipe.heads), 1
    if is_own(recipe.model):
        options = {"method": named_method(recipe.method), "seed": recipe.seed}
        return lambda width: own_layer(recipe.model, width, **options), recipe.depth
    try:
        name, args, keywords = parse_call(recipe.model)
        known_name(name, [*(each for each, entry in REGISTRY.items() if entry.example is vector), *STACKS])
        if args or name in STACKS:
            raise ValueError(f"expected options by name, such as lru(r_min=0.9), got {recipe.model}.")
    except ValueError as error:
        raise SettingError("{model}: {text}", text=error) from None
    return functools.partial(REGISTRY[name].make, **keywords), recipe.depth


def layers_of(recipe: Recipe) -> dict[str, Any]:
    """Return the arguments of a model of `seqjax.models` that a recipe sets: two layers or more are residual."""
    cell, layers = cell_of(recipe)
    deep = {"norm": "rms", "residual": True} if layers > 1 else {}
    return {
        "cell": cell,
        "hidden_size": recipe.hidden_size,
        "num_layers": layers,
        "dropout": recipe.dropout,
        **deep,
    }


def one_token(definition: Definition) -> jax.ShapeDtypeStruct:
    """Return shape and dtype of one token of one row."""
    return jax.ShapeDtypeStruct((1,), np.int32)


def check_unchanged(recipe: Recipe, digest: Callable[[Recipe], str]) -> None:
    """Raise a ValueError when the files of a recipe have changed since it was made."""
    if digest(recipe) != recipe.data_sha256:
        raise ValueError(
            f"{' or '.join(files_of(recipe))} has changed since the run was made: its SHA-256 differs. Restore it."
        )


def fitting(
    recipe: Recipe, part: Examples, fits: Sequence[bool], what: str, limit: str
) -> tuple[Examples, str]:
    """Return the examples that fit, and a line about those that are left out, which is empty where all fit.

    Args:
        recipe: the recipe.
        part: the training examples, or the held-out ones.
        fits: whether each example fits.
        what: what the examples are, in the plural.
        limit: what the examples that do not fit have.

    Raises:
        SettingError: when none fits.
    """
    if not any(fits):
        raise SettingError(
            "{length}: expected at least one of {count} {what} to fit, but all are {limit}. Choose a larger {length}.",
            count=len(fits),
            what=what,
            limit=limit,
        )
    left_out = len(fits) - sum(fits)
    note = f"{left_out} of {len(fits)} {what} are left out: they are {limit} (--length)." if left_out else ""
    return part.only(fits), note


def entropy(counts: Any) -> float:
    """Return the entropy of frequencies in nats."""
    p = np.asarray(counts, float) / np.sum(counts)
    return float(-np.sum(p[p > 0] * np.log(p[p > 0])) + 0.0)
