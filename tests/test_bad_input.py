"""Test the errors of every probe for data that is not finite, mixed dtypes, and a loss with another signature."""

import functools
import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.refusals import refusals

import seqjax as sj
from seqjax import probes

T, B = 6, 3
CELL = sj.elman(2)
LAYER = sj.recurrent(CELL)
XS = np.random.default_rng(0).normal(size=(T, B, 2))
PARAMS = jax.tree.map(lambda p: p.astype(jnp.float64), jax.jit(LAYER.init)(jax.random.key(0), XS[0]))
STEP = probes.bind(LAYER, PARAMS)
CARRY = LAYER.initial_carry(PARAMS, XS[0])


def mean_square(ys, _):
    return jnp.mean(jnp.square(ys), -1)


WITH_LOSS = {
    name: getattr(probes, name)
    for name in (
        "gradient_profile",
        "adjoint_profile",
        "input_saliency",
        "lag_decomposition",
        "truncation_bias",
        "adjoint_signal_to_noise",
        "per_example_gradients",
        "precision_error",
    )
}
WITHOUT = {
    "singular_values": probes.singular_values,
    "lyapunov_spectrum": probes.lyapunov_spectrum,
    "flossing_loss": functools.partial(probes.flossing_loss, k=1),
    "terminal_influence": probes.terminal_influence,
    "spectral_influence": functools.partial(probes.spectral_influence, times=[0], key=jax.random.key(0)),
    "memory_sensitivity": functools.partial(probes.memory_sensitivity, num_probes=None),
    "gate_statistics": probes.gate_statistics,
    "parallelizability": probes.parallelizability,
}
ALL = WITHOUT | {
    name: lambda bound, batch, p=probe, **o: p(bound, mean_square, batch, **o)
    for name, probe in WITH_LOSS.items()
}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_data_that_is_not_finite_is_refused_with_its_place(name, value):
    xs = XS.copy()
    xs[4, 1, 0] = value
    message = rf"{name}: expected finite xs, got {value} at xs\[4, 1, 0\] \(1 such entries\). Mask such steps"
    with pytest.raises(ValueError, match=message):
        ALL[name](STEP, xs)


@pytest.mark.parametrize("name", sorted(WITHOUT.keys() | WITH_LOSS.keys()))
def test_every_probe_has_one_order_of_arguments(name):
    """The bound layer, the loss where there is one, the batch; whatever follows is given by name."""
    parameters = inspect.signature(getattr(probes, name)).parameters
    first = ["bound", "loss", "batch"] if name in WITH_LOSS else ["bound", "batch"]
    positional = [key for key, p in parameters.items() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert positional == first and parameters["carry"].default is None


@pytest.mark.parametrize("name", WITH_LOSS)
def test_a_loss_of_another_signature_is_refused_with_the_expected_one(name):
    with pytest.raises(
        TypeError, match=rf"{name}\(loss\): expected loss\(ys, targets\) -> losses, got <lambda>\(ys\)"
    ):
        WITH_LOSS[name](STEP, lambda ys: ys, XS)
    with pytest.raises(TypeError, match=rf"{name}\(loss\): expected a function .* got 3"):
        WITH_LOSS[name](STEP, 3, XS)


@pytest.mark.parametrize("name", ALL)
def test_flags_that_do_not_fit_are_refused_and_lists_are_taken(name):
    options = {"k": 1} if name == "singular_values" else {}
    options |= {"num_probes": None} if name == "terminal_influence" else {}
    for flag in (np.ones((B, T), bool), np.ones((T, B), int), np.ones(B, bool)):
        for which in ("mask", "reset"):
            with pytest.raises(
                ValueError, match=rf"{name}: expected {which} bool\[6.*got .*{flag.shape[0]}.*\]"
            ):
                ALL[name](STEP, sj.Batch(XS, None, **{which: flag}), **options)
    if name in ("gradient_profile", "per_example_gradients", "gate_statistics"):
        mask = np.arange(T)[:, None] < np.array([T, 2, 0])
        same = (ALL[name](STEP, sj.Batch(XS, None, mask=flag)) for flag in (mask.tolist(), mask))
        jax.tree.map(np.testing.assert_array_equal, *same)


def carry_with(change):
    return jax.tree.map(change, CARRY)


NOT_FINITE, FEWER = (
    carry_with(lambda a: a.at[1, 0].set(jnp.inf)),
    carry_with(lambda a: a[:2]),
)
NARROW = carry_with(lambda a: a.astype(jnp.bfloat16))
MIXED = r"the carry, .*bfloat16\[3, 2\].*the step returned the carry .*float64\[3, 2\].*to one dtype"
CARRIES = {
    **{f"{name}: infinity": (
        lambda name=name: ALL[name](STEP, XS, carry=NOT_FINITE), ValueError,
        rf"{name}: expected finite carry, got inf at carry.h\[1, 0\]")
       for name in ("gate_statistics", "parallelizability", "per_example_gradients")},
    **{f"{name}: another batch": (
        lambda name=name: ALL[name](STEP, XS, carry=FEWER), ValueError, r"expected carry.h \[3, .*got \[2, 2\]")
       for name in ("gate_statistics", "parallelizability", "per_example_gradients")},
    **{f"{name}: another dtype": (
        lambda name=name: ALL[name](STEP, XS, carry=NARROW), TypeError,
        "the carry, .*bfloat16.* the step returned the carry .*float64")
       for name in ("gate_statistics", "parallelizability")},
    **{f"{name}: other inputs": (
        lambda name=name: ALL[name](STEP, np.ones((T, B, 5)), carry=CARRY), ValueError,
        r"expected xs \[..., 2\] .* got \[3, 5\]")
       for name in ("gate_statistics", "parallelizability")},
    "lyapunov_spectrum: inputs without a batch": (
        lambda: probes.lyapunov_spectrum(STEP, XS[:, 0], carry=CARRY), ValueError,
        r"lyapunov_spectrum: expected carry.h \[2, ...\], for xs \[6, 2\] is \[T, B, ...\], got \[3, 2\]"),
    "gradient_profile: both dtypes are named": (
        lambda: probes.gradient_profile(STEP, mean_square, XS, carry=NARROW), TypeError, "gradient_profile.*" + MIXED),
    "lyapunov_spectrum: both dtypes are named": (
        lambda: probes.lyapunov_spectrum(STEP, XS, carry=NARROW), TypeError, MIXED),
    "singular_values: both dtypes are named": (
        lambda: probes.singular_values(STEP, XS, carry=NARROW), TypeError, MIXED),
}  # fmt: skip
LENGTHS = np.array([16, 64, 256])
OTHERS = {
    "gradient_profile: a cell": (
        lambda: probes.gradient_profile(CELL, mean_square, XS), TypeError,
        r"gradient_profile\(bound\): expected a bound layer, .*elman.* bind\(recurrent\(cell\)"),
    "gradient_profile: a function": (
        lambda: probes.gradient_profile(lambda h, x: (h, h), mean_square, XS, carry=CARRY), TypeError,
        r"expected a bound layer, .* Use adjoint_profile for a plain step"),
    **{f"{name}: no layer": (
        lambda name=name: ALL[name](None, XS), TypeError,
        rf"{name}\(bound\): expected a bound layer, bind.* got None")
       for name in ("gradient_profile", "per_example_gradients", "gate_statistics", "parallelizability")},
    "precision_error: no layer": (
        lambda: probes.precision_error(None, mean_square, XS), TypeError,
        r"precision_error: expected a bound layer, or a function .* got None"),
    "horizon: a percentage": (
        lambda: probes.horizon(np.zeros(3), 90), ValueError,
        r"horizon\(share\): expected a number in \(0, 1\], got 90"),
    "horizon: several profiles": (
        lambda: probes.horizon(np.zeros((3, 2)), 0.9), ValueError,
        r"horizon: expected log norms \[T\] by lag, got \[3, 2\]"),
    "find_crossover: a percentage": (
        lambda: probes.find_crossover(LENGTHS, 100 * LENGTHS, LENGTHS**2, confidence=95), ValueError,
        r"find_crossover\(confidence\): expected a number in \(0, 1\), got 95"),
    "fit_power_law: NaN": (
        lambda: probes.fit_power_law([16, math.nan, 64], LENGTHS), ValueError,
        "fit_power_law: expected two different lengths or more"),
    "clipping_statistics: no clipping": (
        lambda: probes.clipping_statistics(np.ones((4, 2)), None), TypeError,
        r"clipping_statistics\(clip\): expected a transformation .* got None"),
    "total_log_norm: no array": (
        lambda: probes.total_log_norm(()), ValueError, "total_log_norm: expected at least one array"),
    "spectral_influence: no key": (
        lambda: probes.spectral_influence(STEP, XS, times=[0], key=None), ValueError,
        r"spectral_influence\(key\): expected a key .* got None"),
    # A list is a tree of scalars; of integers nothing is left to measure, which must not come out as NaN.
    **{f"{name}: {what}": (
        lambda probe=probe, gradients=gradients: probe(gradients), ValueError,
        rf"{name}\(gradients\): expected a tree of arrays \[N, ...\]")
       for name, probe in {
           "signal_to_noise": probes.signal_to_noise,
           "gradient_noise_scale": probes.gradient_noise_scale,
           "clipping_statistics": lambda gradients: probes.clipping_statistics(gradients, optax.clip(1.0)),
       }.items()
       for what, gradients in {"a list": [1.0, 2.0, 3.0], "integers": np.ones((4, 2), int), "no array": {}}.items()},
}  # fmt: skip


@refusals(CARRIES | OTHERS)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("losses", "found"),
    [
        (0.0, "float"),
        ((jnp.zeros(B),), "tuple"),
        (jnp.zeros((T, B), int), r"int64\[6, 3\]"),
        (None, "NoneType"),
    ],
)
def test_losses_that_are_no_floating_array_are_refused(losses, found):
    with pytest.raises(TypeError, match=f"loss: expected one array of real floating losses, got {found}"):
        probes.gradient_profile(STEP, lambda ys, _: losses, XS)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
@pytest.mark.fast_cases(1)
def test_inside_of_jit_constants_are_checked_and_masked_steps_are_not(array):
    """Data that jit closes over is known when the probe is traced, whatever holds it."""
    mask = np.ones((T, B), bool)
    mask[4, 1] = False
    xs = XS.copy()
    xs[4, 1, 0] = np.nan
    xs, mask = array(xs), array(mask)
    run = jax.jit(lambda step: probes.lyapunov_spectrum(step, xs).exponents)
    with pytest.raises(ValueError, match=r"lyapunov_spectrum: expected finite xs, got nan at xs\[4, 1, 0\]"):
        run(STEP)
    batch = sj.Batch(xs, None, mask=mask)
    masked = jax.jit(lambda step: probes.lyapunov_spectrum(step, batch).exponents)
    outside = probes.lyapunov_spectrum(STEP, batch).exponents
    assert jnp.isfinite(outside).all()
    np.testing.assert_allclose(masked(STEP), outside, atol=1e-12)
