"""Compare cells of flax.linen on the same weights in float64: outputs and every gradient."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from helpers.cells import assert_equal, init, normal, shaken

import seqjax as sj

T, B, D, H = 7, 3, 4, 6


# ---------------------------------------------------------------- MGUCell


def flax_outputs(module, params, signs, xs, h):
    """Outputs of a MGUCell with our weights of gate and candidate, times their signs."""
    w_x, w_h, b = (jnp.split(a, 2, -1) for a in params)
    variables = {}
    for i, (name, sign) in enumerate(zip("fn", signs)):
        variables["i" + name] = {"kernel": sign * w_x[i], "bias": sign * b[i]}
        variables["h" + name] = {"kernel": sign * w_h[i]}
    if module.reset_gate:
        variables["hn"]["bias"] = jnp.zeros_like(h[0])
    ys = []
    for x in xs:
        h, y = module.apply({"params": variables}, h, x)
        ys.append(y)
    return jnp.stack(ys)


def losses_and_gradients(cell, module, signs, params, h, xs):
    weights = jnp.asarray(normal(9, *xs.shape[:2], H))
    carry_type = type(cell.initial_carry(params, xs[0]))

    def ours(params, h, xs):
        ys = sj.recurrent(cell).unroll(params, carry_type(h), xs)[1]
        return jnp.sum(weights * ys), ys

    def theirs(params, h, xs):
        ys = flax_outputs(module, params, signs, xs, h)
        return jnp.sum(weights * ys), ys

    return [jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(params, h, xs) for loss in (ours, theirs)]


def test_ugrnn_is_flax_s_mgu_without_its_reset_gate_in_values_and_gradients():
    cell, module = sj.ugrnn(H), nn.MGUCell(H, reset_gate=False, param_dtype=jnp.float64)
    params, h, xs = shaken(init(cell)), jnp.asarray(normal(1, B, H)), jnp.asarray(normal(0, T, B, D))
    got, expected = losses_and_gradients(cell, module, (1, 1), params, h, xs)
    assert_equal(got, expected, rtol=1e-12)


@pytest.mark.parametrize("reset_after", [False, True])
@pytest.mark.fast_cases(1)
def test_mgu_is_flax_s_with_the_gate_reversed_where_the_candidate_does_not_see_h(reset_after):
    """Only there: flax resets by the gate that keeps, the paper by the gate that updates."""
    cell, module = sj.mgu(H, reset_after=reset_after), nn.MGUCell(H, param_dtype=jnp.float64)
    params, h, xs = shaken(init(cell)), jnp.asarray(normal(1, B, H)), jnp.asarray(normal(0, T, B, D))
    params = params._replace(w_h=params.w_h.at[:, H:].set(0))
    got, expected = losses_and_gradients(cell, module, (-1, 1), params, h, xs)
    assert_equal(got[1], expected[1])
    for found, wanted in zip(got[0], expected[0]):
        if hasattr(found, "w_h"):
            found, wanted = (g._replace(w_h=g.w_h[:, :H]) for g in (found, wanted))
        assert_equal(found, wanted)
