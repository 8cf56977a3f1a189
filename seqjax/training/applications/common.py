"""What the kinds of applications share: examples, their parts, the cells of their models, and batches for use."""

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from seqjax import datasets
from seqjax.base import Batch, Cell, Layer
from seqjax.cells import REGISTRY, vector
from seqjax.datasets import UNKNOWN, Loader, Vocabulary
from seqjax.fields import SettingError
from seqjax.methods import named_method
from seqjax.names import known_name, parse_call
from seqjax.training.evaluation import CorpusMetrics
from seqjax.training.recipe import STACKS, Recipe, files_digest
from seqjax.user_model import is_own, own_layer

HELD_OUT = 0.1
"""The share of the examples that are held out."""

Definition = dict[str, Any]
"""What the training data add to a recipe, such as a vocabulary, as JSON: a trained model needs no training data."""


class Examples(NamedTuple):
    """Inputs and targets, N each: texts and labels, or sentences and translations."""

    inputs: list[str]
    targets: list[str]


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


class Kind(NamedTuple):
    """A kind of application.

    Attributes:
        read: ``recipe -> examples``.
        define: ``(recipe, training examples) -> definition``.
        model: ``(recipe, definition) -> model``.
        example: ``definition -> x``, shape and dtype of one step ``[B, ...]`` of the inputs.
        learn: ``(recipe, definition, training examples, held-out examples) -> Learning``.
        answer: ``(trained, inputs, beam_size) -> lines``, one per input.
        score: ``(trained, examples, beam_size) -> metrics``.
    """

    read: Callable[[Recipe], Examples]
    define: Callable[[Recipe, Examples], Definition]
    model: Callable[[Recipe, Definition], Layer]
    example: Callable[[Definition], Any]
    learn: Callable[[Recipe, Definition, Examples, Examples], Learning]
    answer: Callable[[Trained, Sequence[str], int], list[str]]
    score: Callable[[Trained, Examples, int], dict[str, float]]


def parts(examples: Examples, share: float = HELD_OUT) -> tuple[Examples, Examples]:
    """Return training examples and held-out ones, chosen by the hash of their inputs.

    Examples of one input are all in one part, and the choice does not depend on the order of the file.

    Raises:
        ValueError: for fewer than two different inputs.

    Example:
        >>> from seqjax.training.applications.common import Examples, parts
        >>> train, held_out = parts(Examples(list("abcdefghijabcdefghij"), list("0123456789" * 2)))
        >>> len(train.inputs), held_out
        (18, Examples(inputs=['j', 'j'], targets=['9', '9']))
    """
    order = sorted(set(examples.inputs), key=lambda text: hashlib.sha256(text.encode()).digest())
    if len(order) < 2:
        raise ValueError(
            f"expected at least two different inputs, one of which is held out, got {len(order)}. Use more data."
        )
    chosen = set(order[: max(round(share * len(order)), 1)])
    rows = list(zip(*examples, strict=True))
    train, held_out = (
        Examples(*map(list, zip(*(row for row in rows if (row[0] in chosen) is held), strict=True)))
        for held in (False, True)
    )
    return train, held_out


def columns_of(recipe: Recipe, default: tuple[str | int, str | int]) -> tuple[str | int, str | int]:
    """Return the two columns of a recipe; numbers are positions."""
    if recipe.columns is None:
        return default
    found = [part.strip() for part in recipe.columns.split(",")]
    if len(found) != 2 or not all(found):
        raise SettingError(
            "{columns}: expected two columns such as text,label, got {given!r}.", given=recipe.columns
        )
    first, second = (int(each) if each.isdecimal() else each for each in found)
    return first, second


def train_vocabulary(recipe: Recipe, texts: Sequence[str]) -> Vocabulary:
    """Return the vocabulary of a recipe, trained on texts."""
    size = recipe.vocabulary_size
    match recipe.vocabulary:
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
        return lambda width: own_layer(recipe.model, width, named_method(recipe.method)), recipe.depth
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


def files_of(recipe: Recipe) -> list[str]:
    """Return the files that hold the data of a recipe."""
    return [path for path in (recipe.data, recipe.target) if path is not None]


def check_unchanged(recipe: Recipe) -> None:
    """Raise a ValueError when the files of a recipe have changed since it was made."""
    files = files_of(recipe)
    if files_digest(files) != recipe.data_sha256:
        raise ValueError(
            f"{' or '.join(files)} has changed since the run was made: its SHA-256 differs. Restore the file."
        )


def entropy(counts: Any) -> float:
    """Return the entropy of frequencies in nats."""
    p = np.asarray(counts, float) / np.sum(counts)
    return float(-np.sum(p[p > 0] * np.log(p[p > 0])) + 0.0)


def number_of_batches(recipe: Recipe, loader: Loader) -> int:
    """Return the number of batches of an evaluation: those of a recipe, or fewer where the data have fewer."""
    return min(recipe.eval_batches, loader.steps_per_epoch or recipe.eval_batches)


def in_batches(
    sequences: Sequence[np.ndarray], batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield rows, and their sequences ``[B, T]`` with the mask, for a few shapes only.

    Sequences of about one length stand together. T is a power of two; a batch that is not full repeats its last row,
    which is not among the rows.
    """
    lengths = np.array([len(each) for each in sequences])
    order = np.argsort(lengths, kind="stable")
    for begin in range(0, len(sequences), batch_size):
        rows = order[begin : begin + batch_size]
        filled = np.pad(rows, (0, batch_size - len(rows)), mode="edge")
        yield rows, *datasets.pad([sequences[row] for row in filled], power_of_two(lengths[rows].max()))


def power_of_two(length: int) -> int:
    """Return the smallest power of two that is not smaller.

    Example:
        >>> from seqjax.training.applications.common import power_of_two
        >>> [power_of_two(length) for length in (1, 5, 8)]
        [1, 8, 8]
    """
    return 1 << (int(length) - 1).bit_length()


def outputs(trained: Trained, xs: Any, mask: Any) -> jax.Array:
    """Return the outputs ``[T, B, K]`` of a model for inputs ``[B, T]``."""
    return _unroll(trained.model)(trained.params, np.moveaxis(xs, 0, 1), np.moveaxis(mask, 0, 1))


@functools.lru_cache(maxsize=8)
def _unroll(model: Layer) -> Callable:
    return jax.jit(lambda params, xs, mask: model.unroll(params, None, xs, mask=mask)[1])


def token_accuracy(who: str = "token_accuracy") -> CorpusMetrics:
    """Return the share of tokens that a decoder predicts from the tokens before them."""

    def collect(params: Any, ys: Any, batch: Batch) -> Any:
        return (ys.argmax(-1) == batch.targets) & batch.mask, batch.mask

    def compute(found: list[Any]) -> dict[str, float]:
        right, count = (sum(int(part[i].sum()) for part in found) for i in (0, 1))
        return {who: right / max(count, 1)}

    return CorpusMetrics(compute, collect)
