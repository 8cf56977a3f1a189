"""Digits by a synthesizer in many voices, digits of real speakers, and the Japanese vowels of nine speakers.

The data are in `recordings`. The classes of a recognizer are the blank and ten words for each of its languages. Which
language is spoken is known, as it is for the templates of the baseline.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import seqjax as sj
from benchmarks.applications import speakers
from benchmarks.applications.application import Bar, Trained
from benchmarks.applications.recordings import (
    ENGLISH,
    LANGUAGES,
    Data,
    Utterances,
    data,
    steps_of,
    warped,
    warped_digits,
)
from benchmarks.applications.training import fit_best
from seqjax.datasets import Loader, bucketed, pad
from seqjax.datasets.sources.voices import base_voice
from seqjax.probes import bind, gradient_profile, total_log_norm
from seqjax.training import CorpusMetrics, ctc_loss, evaluation
from seqjax.training.applications.edits import error_rate as word_error_rate

HIDDEN, LAYERS, DROPOUT, BATCH, LEARNING_RATE = 128, 2, 0.2, 32, 3e-3
STEPS = {1: 2000, 5: 4000}
VARIANTS: dict[str, dict[str, Any]] = {
    "English": {"languages": ENGLISH},
    "English, gru": {"languages": ENGLISH, "cell": sj.gru},
    "English, features as they are": {"languages": ENGLISH, "normalize": False},
    "five languages": {"languages": LANGUAGES},
    "five languages, gru": {"languages": LANGUAGES, "cell": sj.gru},
    "vowels": {},
    "vowels, gru": {"cell": sj.gru},
}
BARS = (
    Bar("word error rate", "English", at_most=0.05),
    Bar("real digits of 50", "five languages", at_least=42),
    Bar("real digits of 50", "five languages", at_least=0, over="time warping, five languages"),
    Bar("accuracy", "vowels", at_least=0, over="time warping, vowels"),
)
TUNING = (
    "One setting of the recognizers, from an earlier trial in English, and one of the classifier; none per variant and "
    "none by real recordings. Of eight front ends of time warping the best on the real digits is taken, to its favor."
)


def batches(
    said: Utterances, *, copies: int = 0, normalize: bool = True, num_buckets: int = 1, seed: int = 0
) -> Loader:
    """Return batches of utterances and of so many `warped` copies of each."""
    rng = np.random.default_rng(seed)
    frames = [*said.frames, *(warped(f, rng) for _ in range(copies) for f in said.frames)]
    xs = steps_of(frames, normalize=normalize)
    words = said.words * (copies + 1)
    return bucketed(
        xs, words, batch_size=min(BATCH, len(xs)), num_buckets=num_buckets, seed=seed, per_step=False
    )


def recognizer(languages: Sequence[str], cell: Any = sj.lstm) -> sj.Layer:
    """Return the model of a variant."""
    options: dict[str, Any] = {"hidden_size": HIDDEN, "num_layers": LAYERS, "dropout": DROPOUT}
    return sj.models.ctc_recognizer(1 + 10 * len(languages), cell, **options)


def listener(
    model: sj.Layer, *, normalize: bool = True, languages: Sequence[str] = ENGLISH
) -> Callable[..., list[np.ndarray]]:
    """Return ``(params, utterances, single=False) -> words of each``.

    The words are those of the best path, among the words of the language that is spoken. With `single` an utterance has
    one word: the one with the smallest CTC loss.
    """
    words = 1 + np.arange(10 * len(languages)).reshape(-1, 10)

    @functools.partial(jax.jit, static_argnames="single")
    def listen(params: Any, xs: jax.Array, mask: jax.Array, own: jax.Array, single: bool) -> jax.Array:
        logits = model.unroll(params, model.initial_carry(params, xs[0]), xs, mask=mask)[1]
        allowed = (jnp.arange(logits.shape[-1])[:, None] == own[:, None]).any(-1).at[:, 0].set(True)
        logits = jnp.where(allowed, logits, -1e9)
        if not single:
            return sj.best_path(logits, mask)
        losses = jax.vmap(lambda labels: ctc_loss(logits, labels[:, None], mask), 1)(own)  # [10, B]
        return jnp.take_along_axis(own, losses.argmin(0)[:, None], 1)

    def heard(params: Any, said: Utterances, single: bool = False) -> list[np.ndarray]:
        xs = steps_of(said.frames, normalize=normalize)
        own = words[[list(languages).index(language) for language in said.languages]]
        longest, found = max(map(len, xs)), []
        for first in range(0, len(xs), BATCH):
            rows = np.arange(first, first + BATCH) % len(xs)
            values, mask = pad([xs[i] for i in rows], longest)
            labels = listen(params, np.moveaxis(values, 0, 1), mask.T, own[rows], single)
            found += [row[row >= 0] for row in np.asarray(labels)]
        return found[: len(xs)]

    return heard


def by_voice(heard: Sequence[Any], said: Utterances) -> dict[str, float]:
    """Return the word error rate of each base voice, from the best to the worst."""
    groups: dict[str, list[int]] = {}
    for number, voice in enumerate(said.voices):
        groups.setdefault(base_voice(voice), []).append(number)
    rates = {
        voice: word_error_rate([heard[i] for i in group], [said.words[i] for i in group])
        for voice, group in groups.items()
    }
    return dict(sorted(rates.items(), key=lambda item: item[1]))


def _errors(parts: Sequence[Any]) -> dict[str, float]:
    """Return the word error rate of an evaluation, for `CorpusMetrics`."""
    heard, said = ([row[row >= 0] for part in parts for row in part[i]] for i in (0, 1))
    return {"word error rate": word_error_rate(heard, said)}


ERRORS = CorpusMetrics(_errors, lambda params, ys, batch: (sj.best_path(ys, batch.mask), batch.targets))


measure = jax.jit(gradient_profile, static_argnames=("loss", "extended_range"))


def reach(model: sj.Layer, params: Any, batch: sj.Batch) -> list[float]:
    """Return the log norm of the gradient of one step's logit by the carries, for each step of the batch.

    The logit is the largest one of the step in the middle; the mean is over utterances that are as long.
    """
    profile = measure(bind(model, params), _middle_logit, batch._replace(targets=None), extended_range=False)
    norms = np.array(total_log_norm(profile.log_norm))
    return [float(value) for value in norms[:, np.asarray(batch.mask).all(0)].mean(1)]


def _middle_logit(ys: jax.Array, targets: Any, mask: Any) -> jax.Array:
    """Return one loss per sequence, ``[B]``."""
    return ys[len(ys) // 2].max(-1)


def train(variant: str, *, seed: int, toy: bool = False) -> Trained:
    """Train one variant; listen to held-out voices and to real speakers."""
    options: Mapping[str, Any] = dict(VARIANTS[variant])
    if "languages" not in options:
        return speakers.train(seed=seed, toy=toy, **options)
    languages, normalize = options["languages"], options.get("normalize", True)
    found, num_steps = data(languages, toy), 30 if toy else STEPS[len(languages)]
    model = recognizer(languages, options.get("cell", sj.lstm))
    rates = optax.cosine_decay_schedule(LEARNING_RATE, num_steps, 0.02)
    held_out = batches(found.validation, normalize=normalize)
    best = fit_best(
        model,
        ctc_loss,
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rates)),
        batches(
            found.train,
            copies=0 if toy else 3,
            normalize=normalize,
            num_buckets=1 if toy else 4,
            seed=seed,
        ),
        evaluation(model, ctc_loss, held_out, held_out.steps_per_epoch or 1, corpus_metrics=ERRORS),
        num_steps=num_steps,
        eval_every=max(num_steps // 10, 1),
        seed=seed,
        metric="word error rate",
    )
    hear = listener(model, normalize=normalize, languages=languages)
    metrics, extra = measured(functools.partial(hear, best.params), found, single=len(languages) > 1)
    extra["reach"] = reach(model, best.params, held_out(0))
    return Trained(model, metrics=metrics, extra=extra, **best._asdict())


def measured(
    hear: Callable[..., list[np.ndarray]], found: Data, *, single: bool
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Return the metrics of validation and test part, and errors by voice and by real speaker."""
    metrics: dict[str, dict[str, float]] = {}
    voices: dict[str, float] = {}
    for name, part in (("validation", found.validation), ("test", found.test)):
        heard = hear(part)
        voices = by_voice(heard, part)
        metrics[name] = {
            "word error rate": word_error_rate(heard, part.words),
            "worst voice": max(voices.values()),
        }
    real = hear(found.real_strings)
    metrics["test"]["real strings"] = word_error_rate(real, found.real_strings.words)
    right = [bool(a[0] == b[0]) for a, b in zip(hear(found.real, single=True), found.real.words, strict=True)]
    if single:
        metrics["test"]["real digits of 50"] = float(sum(right))
    speakers_right = {
        language: sum(r for r, of in zip(right, found.real.languages, strict=True) if of == language)
        for language in dict.fromkeys(found.real.languages)
    }
    return metrics, {"voices": voices, "real digits": speakers_right}


def baselines(toy: bool = False) -> dict[str, dict[str, float]]:
    """Return how many real digits, and which share of the vowels, the nearest template by time warping gets right."""
    right = warped_digits(languages=LANGUAGES[:1] if toy else LANGUAGES, toy=toy)
    name = "time warping, English" if toy else "time warping, five languages"
    return {
        name: {"real digits of 50": float(sum(right))},
        "time warping, vowels": {"accuracy": speakers.warped(toy)},
    }
