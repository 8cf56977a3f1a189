"""Pictures of emoji and their names: two splits that do not leak, a model with and without attention, a baseline.

Names are lower case and without marks except hyphens; a word is what stands between spaces. In the split "tone" the
test pictures show persons whose other skin tones are in the training part. In the split "pair" they show 40 pairs of
profession and gender of which the training part has no picture.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import seqjax as sj
from benchmarks.applications.application import Bar, Trained
from benchmarks.applications.training import fit_best
from seqjax.datasets import END, START, Loader, Words, bucketed, sources, teacher_forced
from seqjax.datasets.sources.emoji import TONE
from seqjax.probes import bind, gradient_profile, total_log_norm
from seqjax.training import cross_entropy, evaluation, last_step

HIDDEN, BATCH, STEPS, DROPOUT, RATE = 96, 64, 2500, 0.3, 2e-3
SHIFT = 2
"""Pixels by which training pictures are moved at most."""
LONGEST = 12
"""Words of a caption, at most."""
DECODERS: dict[str, dict[str, Any]] = {
    "attention": {"attention": sj.additive_attention(HIDDEN)},
    "no attention": {"attention": None},
    "attention, gru": {"attention": sj.additive_attention(HIDDEN), "cell": sj.gru},
}
VARIANTS: dict[str, dict[str, Any]] = {
    f"{name}, {split}s": {"split": split, **options}
    for split in ("tone", "pair")
    for name, options in DECODERS.items()
}
BARS = (
    Bar("BLEU", "attention, tones", at_least=55),
    Bar("exact match", "attention, tones", at_least=0.3),
    Bar("BLEU", "attention, pairs", at_least=15, over="no attention, pairs"),
    Bar("BLEU", "attention, pairs", at_least=0, over="nearest picture, pairs"),
)
TUNING = (
    "One setting of the model, from an earlier trial with another choice of test pictures; none per variant. The "
    "baseline has no settings."
)


class Pictures(NamedTuple):
    """Images ``[N, 32, 32, 3]`` uint8 and their captions, as words of the vocabulary."""

    images: np.ndarray
    captions: list[str]


class Data(NamedTuple):
    """The three parts, and the words of the first."""

    train: Pictures
    validation: Pictures
    test: Pictures
    words: Words


def plain(caption: str) -> str:
    """Return a caption in lower case, with hyphens as underscores, which belong to words, and no other marks.

    Example:
        >>> from benchmarks.applications.captioning import plain
        >>> plain("A.B. button: medium-light")
        'ab button medium_light'
    """
    return re.sub(r"[^\w\s]", "", caption.lower().replace("-", "_"))


@functools.cache
def data(split: str, toy: bool = False) -> Data:
    """Return the pictures of a split, "tone" or "pair"; at toy size 640 for training and 32 for each test."""
    sizes = (640, 32, 32) if toy else (None, None, None)
    parts = []
    for part, size in zip(sources.emoji(split), sizes, strict=True):
        chosen = np.random.default_rng(0).permutation(len(part.captions))[:size]
        parts.append(Pictures(part.images[chosen], [plain(part.captions[i]) for i in chosen]))
    train, validation, test = parts
    return Data(train, validation, test, Words.train(train.captions))


def batches(
    pictures: Pictures, words: Words, *, batch_size: int = BATCH, num_buckets: int = 1, seed: int = 0
) -> Loader:
    """Return batches of START and the words, the words and END, and the images as the context."""
    inputs, targets = teacher_forced([words.encode(caption) for caption in pictures.captions])
    sizes: dict[str, Any] = {"batch_size": batch_size, "num_buckets": num_buckets, "seed": seed}
    return bucketed(inputs, targets, context=pictures.images, **sizes)


def shifted(loader: Loader, seed: int) -> Callable[[int], sj.Batch]:
    """Return batches whose images are moved by up to `SHIFT` pixels; the edges of the pictures are white."""

    def batch(step: int) -> sj.Batch:
        found = loader(step)
        by = np.random.default_rng([seed, step]).integers(-SHIFT, SHIFT + 1, 2)
        return found._replace(context=np.roll(found.context, tuple(by), (1, 2)))

    return batch


def captioner(found: Data, **options: Any) -> sj.Layer:
    """Return the model of a variant."""
    options = {"hidden_size": HIDDEN, "dropout": DROPOUT} | options
    return sj.models.captioner(found.words.size, **options)


def writer(model: sj.Layer, found: Data) -> Callable[[Any, np.ndarray], list[str]]:
    """Return ``(params, images) -> captions``, the most probable word after word."""
    condition: Any = model.condition  # that of an encoder_decoder

    @jax.jit
    def write(params: Any, images: jax.Array) -> jax.Array:
        start = jnp.full((1, len(images)), START)
        carry = condition(params, model.initial_carry(params, start[0]), sj.Source(images))
        return sj.generate(model, params, carry, start, max_length=LONGEST, end_token=END).tokens

    def captions(params: Any, images: np.ndarray) -> list[str]:
        texts: list[str] = []
        for first in range(0, len(images), BATCH):
            rows = np.arange(first, first + BATCH) % len(images)
            texts += [found.words.decode(column) for column in np.asarray(write(params, images[rows])).T]
        return texts[: len(images)]

    return captions


def scores(captions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return BLEU from 0 to 100 by sacrebleu, and shares of captions that are right: as a whole, and without the tone.

    References:
        Papineni et al. 2002, "BLEU: a method for automatic evaluation of machine translation".
    """
    import sacrebleu

    bleu = sacrebleu.corpus_bleu(list(captions), [list(references)], tokenize="none", force=True)
    right = [a == b for a, b in zip(captions, references, strict=True)]
    without = [toneless(a) == toneless(b) for a, b in zip(captions, references, strict=True)]
    shares = {"exact match": float(np.mean(right)), "exact without tone": float(np.mean(without))}
    return {"BLEU": bleu.score} | shares | slots(captions, references)


def toneless(caption: str) -> str:
    """Return a caption without the words of a skin tone."""
    return TONE.sub("", caption.replace("_", "-")).strip()


def slots(captions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return the shares of captions whose profession, gender and skin tone are right, each by itself."""
    pairs = [
        [sources.kind_of(text.replace("_", "-")) for text in pair]
        for pair in zip(captions, references, strict=True)
    ]
    fields = ("profession", "gender", "tone")
    return {f: float(np.mean([getattr(a, f) == getattr(b, f) for a, b in pairs])) for f in fields}


LAST_WORD = last_step(cross_entropy)
measure = jax.jit(gradient_profile, static_argnames=("loss", "extended_range"))


def reach(model: sj.Layer, params: Any, batch: sj.Batch) -> list[float]:
    """Return the log norm of the gradient of the last word by the carry of the decoder, by distance from the end.

    The mean is over the longer half of the captions. Entry 0 is the carry that enters the last step.
    """
    lengths = np.asarray(batch.mask).sum(0)
    last = batch._replace(targets=np.asarray(batch.targets)[lengths - 1, np.arange(len(lengths))])
    profile = measure(bind(model, params), LAST_WORD, last, extended_range=False)
    norms = np.array(total_log_norm(profile.log_norm))
    steps = int(np.median(lengths))
    rows = [norms[n - steps : n, row][::-1] for row, n in enumerate(lengths) if n >= steps]
    return [float(value) for value in np.mean(rows, 0)]


def train(variant: str, *, seed: int, toy: bool = False) -> Trained:
    """Train one variant, and caption the validation and the test part."""
    options: Mapping[str, Any] = dict(VARIANTS[variant])
    found, num_steps = data(options["split"], toy), 40 if toy else STEPS
    model = captioner(found, **{name: value for name, value in options.items() if name != "split"})
    held_out = batches(found.validation, found.words, batch_size=min(BATCH, len(found.validation.captions)))
    rates = optax.cosine_decay_schedule(RATE, num_steps, 0.05)
    best = fit_best(
        model,
        cross_entropy,
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rates, weight_decay=1e-4)),
        shifted(batches(found.train, found.words, num_buckets=1 if toy else 2, seed=seed), seed),
        evaluation(model, cross_entropy, held_out, held_out.steps_per_epoch or 1),
        num_steps=num_steps,
        eval_every=max(num_steps // 20, 1),
        seed=seed,
    )
    write = writer(model, found)
    metrics = {
        name: scores(write(best.params, pictures.images), pictures.captions)
        for name, pictures in (("validation", found.validation), ("test", found.test))
    }
    extra = {"reach": reach(model, best.params, held_out(0))}
    return Trained(model, metrics=metrics, extra=extra, **best._asdict())


def nearest(train: Pictures, images: np.ndarray) -> np.ndarray:
    """Return the numbers of the training pictures whose pixels have the smallest Euclidean distance."""
    known, asked = (each.reshape(len(each), -1).astype(np.float32) / 255 for each in (train.images, images))
    return ((known**2).sum(1) - 2 * asked @ known.T).argmin(1)


def baselines(toy: bool = False) -> dict[str, dict[str, float]]:
    """Return the scores of the caption of the nearest training picture, on the test part of both splits."""
    result = {}
    for split in ("tone", "pair"):
        found = data(split, toy)
        copied = [found.train.captions[i] for i in nearest(found.train, found.test.images)]
        result[f"nearest picture, {split}s"] = scores(copied, found.test.captions)
    return result
