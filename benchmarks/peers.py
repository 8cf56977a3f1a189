"""Compare layers with the same layers of other libraries: value and gradient, and a training step."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import torch_layer
from benchmarks.layers import RESET_BEFORE, Peer, jax_peers, missing, random_params
from benchmarks.results import Case, Group, Measured, measured
from benchmarks.timing import Arm, Mismatch, check, compile_timed, interleave, jax_arm, on_device

TITLE = "Layers against those of other libraries"
ABOUT = """\
Time relative to seqjax is the median over paired rounds with a 95% bootstrap interval; above 1, seqjax is faster.
Numbers are float32; all arms have the same weights; xs is `[T, B, D]`; every round has fresh inputs; loss = mean(w
ys^2) with fixed random w. Before the benchmark measures times, it checks that the loss and every gradient of each arm
equal those of seqjax. The column "error" is the largest deviation, relative to the largest entry. PyTorch runs eagerly
on the same device. On a CPU it uses all cores, and its threads wait for each other at every operation. So its time
multiplies while another process is busy: measure on an idle machine.

The reset gate of Haiku's GRU acts before the recurrent product, and that of the other GRUs after it. Haiku's GRU is
checked against `gru(reset_after=False)`, whose time is in the column "seqjax (reset before)"."""
SHAPES = ((1, 4096, 64, 64), (8, 2048, 64, 64), (32, 512, 128, 128), (32, 256, 256, 512))
WHATS = ("gradient", "train")
TITLES = {"gradient": "value and gradient by params and inputs", "train": "step of training with Adam"}
# Sums of up to 16,384 float32 terms in another order; a wrong gate, sign or bias changes results by a tenth or more.
TOLERANCE = 2e-4

Shape = tuple[int, int, int, int]


class Checked(NamedTuple):
    """An arm with its result on the first inputs; gradients are with respect to seqjax's params."""

    arm: Arm
    result: Any
    reset_before: bool


def loss_of(peer: Peer) -> Callable:
    """Return ``(native, xs, w) -> loss``."""
    return lambda native, xs, w: jnp.mean(w * jnp.square(peer.unroll(native, xs)))


def gradient_arms(peers: Sequence[Peer], params: Any, inputs: Sequence[np.ndarray]) -> Iterator[Checked]:
    """Yield the arms that compute value and gradient with respect to params and inputs."""
    for peer in peers:
        native, back = jax.vjp(peer.to_native, params)
        arm = jax_arm(peer.name, jax.value_and_grad(loss_of(peer), (0, 1)), (native,), inputs)
        loss, (grads, d_xs) = arm.run(arm.prepare(inputs))
        yield Checked(arm, (loss, back(grads)[0], d_xs), peer.reset_before)
    if "torch" not in missing():
        native, back = jax.vjp(torch_layer.to_native, params)
        arm, read = torch_layer.gradient_arm(native)
        loss, grads, d_xs = read(arm.run(arm.prepare(inputs)))
        yield Checked(arm, (loss, back(grads)[0], d_xs), False)


def train_arms(peers: Sequence[Peer], params: Any, inputs: Sequence[np.ndarray]) -> Iterator[Checked]:
    """Yield the arms that compute loss, gradient and Adam's update; each call continues from the last, in place."""
    adam = optax.adam(torch_layer.LEARNING_RATE)
    for peer in peers:
        native, back = jax.vjp(peer.to_native, params)
        arm, (loss, grads, after) = _training(peer, adam, native, inputs)
        _check_update(peer.name, native, grads, after)
        yield Checked(arm, (loss, back(grads)[0]), peer.reset_before)
    if "torch" not in missing():
        native, back = jax.vjp(torch_layer.to_native, params)
        arm, read = torch_layer.train_arm(native)
        loss, grads, after = read(arm.run(arm.prepare(inputs)))
        _check_update("torch", native, grads, after)
        yield Checked(arm, (loss, back(grads)[0]), False)


def _training(peer: Peer, adam: Any, native: Any, inputs: Sequence[np.ndarray]) -> tuple[Arm, Any]:
    """Return the arm of a stateful training loop, and ``(loss, gradients, params after)`` of its first step."""

    def step(params: Any, state: Any, xs: jax.Array, w: jax.Array) -> Any:
        loss, grads = jax.value_and_grad(loss_of(peer))(params, xs, w)
        updates, state = adam.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    params = jax.tree.map(jnp.copy, native)  # donated below, while other arms still use seqjax's params
    program, seconds, temp_bytes = compile_timed(step, params, adam.init(params), *inputs, donate=(0, 1))
    held = [params, adam.init(params)]

    def run(inputs: Any) -> Any:
        *held[:], loss = program(*held, *inputs)
        return jax.block_until_ready((held, loss))[1]

    arm = Arm(peer.name, run, on_device, seconds, temp_bytes)
    loss = run(on_device(inputs))
    # After one step the first moment is (1 - b1) times the gradient that the optimizer received.
    grads = jax.tree.map(lambda m: m / (1 - 0.9), held[1][0].mu)
    return arm, (loss, grads, jax.tree.map(jnp.copy, held[0]))


def _check_update(who: str, before: Any, grads: Any, after: Any) -> None:
    """Check Adam's first update, which is ``-rate * g / (|g| + 1e-8)``."""
    expected = jax.tree.map(
        lambda p, g: p - torch_layer.LEARNING_RATE * g / (jnp.abs(g) + 1e-8), before, grads
    )
    check(f"{who}: params after a step", after, expected, TOLERANCE)


def gate(checked: Sequence[Checked], tolerance: float = TOLERANCE) -> list[float]:
    """Return the error of every arm against the arm of seqjax with the same formula, which comes first.

    Raises:
        Mismatch: where the result of an arm differs.
    """
    references: dict[bool, Any] = {}
    for item in checked:
        references.setdefault(item.reset_before, item)
    for item in references.values():
        if not item.arm.name.startswith("seqjax"):
            raise Mismatch(f"{item.arm.name}: expected an arm of seqjax with the same formula, got none.")
    return [
        check(item.arm.name, item.result, references[item.reset_before].result, tolerance) for item in checked
    ]


def measure(cell: str, shape: Shape, what: str, rounds: int) -> Case:
    """Check and then time every arm for one cell and shape ``(B, T, D, H)``.

    Raises:
        Mismatch: where the result of an arm differs from that of seqjax.
    """
    batch, length, input_size, hidden_size = shape
    w = np.random.default_rng(0).uniform(0.5, 1.5, (length, batch, hidden_size)).astype(np.float32)

    def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([1, number + 100])
        return rng.standard_normal((length, batch, input_size), np.float32), w

    build = {"gradient": gradient_arms, "train": train_arms}[what]
    params = random_params(cell, input_size, hidden_size)
    checked = list(build(jax_peers(cell, hidden_size), params, draw(-2)))
    errors = gate(checked)
    samples = interleave([item.arm for item in checked], draw, rounds)
    arms = [
        measured(item.arm, samples[item.arm.name], error, RESET_BEFORE if item.reset_before else "")
        for item, error in zip(checked, errors)
    ]
    skipped = [Measured(name, note="not installed") for name in missing()]
    return Case(", ".join(map(str, shape)), "seqjax", arms + skipped)


def run(
    cells: Sequence[str], shapes: Sequence[Shape], whats: Sequence[str], rounds: int, say: Callable
) -> list[Group]:
    """Measure every cell and program; each gives one group of cases."""
    groups = []
    for cell in cells:
        for what in whats:
            cases = []
            for shape in shapes:
                say(f"{cell} {what} B, T, D, H = {', '.join(map(str, shape))}")
                cases.append(measure(cell, shape, what, rounds))
            groups.append(Group(f"{cell.upper()}: {TITLES[what]}", "B, T, D, H", cases))
    return groups
