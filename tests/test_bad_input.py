"""What every probe says of data that is not finite, of mixed dtypes, and of a loss with another signature."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import seqjax as sj
from seqjax import probes

T, B = 6, 3
CELL = sj.elman(2)
LAYER = sj.recurrent(CELL)
XS = np.random.default_rng(0).normal(size=(T, B, 2))
PARAMS = jax.tree.map(lambda p: p.astype(jnp.float64), LAYER.init(jax.random.key(0), jnp.asarray(XS[0])))
STEP = probes.bind(LAYER, PARAMS)
CARRY = LAYER.initial_carry(PARAMS, XS[0])


def mean_square(ys, _):
    return jnp.mean(jnp.square(ys), -1)


WITH_LOSS = {
    "gradient_profile": lambda xs, loss, **o: probes.gradient_profile(LAYER, loss, PARAMS, CARRY, xs, None, **o),
    "adjoint_profile": lambda xs, loss, **o: probes.adjoint_profile(STEP, None, xs, loss, None, **o),
    "input_saliency": lambda xs, loss, **o: probes.input_saliency(STEP, None, xs, loss, None, **o),
    "lag_decomposition": lambda xs, loss, **o: probes.lag_decomposition(STEP, None, xs, loss, None, **o),
    "truncation_bias": lambda xs, loss, **o: probes.truncation_bias(STEP, None, xs, loss, None, **o),
    "adjoint_signal_to_noise": lambda xs, loss, **o: probes.adjoint_signal_to_noise(STEP, None, xs, loss, None, **o),
    "per_example_gradients": lambda xs, loss, **o: probes.per_example_gradients(
        LAYER, loss, PARAMS, CARRY, xs, None, **o
    ),
    "precision_error": lambda xs, loss, **o: probes.precision_error(LAYER, loss, PARAMS, CARRY, xs, None, **o),
}  # fmt: skip
WITHOUT = {
    "singular_values": lambda xs, **o: probes.singular_values(STEP, None, xs, **o),
    "lyapunov_spectrum": lambda xs, **o: probes.lyapunov_spectrum(STEP, None, xs, **o),
    "terminal_influence": lambda xs, **o: probes.terminal_influence(STEP, None, xs, **o),
    "gate_statistics": lambda xs, **o: probes.gate_statistics(CELL, PARAMS, None, xs, **o),
    "parallelisability": lambda xs, **o: probes.parallelisability(CELL, PARAMS, CARRY, xs, **o),
}
ALL = WITHOUT | {name: lambda xs, p=probe, **o: p(xs, mean_square, **o) for name, probe in WITH_LOSS.items()}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_data_that_is_not_finite_is_refused_with_its_place(name, value):
    xs = XS.copy()
    xs[4, 1, 0] = value
    message = rf"{name}: expected finite xs, got {value} at xs\[4, 1, 0\] \(1 such entries\). Mask such steps"
    with pytest.raises(ValueError, match=message):
        ALL[name](xs)


@pytest.mark.parametrize("name", WITH_LOSS)
def test_a_loss_of_another_signature_is_refused_with_the_expected_one(name):
    with pytest.raises(
        TypeError, match=rf"{name}\(loss\): expected loss\(ys, targets\) -> losses, got <lambda>\(ys\)"
    ):
        WITH_LOSS[name](XS, lambda ys: ys)
    with pytest.raises(TypeError, match=rf"{name}\(loss\): expected a function .* got 3"):
        WITH_LOSS[name](XS, 3)


@pytest.mark.parametrize("name", ALL)
def test_flags_that_do_not_fit_are_refused_and_lists_are_taken(name):
    options = {"k": 1} if name == "singular_values" else {}
    options |= {"num_probes": None} if name == "terminal_influence" else {}
    for flag in (np.ones((B, T), bool), np.ones((T, B), int), np.ones(B, bool)):
        for which in ("mask", "reset"):
            with pytest.raises(
                ValueError, match=rf"{name}: expected {which} bool\[6.*got .*{flag.shape[0]}.*\]"
            ):
                ALL[name](XS, **{which: flag}, **options)
    if name in ("gradient_profile", "per_example_gradients", "gate_statistics"):
        mask = np.arange(T)[:, None] < np.array([T, 2, 0])
        same = ALL[name](XS, mask=mask.tolist()), ALL[name](XS, mask=mask)
        jax.tree.map(np.testing.assert_array_equal, *same)


def test_carries_that_do_not_fit_are_refused():
    bad = jax.tree.map(lambda a: a.at[1, 0].set(jnp.inf), CARRY)
    fewer = jax.tree.map(lambda a: a[:2], CARRY)
    narrow = jax.tree.map(lambda a: a.astype(jnp.bfloat16), CARRY)
    of_gates = functools.partial(probes.gate_statistics, CELL, PARAMS)
    of_newton = functools.partial(probes.parallelisability, CELL, PARAMS)

    def of_examples(carry, xs):
        return probes.per_example_gradients(LAYER, mean_square, PARAMS, carry, xs, None)

    for name, probe in (
        ("gate_statistics", of_gates),
        ("parallelisability", of_newton),
        ("per_example_gradients", of_examples),
    ):
        with pytest.raises(ValueError, match=rf"{name}: expected finite carry, got inf at carry.h\[1, 0\]"):
            probe(bad, XS)
        with pytest.raises(ValueError, match=r"expected carry.h \[3, .*got \[2, 2\]"):
            probe(fewer, XS)
    for probe in (of_gates, of_newton):
        with pytest.raises(TypeError, match="carry as it came, .*bfloat16.* it returned the carry .*float64"):
            probe(narrow, XS)
        with pytest.raises(ValueError, match=r"expected xs \[..., 2\] .* got \[3, 5\]"):
            probe(CARRY, np.ones((T, B, 5)))
    flat = r"expected carry.h \[2, ...\], for xs \[6, 2\] is \[T, B, ...\], got \[3, 2\]"
    with pytest.raises(ValueError, match="lyapunov_spectrum: " + flat):
        probes.lyapunov_spectrum(STEP, CARRY, XS[:, 0])


def test_what_is_no_layer_is_refused():
    with pytest.raises(
        TypeError, match=r"gradient_profile: expected layers, got elman.* with recurrent\(cell\)"
    ):
        probes.gradient_profile(CELL, mean_square, PARAMS, CARRY, XS, None)
    with pytest.raises(TypeError, match="per_example_gradients: expected layers, got None"):
        probes.per_example_gradients(None, mean_square, PARAMS, CARRY, XS, None)


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
        probes.gradient_profile(LAYER, lambda ys, _: losses, PARAMS, CARRY, XS, None)


def test_shares_that_are_percentages_are_refused():
    with pytest.raises(ValueError, match=r"horizon\(share\): expected a number in \(0, 1\], got 90"):
        probes.horizon(np.zeros(3), 90)
    with pytest.raises(ValueError, match=r"horizon: expected log norms \[T\] by lag, got \[3, 2\]"):
        probes.horizon(np.zeros((3, 2)), 0.9)
    lengths = np.array([16, 64, 256])
    with pytest.raises(
        ValueError, match=r"find_crossover\(confidence\): expected a number in \(0, 1\), got 95"
    ):
        probes.find_crossover(lengths, 100 * lengths, lengths**2, confidence=95)
    with pytest.raises(ValueError, match="fit_power_law: expected two different lengths or more"):
        probes.fit_power_law([16, math.nan, 64], lengths)


@pytest.mark.parametrize("probe", [probes.signal_to_noise, probes.gradient_noise_scale])
def test_gradients_without_floating_numbers_are_refused(probe):
    """A list is a tree of scalars; of integers nothing is left to measure, which must not come out as NaN."""
    for gradients in ([1.0, 2.0, 3.0], np.ones((4, 2), int), {}):
        with pytest.raises(ValueError, match=r"\(gradients\): expected a tree of arrays \[N, ...\]"):
            probe(gradients)
        with pytest.raises(ValueError, match=r"\(gradients\): expected a tree of arrays \[N, ...\]"):
            probes.clipping_statistics(gradients, optax.clip(1.0))
    with pytest.raises(
        TypeError, match=r"clipping_statistics\(clip\): expected a transformation .* got None"
    ):
        probes.clipping_statistics(np.ones((4, 2)), None)
    with pytest.raises(ValueError, match="total_log_norm: expected at least one array"):
        probes.total_log_norm(())


def test_power_iteration_without_a_key_is_refused():
    with pytest.raises(ValueError, match=r"spectral_influence\(key\): expected a key .* got None"):
        probes.spectral_influence(STEP, None, XS, [0], key=None)


def test_mixed_dtypes_are_refused_with_both():
    carry = jax.tree.map(lambda a: a.astype(jnp.bfloat16), CARRY)
    message = r"carry as it came, .*bfloat16\[3, 2\].*it returned the carry .*float64\[3, 2\].*to one dtype"
    with pytest.raises(TypeError, match="gradient_profile.*" + message):
        probes.gradient_profile(LAYER, mean_square, PARAMS, carry, XS, None)
    for probe in (probes.lyapunov_spectrum, probes.singular_values):
        with pytest.raises(TypeError, match=message):
            probe(STEP, carry, XS)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_inside_of_jit_constants_are_checked_and_masked_steps_are_not(array):
    """Data that jit closes over is known when the probe is traced, whatever holds it."""
    mask = np.ones((T, B), bool)
    mask[4, 1] = False
    xs = XS.copy()
    xs[4, 1, 0] = np.nan
    xs, mask = array(xs), array(mask)
    run = jax.jit(lambda step, **o: probes.lyapunov_spectrum(step, None, xs, **o).exponents)
    with pytest.raises(ValueError, match=r"lyapunov_spectrum: expected finite xs, got nan at xs\[4, 1, 0\]"):
        run(STEP)
    masked = jax.jit(lambda step: probes.lyapunov_spectrum(step, None, xs, mask=mask).exponents)
    outside = probes.lyapunov_spectrum(STEP, None, xs, mask=mask).exponents
    assert jnp.isfinite(outside).all()
    np.testing.assert_allclose(masked(STEP), outside, atol=1e-12)
