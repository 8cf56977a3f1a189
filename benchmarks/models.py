"""Compare a training step of whole models with the same models in flax and PyTorch: tokens per second and memory."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import seqjax as sj
from benchmarks import flax_models, layers
from benchmarks.griffin_weights import Sizes, named
from benchmarks.results import Case, Group, Measured, Table, measured
from benchmarks.timing import Arm, check, compile_timed, interleave, on_device, paired_ratio, summary
from benchmarks.torch_layer import LEARNING_RATE
from seqjax.training import init_train_state, make_train_step

TITLE = "Training steps of whole models against other libraries"
ABOUT = """\
A step of training with Adam on the mean cross-entropy of the next byte, in float32: three LSTM layers with an
embedding and a head, and a Griffin-like hybrid (two recurrent blocks with RG-LRU and short convolutions, one of local
attention with a single head of keys and values). All arms begin with the same weights, which are copied from seqjax,
and every round has fresh bytes. Before the benchmark measures times, it checks that the losses of three steps equal
those of seqjax in every arm; the column "error" is the largest relative deviation. seqjax runs `make_train_step`,
with its guard against non-finite steps. flax.linen and PyTorch are written as a user would write them; on a CPU the
RG-LRU of flax is a `lax.scan`, that of PyTorch a loop over the steps, as in the published code. PyTorch runs eagerly.
Memory is what a step takes beyond params, optimizer state and batch. Time relative to seqjax is the median over
paired rounds with a 95% bootstrap interval; above 1, seqjax is faster. Measure on an idle machine."""
VOCABULARY, DEPTH, NUM_HEADS, GATED_STEPS = 256, 3, 4, 3
SIZES = (32, 256, 256)  # B, T, H: some seconds per round on two cores
# Means of 8,192 losses in another order, after three updates; a wrong gate, sign or scale changes them by a hundredth.
TOLERANCE = 1e-4
SEQJAX, FLAX, TORCH = "seqjax", "flax", "torch"
losses_of = optax.softmax_cross_entropy_with_integer_labels


def lstm(hidden_size: int, length: int) -> tuple[sj.Layer, dict[str, Callable]]:
    """Return the model, and by library a function from its params to the model there."""
    stack = sj.serial(*[sj.recurrent(sj.lstm(hidden_size))] * DEPTH)

    def parts(params: Any) -> Any:
        (embedding,), (inner,), head = params
        return (stack, tuple(cell for (cell,) in inner)), embedding, head

    def in_flax(params: Any) -> Any:
        exported, *rest = parts(params)
        return flax_models.lstm(*sj.interop.to_flax(*exported), *rest)

    def in_torch(params: Any) -> Any:
        from benchmarks import torch_models

        exported, *rest = parts(params)
        return torch_models.ByteLSTM(sj.interop.to_torch(*exported), *rest)

    model = sj.models.language_model(VOCABULARY, sj.lstm, hidden_size=hidden_size, num_layers=DEPTH)
    return model, {FLAX: in_flax, TORCH: in_torch}


def griffin(hidden_size: int, length: int) -> tuple[sj.Layer, dict[str, Callable]]:
    """Return the model, and by library a function from its params to the model there; the window is half of T."""
    sizes = Sizes(VOCABULARY, hidden_size, DEPTH, NUM_HEADS, max(1, length // 2))

    def in_torch(params: Any) -> Any:
        from benchmarks import torch_models

        return torch_models.griffin(sizes, named(params, DEPTH))

    cell = partial(sj.griffin, depth=DEPTH, num_heads=NUM_HEADS, window=sizes.window)
    model = sj.models.language_model(VOCABULARY, cell, hidden_size=hidden_size)
    return model, {FLAX: lambda params: flax_models.griffin(sizes, named(params, DEPTH)), TORCH: in_torch}


MODELS: dict[str, Callable] = {"lstm": lstm, "griffin": griffin}
TITLES = {"lstm": "Three LSTM layers on bytes", "griffin": "A Griffin-like hybrid on bytes"}


def seqjax_arm(model: sj.Layer, params: Any, inputs: Sequence[np.ndarray]) -> Arm:
    """Return the arm of `make_train_step`; each call continues from the last, in place."""
    adam = optax.adam(LEARNING_RATE)
    step = make_train_step(model, losses_of, adam)
    state = init_train_state(model, adam, jax.random.key(0), inputs[0][0])
    state = state._replace(params=jax.tree.map(jnp.copy, params), key=None)
    start = time.perf_counter()
    program = step.lower(state, sj.Batch(*inputs)).compile()
    seconds = time.perf_counter() - start
    held = [state]

    def run(inputs: Any) -> Any:
        held[0], metrics = program(*held[0], sj.Batch(*inputs))
        return jax.block_until_ready((held, metrics.loss))[1]

    temp_bytes = getattr(program.memory_analysis(), "temp_size_in_bytes", None)
    return Arm(SEQJAX, run, on_device, seconds, temp_bytes)


def flax_arm(apply: Callable, params: Any, inputs: Sequence[np.ndarray]) -> Arm:
    """Return the arm of a plain training step; each call continues from the last, in place."""
    adam = optax.adam(LEARNING_RATE)

    def step(params: Any, state: Any, tokens: jax.Array, targets: jax.Array) -> Any:
        mean_loss = lambda params: losses_of(apply(params, tokens), targets).mean()  # noqa: E731
        loss, grads = jax.value_and_grad(mean_loss)(params)
        updates, state = adam.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    params = jax.tree.map(jnp.copy, params)
    held = [params, adam.init(params)]
    program, seconds, temp_bytes = compile_timed(step, *held, *inputs, donate=(0, 1))

    def run(inputs: Any) -> Any:
        *held[:], loss = program(*held, *inputs)
        return jax.block_until_ready((held, loss))[1]

    return Arm(FLAX, run, on_device, seconds, temp_bytes)


def random_params(model: sj.Layer) -> Any:
    """Return initial params with noise on vectors, so that no bias is zero and no scale one.

    Noise on matrices would make large networks chaotic, and rounding would change their losses.
    """
    rng = np.random.default_rng(0)
    params = model.init(jax.random.key(0), jnp.zeros(1, jnp.int32))

    def noisy(a: jax.Array) -> jax.Array:
        return a + 0.1 * rng.standard_normal(a.shape).astype(a.dtype) if a.ndim == 1 else a

    return jax.tree.map(noisy, params)


def bytes_of(batch_size: int, length: int) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """Return ``round -> (inputs, targets)``, each ``[T, B]``: bytes that a rule and some noise make."""

    def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([2, number + 100])
        steps = rng.choice([1, 3, 7], (length + 1, batch_size), p=[0.8, 0.1, 0.1])
        tokens = (np.cumsum(steps, 0) % 64).astype(np.int32)
        return tokens[:-1], tokens[1:]

    return draw


def measure(name: str, sizes: tuple[int, int, int], rounds: int) -> Group:
    """Check and then time the arms of one model at ``(B, T, H)``.

    Raises:
        timing.Mismatch: where the losses of an arm differ from those of seqjax.
    """
    batch_size, length, hidden_size = sizes
    model, others = MODELS[name](hidden_size, length)
    params, draw = random_params(model), bytes_of(batch_size, length)
    arms, skipped = [seqjax_arm(model, params, draw(0)), flax_arm(*others[FLAX](params), draw(0))], []
    if TORCH in layers.missing():
        skipped = [Measured(TORCH, note="not installed")]
    else:
        from benchmarks import torch_models

        arms.append(torch_models.train_arm(others[TORCH](params)))
    gated = [draw(number - 2 - GATED_STEPS) for number in range(GATED_STEPS)]
    losses = [[float(arm.run(arm.prepare(inputs))) for inputs in gated] for arm in arms]
    errors = [check(arm.name, found, losses[0], TOLERANCE) for arm, found in zip(arms, losses, strict=True)]
    if not skipped:
        arms[-1] = replace(arms[-1], temp_bytes=torch_models.peak_bytes(arms[-1], draw(0)))
    samples = interleave(arms, draw, rounds)
    rows = [measured(arm, samples[arm.name], error) for arm, error in zip(arms, errors, strict=True)]
    count = sum(a.size for a in jax.tree.leaves(params))
    return Group(
        f"{TITLES[name]}, {count:,} params",
        "B, T, H",
        [Case(", ".join(map(str, sizes)), SEQJAX, rows + skipped)],
        tables=[_tokens(rows, batch_size * length)],
        data=[{"losses": dict(zip((arm.name for arm in arms), losses, strict=True))}],
    )


def _tokens(rows: Sequence[Measured], tokens: int) -> Table:
    """Return the table of what a user asks first."""
    lines = []
    for row in rows:
        ratio = paired_ratio(row.seconds, rows[0].seconds)
        relative = "1" if row is rows[0] else f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
        compiled = "eager" if row.compile_seconds is None else f"{row.compile_seconds:.1f}"
        memory = "" if row.temp_bytes is None else f"{row.temp_bytes / 1e6:.1f}"
        lines.append([row.name, f"{tokens / summary(row.seconds).median:,.0f}", relative, memory, compiled])
    columns = ["library", "tokens per second", "time relative to seqjax", "peak memory MB", "compile s"]
    return Table("A training step", columns, lines)


def run(names: Sequence[str], sizes: tuple[int, int, int], rounds: int, say: Callable) -> list[Group]:
    """Measure every model; each gives one group."""
    groups = []
    for name in names:
        say(f"{name} B, T, H = {', '.join(map(str, sizes))}")
        groups.append(measure(name, sizes, rounds))
    return groups
