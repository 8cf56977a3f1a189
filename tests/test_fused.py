"""The loops of gated recurrences as kernels, run by Pallas' interpreter and lowered for a GPU."""

import dataclasses
import functools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import seqjax as sj
from benchmarks.gpu_compiler import abstract_gpu, abstract_mesh
from seqjax.cells import REGISTRY
from seqjax.ops import triton
from seqjax.ops.gated import batched
from seqjax.ops.gated.loops import Scans

T, B, D = 5, 3, 2
FUSED = sj.Fused(interpret=True)
KERNEL = "__gpu$xla.gpu.triton"
LEVERS = Path(__file__).parents[1] / "benchmarks/results/h200/levers.json"
# A state, a split gate, heads, diagonal recurrent weights, peepholes.
FORMS = ("lstm", "gru", "slstm", "indrnn", "peephole_lstm")


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def loss_of(layer, **flags):
    def loss(params, xs):
        carry, ys = layer.unroll(params, None, xs, **flags)
        return jnp.sum(jnp.sin(ys)) + sum(jnp.sum(jnp.cos(leaf)) for leaf in jax.tree.leaves(carry))

    return loss


def params_of(cell, like):
    shapes = jax.eval_shape(cell.init, jax.random.key(0), like)
    return jax.tree.map(lambda a: 0.5 * normal(1, *a.shape).astype(like.dtype), shapes)


def assert_equal_results(cell, xs, fused=FUSED, **flags):
    """Value and gradients are those of `Scan`."""
    params = params_of(cell, jax.ShapeDtypeStruct(xs.shape[1:], xs.dtype))
    found, expected = (
        jax.jit(jax.value_and_grad(loss_of(sj.recurrent(cell, method), **flags), (0, 1)))(params, xs)
        for method in (fused, sj.Scan())
    )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1, np.abs(b).max()))


# ---------------------------------------------------------------- shapes; the conformance suite has the rest


@pytest.mark.parametrize(
    ("cell", "xs", "chunk"),
    [
        (sj.elman(3), (T, B, D), 2),
        (sj.indrnn(130), (2, D), None),  # one row of two programs, the second one with two units
        pytest.param(sj.elman(4), (1, B, D), None, marks=pytest.mark.slow),
        pytest.param(sj.elman(1), (2, D), None, marks=pytest.mark.slow),
        pytest.param(sj.gru(3), (3, 2, 2, D), 2, marks=pytest.mark.slow),
        pytest.param(
            sj.lstm(100), (2, 1, D), None, marks=pytest.mark.slow
        ),  # weights of one gate are read again
    ],
    ids=repr,
)
@pytest.mark.fast_cases(1)
def test_any_shape_equals_the_scan(cell, xs, chunk):
    reset = normal(2, *xs[:-1]) < -0.5
    assert_equal_results(cell, normal(0, *xs), sj.Fused(interpret=True, chunk=chunk), reset=reset)


def test_a_tap_equals_that_of_the_scan():
    cell, xs, reset = sj.slstm(4, num_heads=2), normal(0, T, B, D), normal(2, T, B) < -0.5
    params = params_of(cell, xs[0])
    dummies = jax.tree.map(lambda leaf: jnp.zeros((T, B)), cell.initial_carry(params, xs[0]))

    def norms(method):
        layer = sj.recurrent(cell, method)
        return jax.jit(jax.grad(lambda tap: loss_of(layer, reset=reset, tap=tap)(params, xs)))(dummies)

    for found, expected in zip(norms(FUSED), norms(sj.Scan()), strict=True):
        assert np.asarray(expected).max() > 0.01
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_units_that_fill_up_do_not_reach_others():
    """Three units are padded to four. The state of the fourth is zero, so its h is 0 / 0."""
    tanh = sj.Activation.TANH
    recurrence = sj.Gated(
        (tanh, tanh),
        num_update=1,
        update=lambda w, state, a: (state[0] + 0.1 * a,),
        emit=lambda w, state, b: b / state[0],
        weights=lambda params: sj.GatedWeights(params["w_h"]),
    )
    cell = sj.Cell(
        init=lambda key, x: {"w_x": jnp.zeros((D, 6), x.dtype), "w_h": jnp.zeros((3, 6), x.dtype)},
        initial_carry=lambda params, x: (jnp.ones((*x.shape[:-1], 3), x.dtype),) * 2,
        recurrence=recurrence,
        project=sj.Dense(lambda params: (params["w_x"], None)),
    )
    assert_equal_results(cell, normal(0, 2, 2, D))


def test_products_are_exact_and_bfloat16_is_widened():
    cell = sj.elman(4)
    xs = normal(0, T, B, D).astype(jnp.bfloat16)
    params = params_of(cell, xs[0].astype(jnp.float32))
    _, ys = sj.recurrent(cell, FUSED).unroll(params, None, xs)
    _, expected = sj.recurrent(cell, sj.Scan()).unroll(params, None, xs.astype(jnp.float32))
    assert ys.dtype == jnp.bfloat16
    np.testing.assert_allclose(ys.astype(jnp.float32), expected, atol=4 * 2**-8)


def test_devices_share_a_batch():
    """Inside shard_map; JAX's interpreter cannot check which values vary over the mesh."""
    cell, xs = sj.elman(2), normal(0, 3, 2, D)
    params = params_of(cell, xs[0])
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:2])

    def gradient(method):
        run = jax.grad(loss_of(sj.recurrent(cell, method)))
        specs = {"in_specs": (jax.P(), jax.P(None, "data")), "out_specs": jax.P(), "check_vma": False}
        return jax.jit(jax.shard_map(lambda p, xs: jax.lax.psum(run(p, xs), "data"), mesh=mesh, **specs))(
            params, xs
        )

    expected = jax.grad(loss_of(sj.recurrent(cell, sj.Scan())))(params, xs)
    for a, b in zip(gradient(FUSED), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


# ---------------------------------------------------------------- lowered for a GPU


def lowered(function, *avals):
    with abstract_gpu():
        return jax.jit(function).trace(*avals).lower(lowering_platforms=("cuda",)).as_text()


def gradient_avals(cell, dtype=jnp.float32, shape=(T, B, D)):
    x = jax.ShapeDtypeStruct(shape[1:], dtype)
    return jax.eval_shape(cell.init, jax.random.key(0), x), jax.ShapeDtypeStruct(shape, dtype)


@pytest.mark.parametrize("name", FORMS)
def test_no_form_promotes_bfloat16_silently(name):
    cell, like = REGISTRY[name].make(8), jax.ShapeDtypeStruct((T, B, 8), jnp.bfloat16)
    params = jax.eval_shape(cell.init, jax.random.key(0), jax.ShapeDtypeStruct((B, 8), jnp.bfloat16))
    unroll = sj.recurrent(cell, FUSED).unroll
    with sj.testing.strict_promotion():

        def loss(params, xs):
            return jnp.sum(unroll(params, None, xs)[1].astype(jnp.float32))

        jax.eval_shape(jax.grad(loss, (0, 1)), params, like)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.fast_cases(4)
def test_each_form_is_two_kernels(name, dtype):
    cell = REGISTRY[name].make(6)
    flags = {"reset": jnp.zeros((T, B), bool), "mask": jnp.ones((T, B), bool)}
    loss = loss_of(sj.recurrent(cell, sj.Fused()), **flags)
    text = lowered(jax.grad(lambda *args: loss(*args).astype(jnp.float32)), *gradient_avals(cell, dtype))
    assert text.count(KERNEL) == 2 and "stablehlo.while" not in text


def test_devices_that_share_a_batch_lower_with_all_checks():
    cell = sj.lstm(4)
    mesh = abstract_mesh(2, "data", jax.sharding.AxisType.Auto)
    run = jax.grad(loss_of(sj.recurrent(cell, sj.Fused())))
    shared = jax.shard_map(run, mesh=mesh, in_specs=(jax.P(), jax.P(None, "data")), out_specs=jax.P())
    text = (
        jax.jit(shared)
        .trace(*gradient_avals(cell, shape=(T, 4, D)))
        .lower(lowering_platforms=("cuda",))
        .as_text()
    )
    assert text.count(KERNEL) == 2


def test_a_program_exported_for_gpus_holds_the_kernel_and_one_for_cpus_does_not():
    cell = sj.elman(4)
    unroll = jax.jit(lambda params, xs: sj.recurrent(cell, sj.Fused()).unroll(params, None, xs)[1])
    avals = gradient_avals(cell)  # not below: a seed is an array, and a mesh of absent GPUs holds none
    checks = [export.DisabledSafetyCheck.custom_call(KERNEL)]
    for platform in ("cuda", "cpu"):
        with abstract_gpu():
            program = export.export(unroll, platforms=(platform,), disabled_checks=checks)(*avals)
        assert (KERNEL in program.mlir_module()) == (platform == "cuda")


# ---------------------------------------------------------------- without a GPU, and what does not fit


def test_on_a_cpu_the_loops_run():
    cell, xs = sj.lstm(3), normal(0, T, B, D).astype(jnp.float32)
    params = params_of(cell, xs[0])
    _, ys = jax.jit(lambda *args: sj.recurrent(cell, sj.Fused()).unroll(*args))(params, None, xs)
    _, expected = sj.recurrent(cell, sj.Scan()).unroll(params, None, xs)
    np.testing.assert_allclose(ys, expected, atol=1e-6)


def test_without_triton_the_loops_run(monkeypatch):
    loops = []
    monkeypatch.setattr(triton, "import_triton", lambda: None)
    monkeypatch.setattr(
        "seqjax.methods.fused.gated", lambda *a, **k: loops.append(k["loops"]) or batched.gated(*a, **k)
    )
    cell, xs = sj.elman(3), jnp.ones((T, B, D), jnp.float32)
    text = lowered(lambda p, xs: sj.recurrent(cell, sj.Fused()).unroll(p, None, xs)[1], *gradient_avals(cell))
    assert KERNEL not in text and loops == [Scans(8)]
    assert sj.Auto().select(cell, xs, platform="gpu") == sj.Scan(chunk=256, unroll_factor=8)


LENGTH = export.symbolic_shape("t")[0]


@pytest.mark.parametrize(
    ("cell", "shape", "dtype", "obstacle"),
    [
        (
            sj.lstm(129),
            (T, B, D),
            jnp.float32,
            "at most 128 units in a dense matrix of recurrent weights, got 129.",
        ),
        (sj.slstm(260, num_heads=2), (T, B, D), jnp.float32, "at most 128 units in a head .*, got 130."),
        (sj.gru(4), (T, B, D), jnp.float64, "inputs in float32, bfloat16 or float16, got float64."),
        (sj.gru(4), (LENGTH, B, D), jnp.float32, r"inputs of a known shape, got \(t, 3, 2\)."),
    ],
    ids=["dense", "heads", "float64", "symbolic"],
)
def test_what_does_not_fit_is_refused_with_the_method_that_runs_it(cell, shape, dtype, obstacle):
    message = rf"Fused\(\) cannot run {re.escape(repr(cell))}: expected {obstacle} "
    message += r"Use Scan\(chunk=256, unroll_factor=8\)\."
    params, xs = gradient_avals(cell, dtype, shape)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda p, xs: sj.recurrent(cell, sj.Fused()).unroll(p, None, xs), params, xs)
    assert isinstance(sj.Auto().select(cell, xs, platform="gpu"), sj.Scan)


def test_a_kind_without_kernels_is_refused():
    with pytest.raises(
        TypeError, match=r"Fused\(\) cannot run lru\(.*Fused runs Gated\. Methods that can: Scan, Ass"
    ):
        sj.recurrent(sj.lru(4), sj.Fused())
    with pytest.raises(ValueError, match=r"Fused\(chunk\)"):
        sj.Fused(chunk=0)


# ---------------------------------------------------------------- what Auto takes


@functools.cache
def fastest():
    """Return the least milliseconds of the unrolled loop and of an exact kernel, for each group of levers.json."""
    rows = json.loads(LEVERS.read_text())["rows"]

    def least(group, *starts):
        times = [
            r["min_ms"] for r in rows if r["group"] == group and r["arm"].startswith(starts) and "min_ms" in r
        ]
        return min(times, default=float("inf"))

    return {
        group: (least(group, "Scan() unroll=8"), least(group, "kernel fma"))
        for group in {r["group"] for r in rows}
    }


@pytest.mark.parametrize(
    ("group", "cell", "shape"),
    [
        ("lstm64", sj.lstm(64), (2048, 8, 64)),
        ("gru64", sj.gru(64), (2048, 8, 64)),
        ("lstm128", sj.lstm(128), (512, 32, 128)),
        ("gru128", sj.gru(128), (512, 32, 128)),
        ("lstm256", sj.lstm(256), (512, 32, 256)),
        ("gru256", sj.gru(256), (512, 32, 256)),
        ("lstm512", sj.lstm(512), (1024, 64, 512)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_auto_takes_the_fastest_that_was_measured(group, cell, shape):
    unrolled, kernel = fastest()[group]
    selected = sj.Auto().select(cell, jax.ShapeDtypeStruct(shape, jnp.float32), platform="gpu")
    assert isinstance(selected, sj.Fused) == (kernel < unrolled)
    assert min(kernel, unrolled) < float("inf")


def test_auto_takes_no_kernel_for_very_many_rows_or_on_a_tpu():
    def selected(rows, cell=sj.lstm(64), platform="gpu"):  # noqa: B008 (a value)
        return sj.Auto().select(cell, jax.ShapeDtypeStruct((10, rows, 3), jnp.float32), platform=platform)

    assert selected(1024) == sj.Fused() and isinstance(selected(1025), sj.Scan)
    assert selected(132, sj.lstm(65)) == sj.Fused() and isinstance(selected(133, sj.lstm(65)), sj.Scan)
    assert selected(1024, sj.indrnn(128)) == sj.Fused()
    assert isinstance(selected(8, platform="tpu"), sj.Scan)


def test_auto_goes_by_the_params_in_use(monkeypatch):
    """They need not come from init."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    cell = dataclasses.replace(sj.elman(4), init=lambda key, x: None)
    params, xs = gradient_avals(sj.elman(4))
    text = lowered(lambda params, xs: sj.recurrent(cell).unroll(params, None, xs)[1], params, xs)
    assert text.count(KERNEL) == 1
