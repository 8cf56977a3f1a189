"""What makes the gradient of an LSTM or a GRU faster on a CPU, and what does not."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

import seqjax as sj
from benchmarks import torch_layer
from benchmarks.layers import missing, random_params
from benchmarks.methods import TOLERANCE, gradient_of
from benchmarks.results import Case, Group, measured
from benchmarks.timing import Arm, check, interleave, on_device
from seqjax.products import merge

TITLE = "Levers for gated cells on a CPU"
ABOUT = """\
Value and gradient by params and inputs of one layer, in float32, with loss = mean(w ys^2) and fixed random w. Time
relative to `Auto` is the median over paired rounds with a 95% bootstrap interval. Before the benchmark measures times,
it checks the loss and every gradient against `Auto`; the column "error" is the largest deviation, relative to the
largest entry. Measure on an idle machine.

* **chunks of 16** are what `Auto` took for 8 rows and more, before its chunks grew to 256 kB of inputs.
* **rows** merges time and batch to one axis in the products that give gradients of weights, as `seqjax.products` does
  for products that JAX differentiates.
* **halves of the batch** runs two loops in one program, each on half of the batch.
* **concurrent scheduler** compiles with the option `xla_cpu_enable_concurrency_optimized_scheduler`.
* **a device per core** splits the batch over CPU devices by `shard_map` (`jax_num_cpu_devices`).
* **products alone** runs the same products of matrices and nothing else; its result has no meaning.
* **torch** is eager `torch.nn` on all cores."""
SHAPES = ((1, 4096, 64, 64), (8, 2048, 64, 64), (32, 512, 128, 128), (32, 256, 256, 512))
CELLS = {"lstm": sj.lstm, "gru": sj.gru}
GATES = {"lstm": 4, "gru": 3}
AUTO = "Auto"
EINSUM = jnp.einsum
Shape = tuple[int, int, int, int]


def compiled_arm(name: str, fn: Callable, params: Any, inputs: Sequence[np.ndarray], **options: Any) -> Arm:
    """Return an arm of ``fn(params, xs, w)`` that takes the program for one device."""
    with mock.patch.object(jax, "device_count", lambda: 1):
        program = jax.jit(fn).lower(params, *inputs).compile(**options)
    return Arm(name, lambda own: jax.block_until_ready(program(params, *own)), on_device)


def rows_einsum(subscripts: str, a: jax.Array, b: jax.Array, **options: Any) -> jax.Array:
    """Return the sum over steps and examples of the outer products of a and b, over one axis of rows."""
    assert subscripts == "tbi,tbo->io"
    return EINSUM("ni,no->io", merge(a, 2), merge(b, 2), **options)


def halves(layer: sj.Layer) -> Callable:
    """Return the gradient of a layer that runs on each half of the batch by itself."""

    def loss(params: Any, xs: jax.Array, w: jax.Array) -> jax.Array:
        ys = [layer.unroll(params, None, half)[1] for half in jnp.split(xs, 2, 1)]
        return jnp.mean(w * jnp.square(jnp.concatenate(ys, 1)))

    return jax.value_and_grad(loss, (0, 1))


def sharded_arm(name: str, layer: sj.Layer, params: Any, devices: int) -> Arm:
    """Return an arm that splits the batch over several devices."""
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = P(None, "data"), P()

    def local(params: Any, xs: jax.Array, w: jax.Array) -> Any:
        own = jax.tree.map(lambda p: jax.lax.pcast(p, "data", to="varying"), params)
        loss, (grads, d_xs) = gradient_of(layer)(own, xs, w)
        return *jax.lax.pmean((loss, grads), "data"), d_xs / devices

    program = jax.jit(
        jax.shard_map(local, mesh=mesh, in_specs=(whole, split, split), out_specs=(whole, whole, split))
    )
    params = jax.device_put(params, jax.NamedSharding(mesh, whole))

    def run(inputs: Any) -> Any:
        loss, grads, d_xs = jax.block_until_ready(program(params, *inputs))
        return loss, (grads, d_xs)

    def prepare(inputs: Any) -> Any:
        return jax.block_until_ready(jax.device_put(tuple(inputs), jax.NamedSharding(mesh, split)))

    return Arm(name, run, prepare)


def products_alone(num_gates: int, chunk: int) -> Callable:
    """Return the products of a gradient: with the weights, with their transposes, and the sums for the weights."""

    def run(params: Any, xs: jax.Array, w: jax.Array) -> Any:
        size = params.w_h.shape[0]
        pieces = lambda a: a.reshape(-1, chunk, *a.shape[1:])  # noqa: E731

        def forward(h: jax.Array, xs: jax.Array) -> Any:
            us = xs @ params.w_x

            def step(h: jax.Array, u: jax.Array) -> Any:
                z = h @ params.w_h + u
                return z[:, :size], z

            return jax.lax.scan(step, h, us)

        h, zs = jax.lax.scan(forward, jnp.zeros_like(w[0]), pieces(xs))

        def backward(d: jax.Array, piece: Any) -> Any:
            xs, zs, hs = piece

            def step(d: jax.Array, z: jax.Array) -> Any:
                return (z + jnp.tile(d, num_gates)) @ params.w_h.T, z

            d, zs = jax.lax.scan(step, d, zs)
            return d, (zs @ params.w_x.T, [jnp.einsum("tbi,tbo->io", a, zs) for a in (xs, hs)])

        return jax.lax.scan(backward, h, (pieces(xs), zs, pieces(w)))

    return run


def arms_of(name: str, params: Any, inputs: Sequence[np.ndarray]) -> list[Arm]:
    """Return the arms of a cell at the shape of the inputs, the first of which is the reference."""
    length, batch, _ = inputs[0].shape
    cell, devices = CELLS[name](inputs[1].shape[-1]), jax.device_count()
    auto, short = sj.recurrent(cell), sj.recurrent(cell, sj.Scan(chunk=16, keep_gates=True))
    chosen: Any = sj.Auto().select(cell, inputs[0])
    arm = partial(compiled_arm, params=params, inputs=inputs)
    arms = [arm(AUTO, gradient_of(auto)), arm("chunks of 16", gradient_of(short))]
    with mock.patch("seqjax.ops.gated.adjoint.jnp.einsum", rows_einsum):
        arms.append(arm("rows", gradient_of(auto)))
    concurrent = {"xla_cpu_enable_concurrency_optimized_scheduler": True}
    arms.append(arm("concurrent scheduler", gradient_of(auto), compiler_options=concurrent))
    if batch > 1:
        arms.append(arm("halves of the batch", halves(auto)))
    if devices > 1 and batch % devices == 0:
        arms.append(sharded_arm("a device per core", auto, params, devices))
    if length % chosen.chunk == 0:
        arms.append(arm("products alone", products_alone(GATES[name], chosen.chunk)))
    if "torch" not in missing():
        native, back = jax.vjp(torch_layer.to_native, params)
        eager, read = torch_layer.gradient_arm(native)
        loss, grads, d_xs = read(eager.run(eager.prepare(inputs)))
        check(eager.name, (loss, (back(grads)[0], d_xs)), arms[0].run(arms[0].prepare(inputs)), TOLERANCE)
        arms.append(eager)
    return arms


def measure(name: str, shape: Shape, rounds: int) -> Case:
    """Check and then time the arms of a cell at ``(B, T, D, H)``.

    Raises:
        timing.Mismatch: where the gradient of an arm differs from that of `Auto`.
    """
    batch, length, input_size, hidden_size = shape
    w = np.random.default_rng(0).uniform(0.5, 1.5, (length, batch, hidden_size)).astype(np.float32)

    def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([3, number + 100])
        return rng.standard_normal((length, batch, input_size), np.float32), w

    arms = arms_of(name, random_params(name, input_size, hidden_size), draw(-2))
    expected = arms[0].run(arms[0].prepare(draw(-2)))
    errors = {
        arm.name: check(arm.name, arm.run(arm.prepare(draw(-2))), expected, TOLERANCE)
        for arm in arms
        if arm.name not in ("products alone", "torch")  # torch is checked under its own names
    }
    samples = interleave(arms, draw, rounds)
    rows = [measured(arm, samples[arm.name], errors.get(arm.name)) for arm in arms]
    return Case(", ".join(map(str, shape)), AUTO, rows)


def run(cells: Sequence[str], shapes: Sequence[Shape], rounds: int, say: Callable) -> list[Group]:
    """Measure the cells at all shapes; each cell gives one group."""
    groups = []
    for cell in cells:
        cases = []
        for shape in shapes:
            say(f"{cell} B, T, D, H = {', '.join(map(str, shape))}")
            cases.append(measure(cell, shape, rounds))
        groups.append(Group(f"{cell.upper()}: value and gradient by params and inputs", "B, T, D, H", cases))
    return groups
