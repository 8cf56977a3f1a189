"""Language: the next token of a text. Training, scoring a file, and sampling."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import datasets
from seqjax.base import Batch, Layer
from seqjax.datasets import UNKNOWN
from seqjax.datasets.vocabulary_files import vocabulary_from_json, vocabulary_to_json
from seqjax.decode import categorical, generate
from seqjax.fields import SettingError
from seqjax.tasks import Task
from seqjax.tasks.text import text_task
from seqjax.training.applications.common import (
    Definition,
    Trained,
    check_unchanged,
    digest_of_files,
    train_vocabulary,
)
from seqjax.training.losses import cross_entropy
from seqjax.training.recipe import Recipe
from seqjax.training.recipe_model import model_of


class Language(NamedTuple):
    """A text as a task, its batches, and its definition, which is None for bytes."""

    task: Task
    batches: Callable[[int], Batch]
    held_out: Callable[[int], Batch]
    definition: Definition | None


def prepare_language(recipe: Recipe) -> Language:
    """Return the task and the batches of a text; its last tenth is held out.

    Raises:
        ValueError: for a file that cannot be used, that has changed, or that is too short.
        FileNotFoundError: when the file is gone.
    """
    train, rest, definition = _tokens(recipe)
    size, length = recipe.batch_size, recipe.length
    xs, targets = (np.asarray(a) for a in datasets.held_out_windows(rest, size * recipe.eval_batches, length))
    if recipe.estimator == "truncated":
        batches: Any = datasets.streams(
            train, batch_size=size, length=length, restart=1 / 16, seed=recipe.seed
        )
    else:
        batches = datasets.windows(train, batch_size=size, length=length, seed=recipe.seed)

    def held_out(number: int) -> Batch:
        part = slice(number * size, (number + 1) * size)
        return Batch(xs[:, part], targets[:, part])

    return Language(text_task(train, rest, length, size_of(definition)), batches, held_out, definition)


def _tokens(recipe: Recipe) -> tuple[np.ndarray, np.ndarray, Definition | None]:
    """Return the tokens of the training part and of the held-out part, and the definition."""
    if recipe.data is not None:
        check_unchanged(recipe, digest_of_files)
    if recipe.vocabulary is None:
        text = datasets.moby_dick() if recipe.data is None else datasets.read_text(recipe.data)
        _check_long(recipe, len(text), "bytes")
        train, rest = (np.asarray(part) for part in datasets.split(text))
        return train, rest, None
    parts = _texts(recipe)
    vocabulary = train_vocabulary(recipe, [parts[0]])
    train, rest = (vocabulary.encode(part) for part in parts)
    _check_long(recipe, min(len(train), 10 * len(rest)), "tokens")
    return train, rest, {"vocabulary": vocabulary_to_json(vocabulary)}


def _texts(recipe: Recipe) -> tuple[str, str]:
    """Return the training part and the held-out part of a text."""
    whole = bytes(datasets.moby_dick()).decode() if recipe.data is None else datasets.read_string(recipe.data)
    cut = len(whole) - max(round(len(whole) / 10), 1)
    return whole[:cut], whole[cut:]


def held_out_text(recipe: Recipe) -> str:
    """Return the held-out part of the text of a recipe; bytes that are no UTF-8 are surrogates.

    Raises:
        ValueError: when the file has changed.
        FileNotFoundError: when the file is gone.
    """
    if recipe.vocabulary is None:
        return bytes(_tokens(recipe)[1].astype(np.uint8)).decode("utf-8", "surrogateescape")
    if recipe.data is not None:
        check_unchanged(recipe, digest_of_files)
    return _texts(recipe)[1]


def _check_long(recipe: Recipe, count: int, unit: str) -> None:
    least = 10 * (recipe.length + 1)
    if count < least:
        raise SettingError(
            "{source}: expected at least {least} {unit} for {length} {steps} (a tenth is held out), got {got}. "
            "Use a longer file or a shorter length.",
            source=recipe.data or "text",
            least=least,
            unit=unit,
            steps=recipe.length,
            got=count,
        )


def size_of(definition: Definition | None) -> int:
    """Return the number of tokens: 256 bytes without a definition."""
    return 256 if definition is None else vocabulary_from_json(definition["vocabulary"]).size


def language_model_of(recipe: Recipe, definition: Definition | None) -> Layer:
    """Return the model of a recipe without its data."""
    nothing = np.zeros(1, np.int32)
    return model_of(recipe, text_task(nothing, nothing, recipe.length, size_of(definition)))


def _encode(definition: Definition | None, text: str) -> np.ndarray:
    if definition is None:
        return np.frombuffer(text.encode("utf-8", errors="surrogateescape"), np.uint8).astype(np.int32)
    return vocabulary_from_json(definition["vocabulary"]).encode(text)


def _decode(definition: Definition | None, tokens: np.ndarray) -> str:
    if definition is None:
        return bytes(tokens.astype(np.uint8)).decode("utf-8", errors="replace")
    return vocabulary_from_json(definition["vocabulary"]).decode(tokens)


def sample(trained: Trained, prompt: str, *, tokens: int, temperature: float, top_p: float, seed: int) -> str:
    """Return the continuation of a prompt; an empty prompt is a line end, or an unknown token.

    Raises:
        ValueError: for a number out of range, or more tokens than the model can read.
    """
    definition = trained.definition or None
    first = _encode(definition, prompt)
    if not len(first):
        first = np.array([10 if definition is None else UNKNOWN], np.int32)
    made = generate(
        trained.model,
        trained.params,
        None,
        jnp.asarray(first)[:, None],
        max_length=tokens,
        sampler=categorical(temperature=temperature, top_p=top_p),
        key=jax.random.key(seed),
    )
    found = np.asarray(made.tokens)[:, 0]
    return _decode(definition, found[found >= (0 if definition is None else UNKNOWN)])


def score_text(trained: Trained, text: str) -> dict[str, float]:
    """Return the loss per token in nats, bits per token and per byte, and the accuracy, of the next tokens of a text.

    The text is cut into sequences of the recipe's length. A model that was trained on streams carries its state from
    one to the next; other models begin each of them with the initial carry, as in training.

    Raises:
        ValueError: for a text of less than two tokens.
    """
    tokens = _encode(trained.definition or None, text)
    if len(tokens) < 2:
        raise ValueError(f"expected a text of at least two tokens, got {len(tokens)}.")
    flows = trained.recipe.estimator == "truncated"
    length, size = trained.recipe.length, 1 if flows else trained.recipe.batch_size
    pairs = np.stack([tokens[:-1], tokens[1:]])
    count = pairs.shape[1]
    rows = -(-count // (length * size)) * size
    padded = np.zeros((2, rows * length), np.int32)
    padded[:, :count] = pairs
    xs, targets = padded.reshape(2, rows, length)
    mask = (np.arange(rows * length) < count).reshape(rows, length)
    carry, total, right = None, 0.0, 0
    for begin in range(0, rows, size):
        part = slice(begin, begin + size)
        carry, loss, hits = _chunk(trained.model)(
            trained.params, carry if flows else None, xs[part].T, targets[part].T, mask[part].T
        )
        total, right = total + float(loss), right + int(hits)
    bits = total / np.log(2)
    return {
        "loss": total / count,
        "bits_per_token": bits / count,
        "bits_per_byte": bits / len(text.encode("utf-8", errors="surrogateescape")),
        "accuracy": right / count,
    }


@functools.lru_cache(maxsize=8)
def _chunk(model: Layer) -> Callable:
    @jax.jit
    def chunk(params: Any, carry: Any, xs: Any, targets: Any, mask: Any) -> Any:
        carry = model.initial_carry(params, xs[0]) if carry is None else carry
        carry, ys = model.unroll(params, carry, xs, mask=mask)
        losses = jnp.where(mask, cross_entropy(ys, targets), 0)
        return carry, losses.sum(), jnp.sum((ys.argmax(-1) == targets) & mask)

    return chunk
