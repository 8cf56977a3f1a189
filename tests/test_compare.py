"""Test the comparison of implementations: equal ones pass, errors are located, roundings are within tolerances."""

import json
import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.command_line import run

import seqjax as sj
from seqjax.cells import REGISTRY, LSTMCarry, vector
from seqjax.cli.common import UsageError
from seqjax.cli.compare import inputs
from seqjax.cli.specification import implementation
from seqjax.compare import (
    Implementation,
    compare,
    curves,
    divergence,
    evaluate,
    page,
    prepare,
    rounding,
)
from seqjax.compare.difference import Difference, difference_of
from seqjax.compare.evaluate import BY_INPUTS, BY_PARAMS, CARRY, OUTPUTS
from seqjax.names import split
from seqjax.ops.select import cast_inexact
from seqjax.testing import methods_for

T, B, D, H = 20, 2, 3, 4
XS = np.random.default_rng(0).normal(size=(T, B, D))
SPEC = sj.recurrent(sj.lstm(H), sj.Scan(gradient="autodiff"))


def lstm_step(params, carry, x, *, bias=1.0, order=(0, 1, 2, 3), stop=lambda h: h, scale=lambda h: h):
    """An LSTM that a user wrote, for one example."""
    c, h = carry
    z = x @ params["w_x"] + stop(h) @ params["w_h"] + bias * params["b"]
    i, f, g, o = (jnp.split(z, 4)[k] for k in order)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = scale(jax.nn.sigmoid(o) * jnp.tanh(c))
    return type(carry)(c, h), h


def own(dtype=None, **changes):
    """The LSTM above, with something changed; its biases differ from zero."""

    def build():
        params = sj.lstm(H).init(jax.random.key(1), jnp.ones((1, D)))._asdict()
        params["b"] = jnp.linspace(-1, 1, 4 * H)
        return params, partial(lstm_step, **changes)

    return Implementation(build, dtype)


def by_name(found):
    return {(each.quantity, each.leaf): each for each in found.differences}


def test_an_implementation_equals_itself_without_any_difference():
    found = compare(Implementation(SPEC), Implementation(SPEC), XS)
    assert found.equal and found.first is None and not found.remarks
    assert all(not each.errors.any() and each.excess == 0 for each in found.differences)
    names = set(by_name(found))
    assert (OUTPUTS, "") in names and (CARRY, "c") in names and (BY_PARAMS, "w_h") in names
    assert by_name(found)[BY_INPUTS, ""].errors.shape == (T,)
    assert found.length == T and found.batch_size == B and found.dtype == "float32"
    assert page.verdict(found) == f"Equal to the last bit in all {len(names)} quantities."
    assert page.caption(found.differences[0], "A").conclusion.endswith("so there is no line.")


@pytest.mark.parametrize("name", ["lstm", "lru"])
@pytest.mark.fast_cases(1)
def test_methods_of_one_cell_agree_to_rounding(name):
    cell = REGISTRY[name].make(H)
    spec, *_, method = [m for m in methods_for(cell, XS[0]) if not isinstance(m, sj.Auto)][::-1]
    found = compare(Implementation(sj.recurrent(cell, spec)), Implementation(sj.recurrent(cell, method)), XS)
    assert found.equal and any(each.errors.any() for each in found.differences)
    # Neither so wide that a wrong digit of float32 would pass.
    assert max(each.tolerances.max() for each in found.differences) < 3e-5


def test_where_a_step_cancels_what_it_computes_roundings_inside_of_it_count():
    """The first output is v, divided by its norm, whatever q is: of the gradient by w_q roundings are all there is."""
    cell = REGISTRY["gla"].make(8)
    a, b = (Implementation(sj.recurrent(cell, method)) for method in (sj.Scan(), sj.Chunked(4)))
    found = compare(a, b, np.random.default_rng(3).normal(size=(1, 2, 8)), seed=3)
    assert found.equal and by_name(found)[BY_PARAMS, "w_q"].errors.max() > 1e-3


@pytest.mark.slow  # methods agree to rounding elsewhere; this is a note beside it
def test_newton_stops_at_a_tolerance_of_its_own_and_that_is_said():
    cell = sj.lstm(H)
    spec = Implementation(sj.recurrent(cell, sj.Scan()), "float64")
    for tolerance, equal in ((1e-2, False), (1e-15, True)):
        method = sj.Newton(tolerance=tolerance, fallback=False)
        found = compare(spec, Implementation(sj.recurrent(cell, method), "float64"), XS)
        assert found.equal == equal
        assert [f"{method} stops where" in remark for remark in found.remarks] == [True] * (not equal)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, entry in REGISTRY.items() if entry.example is vector])
def test_all_methods_of_all_cells_agree_to_rounding(name):
    cell = REGISTRY[name].make(8)
    spec = Implementation(sj.recurrent(cell, sj.Scan(gradient="autodiff")), "float64")
    xs = np.random.default_rng(0).normal(size=(60, 3, 8))
    for method in methods_for(cell, xs[0]):
        # Newton stops at a tolerance of its own, which is no rounding.
        method = sj.Newton(tolerance=1e-15) if isinstance(method, sj.Newton) else method
        found = compare(spec, Implementation(sj.recurrent(cell, method), "float64"), xs)
        assert found.equal, (method, found.first)


def test_a_function_of_ones_own_equals_the_cell_it_transcribes():
    found = compare(Implementation(SPEC), own(), XS)
    assert found.equal and not found.remarks
    # The layer was run on the function's params, and every gradient has its partner.
    assert {leaf for quantity, leaf in by_name(found) if quantity == BY_PARAMS} == {"w_x", "w_h", "b"}
    assert {leaf for quantity, leaf in by_name(found) if quantity == CARRY} == {"c", "h"}


@pytest.mark.parametrize(
    ("change", "quantity", "first"),
    [
        ({"bias": 0.0}, OUTPUTS, 0),
        ({"order": (0, 1, 3, 2)}, OUTPUTS, 0),
        # The loss of the last step does not go through h to another input: that begins one step before.
        ({"stop": jax.lax.stop_gradient}, BY_INPUTS, T - 2),
        ({"scale": lambda h: h * (1 + 3e-5)}, OUTPUTS, 0),
    ],
)
@pytest.mark.fast_cases(2)
def test_one_wrong_line_is_found_at_its_first_step(change, quantity, first):
    found = compare(Implementation(SPEC), own(**change), XS)
    assert not found.equal and found.first.quantity == quantity and found.first.first == first
    assert found.first.b_error > 10 * found.first.a_error


@pytest.mark.slow  # as any wrong line is found at its first step
def test_an_error_that_begins_late_is_found_where_it_begins():
    def late(params, carry, x):
        state, t = carry
        state, y = lstm_step(params, state, x)
        y = jnp.where(t >= 7, y * 1.01, y)
        return (state, t + 1), y

    def build():
        params, _ = own().make()
        return params, late, (LSTMCarry(jnp.zeros(H), jnp.zeros(H)), 0)

    found = compare(Implementation(SPEC), Implementation(build), XS)
    assert found.first.quantity == OUTPUTS and found.first.first == 7
    assert any("final carry" in remark and "no partner" in remark for remark in found.remarks)


def test_bfloat16_is_judged_as_bfloat16_and_three_percent_are_too_much():
    found = compare(Implementation(SPEC), own("bfloat16"), XS)
    assert found.dtype == "bfloat16" and found.equal
    outputs = by_name(found)[OUTPUTS, ""]
    assert 1e-3 < outputs.errors.max() < 3e-2  # more than roundings of float32, by far

    @jax.custom_vjp
    def drifts(h):
        return h

    drifts.defvjp(lambda h: (h, None), lambda _, g: (g * 1.05,))
    wrong = compare(Implementation(SPEC), own("bfloat16", scale=lambda h: h * 1.03), XS)
    assert not wrong.equal and wrong.first.quantity == OUTPUTS
    wrong = compare(Implementation(SPEC), own("bfloat16", scale=drifts), XS)
    assert not wrong.equal and wrong.first.quantity == BY_INPUTS


def test_the_tolerance_of_a_running_sum_grows_as_its_closed_form(monkeypatch):
    """h_t = h_{t-1} + x_t, in which a rounding stays for ever: independent roundings add up as squares."""
    monkeypatch.setattr(rounding, "REPEATS", 40)
    xs = np.random.default_rng(1).normal(1.0, 0.1, size=(64, 8, 8))

    def build():
        return {}, lambda params, h, x: (h + x, h + x), jnp.zeros(8)

    found = compare(Implementation(build, "bfloat16"), Implementation(build, "bfloat16"), xs)
    u = 2.0**-8
    xs = xs.astype(jnp.bfloat16).astype(np.float64)
    h = np.cumsum(xs, 0)
    square = lambda a: np.sum(a**2, axis=(1, 2))  # noqa: E731
    carried = np.concatenate([[0], np.cumsum(square(h[:-1]))]) + np.cumsum(square(xs))
    response = u**2 / 3 * (carried + 2 * square(h))  # the output, rounded in the loop and as a result
    response += rounding.INSIDE**2 * u**2 / 3 * np.cumsum(square(h))  # and the sum
    widest = 1 + math.sqrt(math.log(64) / 64)
    # On the way back the sum runs over what comes later, and the same roundings happen to the cotangents.
    shape = (64, 8, 8)
    cotangents = divergence._cotangents({(OUTPUTS, ""): shape, (CARRY, ""): shape[1:]}, "bfloat16", 0)
    w = cotangents[OUTPUTS, ""]
    g = np.cumsum(w[::-1], 0)[::-1] + cotangents[CARRY, ""]
    later = lambda a: np.cumsum(square(a)[::-1])[::-1]  # noqa: E731
    back = u**2 / 3 * (later(w) + np.append(later(g)[1:], 0.0) + 2 * square(g))
    back += rounding.INSIDE**2 * u**2 / 3 * later(g)
    for name, each in (((OUTPUTS, ""), response), ((BY_INPUTS, ""), back)):
        difference = by_name(found)[name]
        expected = rounding.FACTOR * math.sqrt(2) * widest * np.sqrt(each) / difference.scale
        np.testing.assert_allclose(difference.tolerances, expected, rtol=0.12)


@pytest.mark.slow  # as a decay in half precision
def test_a_sum_in_half_precision_over_many_steps_is_found():
    """`lax.scan` adds up the gradient of a bfloat16 weight in bfloat16, and loses what is small beside the sum."""

    def build():
        def step(params, h, x):
            h = 0.5 * h + params["w"] * x
            return h, h

        return {"w": jnp.ones(4)}, step, jnp.zeros(4)

    xs = np.random.default_rng(0).normal(1.0, 0.3, size=(1500, 1, 4))
    found = compare(Implementation(build, "float32"), Implementation(build, "bfloat16"), xs)
    assert {each.quantity for each in found.differences if not each.equal} == {BY_PARAMS}


def test_a_decay_in_half_precision_is_found():
    """In bfloat16 a decay of 0.993 is 0.992: over its memory of 140 steps that is no rounding of the carry's size."""

    def build():
        def step(params, h, x):
            h = jnp.exp(-jnp.exp(params["nu"])) * h + x
            return h, h

        return {"nu": jnp.log(-jnp.log(jnp.linspace(0.991, 0.995, 4)))}, step, jnp.zeros(4)

    xs = np.random.default_rng(0).normal(1.0, 0.3, size=(300, 1, 4))
    found = compare(Implementation(build, "float32"), Implementation(build, "bfloat16"), xs)
    assert found.first.quantity == OUTPUTS and found.first.b_error > 10 * found.first.a_error


def test_what_expands_is_said_to_be_ill_conditioned():
    build = lambda: ({}, lambda p, h, x: ((h := 4 * h * (1 - h) + 0 * x), h), jnp.full(1, 0.3))  # noqa: E731
    found = compare(Implementation(build), Implementation(build), np.zeros((60, 1, 1)))
    assert found.equal and any("Ill-conditioned" in remark for remark in found.remarks)


def test_build_may_convert_the_params_of_the_other_side_and_gradients_go_through_it():
    def build(params):
        return [jnp.flip(leaf, -1) for leaf in params], lambda own, carry, x: lstm_step(
            dict(zip(("w_x", "w_h", "b"), [jnp.flip(leaf, -1) for leaf in own])), carry, x
        )

    for sides in (
        (Implementation(build), Implementation(SPEC)),
        (Implementation(SPEC), Implementation(build)),
    ):
        found = compare(*sides, XS)
        assert found.equal and any("build(params)" in remark for remark in found.remarks)
        assert {leaf for quantity, leaf in by_name(found) if quantity == BY_PARAMS} == {"w_x", "w_h", "b"}
    with pytest.raises(TypeError, match="convert params with jax.numpy"):
        compare(Implementation(SPEC), Implementation(lambda p: ([np.array(w) for w in p], lstm_step)), XS)
    with pytest.raises(ValueError, match="one build"):
        compare(Implementation(build), Implementation(build), XS)


def test_two_functions_of_ones_own_without_float64_are_judged_without_reference():
    def build():
        def step(params, h, x):
            h = (0.9 * h + x).astype(jnp.float32)
            return h, h

        return {}, step, jnp.zeros(D)

    found = compare(Implementation(build), Implementation(build), XS)
    assert found.equal and not found.reference and any("no reference" in r for r in found.remarks)
    assert (
        "K u √(n + T), since there is no reference"
        in page.caption(found.differences[0], found.reference).measured
    )
    assert all(row[-2:] == ["–", "–"] for row in page.table(found)[1])


def test_numbers_that_are_not_finite_are_a_difference():
    def build():
        params, step = own().make()

        def breaks(params, carry, x):
            carry, y = step(params, carry, x)
            return carry, jnp.where(x[0] > 1.0, jnp.inf, 1.0) * y

        return params, breaks

    found = compare(Implementation(SPEC), Implementation(build), XS)
    assert not found.equal and found.first.excess == math.inf
    assert found.first.first == int(np.argmax((XS[..., 0] > 1.0).any(1)))
    assert any("finite" in remark for remark in found.remarks)
    assert "; not every number is finite (" in page.verdict(found) and "∞" not in page.verdict(found)
    backwards = by_name(found)[BY_INPUTS, ""]
    assert (
        not backwards.finite and backwards.worst == backwards.first
    )  # the first, in the order of computation
    assert (
        f"At step {backwards.first} the difference is not finite"
        in page.caption(backwards, found.reference).conclusion
    )


def test_a_nan_on_both_sides_is_no_agreement():
    build = lambda: ({}, lambda p, h, x: (h, jnp.sqrt(x - 2.0) + h), jnp.zeros(D))  # noqa: E731
    found = compare(Implementation(build), Implementation(build), XS)
    assert not found.equal and found.first.excess == math.inf and found.first.first == 0


def test_what_is_compared_are_the_gradients_of_outputs_and_final_carry_times_fixed_numbers():
    """The measurement itself, against `jax.grad` of that loss, in float64."""
    with jax.enable_x64(True):
        params = cast_inexact(SPEC.init(jax.random.key(0), XS[0]), "float64")
        carry = LSTMCarry(*jnp.asarray(np.random.default_rng(1).normal(size=(2, B, H))))
        shapes = {(OUTPUTS, ""): (T, B, H), (CARRY, "c"): (B, H)}  # none for h: it takes part with zero
        w = divergence._cotangents(shapes, "float64", 0)

        def loss(params, carry, xs):
            last, ys = SPEC.unroll(params, carry, xs)
            return jnp.sum(ys * w[OUTPUTS, ""]) + jnp.sum(last.c * w[CARRY, "c"])

        found = evaluate.gradients_of(SPEC.unroll)(params, carry, jnp.asarray(XS), w)
        by_params, by_carry, by_xs = jax.grad(loss, (0, 1, 2))(params, carry, jnp.asarray(XS))
        last, ys = SPEC.unroll(params, carry, jnp.asarray(XS))
    for name, expected in (
        ((BY_PARAMS, "w_h"), by_params.w_h),
        ((evaluate.BY_CARRY, "c"), by_carry.c),
        ((BY_INPUTS, ""), by_xs),
        ((OUTPUTS, ""), ys),
        ((CARRY, "c"), last.c),
    ):
        np.testing.assert_allclose(found[name], expected, rtol=1e-11, atol=1e-13)


def returns(*parts):
    return Implementation(lambda: parts if len(parts) != 1 else parts[0], name="mine")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: returns({}), TypeError, r"expected build\(\) -> \(params, step\).*returned dict"),
        (lambda: returns({}, 3), TypeError, r"build\(\) returned \(dict, int\)"),
        (
            lambda: returns({}, lambda carry, x: x),
            ValueError,
            r"step\(params, carry, x\) failed.*Expected build",
        ),
        (lambda: returns({}, lambda p, c, x: x), TypeError, "step returned"),
        (
            lambda: returns({}, lambda p, c, x: (x, x)),
            ValueError,
            r"a carry with the shapes and dtypes of its argument, c \[4\]",
        ),
        (
            lambda: returns({"a": jnp.ones(2, jnp.float32), "b": jnp.ones(2, jnp.bfloat16)}, lstm_step),
            ValueError,
            "mixed dtypes: a float32, b bfloat16",
        ),
        (lambda: Implementation(lambda a, b: None), TypeError, "with 2 required arguments: a, b"),
        (
            lambda: returns({}, lambda p, c, x: (c, x)),
            ValueError,
            r"same names and shapes.*\[20, 2, 4\].*\[20, 2, 3\]",
        ),
        (lambda: Implementation(sj.recurrent(sj.gru(H))), ValueError, "two implementations of one function"),
        (lambda: Implementation(sj.bidirectional(SPEC, SPEC)), TypeError, "expected a causal layer"),
        (lambda: Implementation(SPEC, "int32"), ValueError, "expected one of 'bfloat16'"),
        (lambda: Implementation(3), TypeError, "expected a Layer, a Cell or build"),
    ],
)
def test_sides_that_cannot_be_compared_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        compare(Implementation(SPEC), make(), XS)


def test_two_functions_must_say_what_their_first_carry_is():
    with pytest.raises(ValueError, match=r"Return \(params, step, carry\)"):
        compare(own(), own(), XS)


@pytest.mark.parametrize(
    ("xs", "message"),
    [
        (np.where(np.arange(T)[:, None, None] == 5, np.nan, XS), "got nan at step 5 of sequence 0"),
        (XS[0, 0], r"expected xs \[T, B, ...\], got \[3\]"),
        (XS[:0], r"got \[0, 2, 3\]"),
    ],
)
def test_inputs_that_cannot_be_used_are_refused(xs, message):
    with pytest.raises(ValueError, match=message):
        compare(Implementation(SPEC), Implementation(SPEC), xs)


def test_errors_and_tolerances_are_those_of_the_formula():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(7, 2, 3)) * np.arange(1, 8)[:, None, None]
    a, b = true + 0.01, true + np.linspace(-0.02, 0.03, 7)[:, None, None]
    repeats = [{(OUTPUTS, ""): true + 1e-4 * rng.normal(size=true.shape)} for _ in range(3)]
    found = difference_of((OUTPUTS, ""), a, b, {(OUTPUTS, ""): true}, repeats, "bfloat16", 5, 4.0)
    norms = lambda x: np.sqrt(np.sum(x**2, axis=(1, 2)))  # noqa: E731
    size, u, u32 = norms(true), 2.0**-8, 2.0**-24
    scale = np.sqrt(np.mean(size**2))
    response = np.mean([norms(each[OUTPUTS, ""] - true) ** 2 for each in repeats], axis=0)
    rounded = response + (u * size) ** 2 / 3 + 5 * (u32 * scale) ** 2
    widest = 1 + math.sqrt(math.log(7) / 6)
    assert found.scale == pytest.approx(scale)
    np.testing.assert_allclose(found.errors, norms(a - b) / scale)
    np.testing.assert_allclose(found.tolerances, 4 * widest * np.sqrt(rounded) / scale, rtol=1e-12)
    ratios = found.errors / found.tolerances
    assert found.excess == ratios.max() and found.worst == ratios.argmax()
    assert found.first == np.flatnonzero(ratios > 1)[0]
    assert found.largest == pytest.approx(np.abs(a - b).max() / np.abs(true).max())
    assert found.a_error == pytest.approx(norms(a - true).max() / scale)
    # What is zero and stays so is judged by the sums that it is made of.
    exact = [{(OUTPUTS, ""): true}]
    found = difference_of((OUTPUTS, ""), a, b, {(OUTPUTS, ""): true}, exact, "float32", 500, 4.0)
    floor = 4 * widest * np.sqrt((u32 * size) ** 2 / 3 + 500 * (u32 * scale) ** 2) / scale
    np.testing.assert_allclose(found.tolerances, floor, rtol=1e-12)


def test_both_sides_are_given_numbers_that_the_coarser_dtype_holds():
    first, second, _ = prepare.prepare(Implementation(SPEC), Implementation(SPEC, "bfloat16"), XS, 0)
    for system in (first, second):
        for leaf in jax.tree.leaves(system.params):
            np.testing.assert_array_equal(leaf, leaf.astype(jnp.bfloat16).astype(np.float64))


def difference(quantity, errors, tolerances, a_error, b_error):
    errors, tolerances = np.array(errors), np.array(tolerances)
    ratios = errors / tolerances
    past = np.flatnonzero(ratios > 1)
    worst = int(ratios.argmax())
    return Difference(
        quantity, "", 1.0, errors, tolerances, ratios[worst], worst, int(past[0]) if past.size else None, 0.5,
        a_error, b_error,
    )  # fmt: skip


def test_verdict_table_and_figure_say_what_was_found():
    outputs = difference(OUTPUTS, [1e-9, 2e-3, 5e-4], [1e-4, 1e-4, 1e-5], 0.25, 1e-3)
    inputs_ = difference(BY_INPUTS, [1e-6, 1e-6, 2e-6], [1e-4, 1e-4, 1e-4], 1e-6, 1e-6)
    found = divergence.Comparison("one", "two", "float32", 3, 2, (outputs, inputs_, inputs_), (), "one")
    assert page.verdict(found) == (
        "Different: outputs, first at step 1, by up to 50.0 times the tolerance (1 of 3 quantities). "
        "A is further from the float64 reference than B."
    )
    heads, rows, differ = page.table(found)
    assert dict(zip(heads, rows[0], strict=True)) == {
        "quantity": "outputs", "÷ tolerance": "50.0", "first": "1", "difference": "5.0×10⁻⁴", "tolerance": "1.0×10⁻⁵",
        "at step": "2", "largest": "0.500", "A to ref.": "0.250", "B to ref.": "0.00100",
    }  # fmt: skip
    turned = found._replace(differences=(outputs._replace(a_error=1e-3, b_error=0.25),))
    assert page.verdict(turned).endswith(
        "(1 of 1 quantities). B is further from the float64 reference than A."
    )
    assert differ == [True, False, False] and rows[1][1:3] == ["0.0200", ""]
    assert "At step 2 the difference is 50.0 times the tolerance." in page.caption(outputs, "one").conclusion
    equal = found._replace(differences=(inputs_,))
    assert page.verdict(equal).endswith(
        "the closest to its tolerance is gradient by inputs, at 0.0200 of it."
    )
    # Upwards on the page is down in numbers: here the tolerance lies above the difference.
    heights = []
    for color in ("#009e73", "#0072b2"):
        (path,) = re.findall(rf'<path d="([^"]*)" clip-path[^>]*stroke: {color}', curves.draw(inputs_, "c"))
        heights.append(float(re.findall(r"[ML] [\d.]+ ([\d.]+)", path)[0]))
    assert heights[0] < heights[1]
    # A difference whose neighbors are equal to the last bit is a dot: no line leads to it.
    single = difference(OUTPUTS, [0.0, 2e-6, 0.0, 3e-6, 3e-6], [1e-4] * 5, 1e-6, 1e-6)
    assert len(re.findall("<use[^>]*fill: #0072b2", curves.draw(single, "c"))) == 1
    assert "breaks off" in page.caption(single, "one").shows


# ---------------------------------------------------------------- the command line

SMALL = "--length 12 --batch-size 2 --input-size 3 --hidden-size 4".split()
MODEL = """
import helper
def build(params):
    def step(p, carry, x):
        import jax.numpy as jnp
        h = jnp.tanh(x @ p.w_x + carry.h @ p.w_h + {bias})
        return type(carry)(h), h
    return params, step
def broken():
    return 3
"""


def test_the_command_says_equal_and_different_by_its_exit_status(monkeypatch, tmp_path, capsys):
    (tmp_path / "helper.py").write_text("")
    for bias, status, word in (("p.b", 0, "Equal"), ("0 * p.b + 0.1", 1, "Different")):
        model = tmp_path / f"model{status}.py"
        model.write_text(MODEL.format(bias=bias))
        out = tmp_path / f"out{status}"
        assert run(monkeypatch, "compare", "elman", f"{model}:build", *SMALL, "--out", out) == status
        assert word in capsys.readouterr().out
        found = json.loads((out / "comparison.json").read_text())
        assert found["equal"] == (status == 0) and len(found["differences"][0]["errors"]) == 12
        assert found["command"].startswith("seqjax compare elman")
        html = (out / "index.html").read_text()
        assert word in html and html.count("<svg") == 2 and "<script" not in html
        assert 'src="http' not in html and "url(http" not in html and len(html) < 200_000
    # The same folder again, of a comparison.
    assert run(monkeypatch, "compare", "elman", f"{model}:build", *SMALL, "--out", out) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("lstn", "gru"), "Did you mean 'lstm'"),
        (("lstm,method=Scam", "lstm"), "Did you mean 'scan'"),
        (("lstm,method=Scan(size=3)", "lstm"), "unexpected keyword"),
        (("lstm,method=AssociativeScan", "lstm"), "cannot run"),
        (("lstm,dtype=float31", "lstm"), "float32"),
        (("lstm,device=gpu:9", "lstm"), "expected a device such as cpu:0"),
        (("lstm,chunk=3", "lstm"), "unknown name 'chunk'"),
        (("lstm(open('x'))", "lstm"), "call with plain values"),
        (("nowhere.py:build", "lstm"), "does not exist"),
        (("{tmp}/model.py:nothing", "lstm"), "expected a function 'nothing'"),
        (("{tmp}/model.py:broken", "lstm"), "build() -> (params, step)"),
        (("{tmp}/bad.py:build", "lstm"), "importing"),
        (("math:sqrt,method=Newton", "lstm"), "goes with a cell"),
        (("lstm", "gru"), "two implementations of one function"),
        (("lstm", "lstm", "--data", "nowhere.txt"), "does not exist"),
        (("lstm", "lstm", "--data", "{tmp}/nan.npy"), "expected finite"),
        (("lstm", "lstm", "--data", "{tmp}/words.npy"), "expected numbers"),
        (("lstm", "lstm", "--length", "0"), "--length"),
        (("lstm", "{tmp}/study"), "Give two of one kind"),
        (("lstm", "lstm", "--out", "{tmp}"), "holds no comparison"),
    ],
)
def test_bad_input_is_one_clear_line_and_nothing_is_written(
    monkeypatch, tmp_path, capsys, arguments, message
):
    (tmp_path / "model.py").write_text(MODEL.replace("import helper", ""))
    (tmp_path / "bad.py").write_text("1/0")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "summary.json").write_text("{}")
    np.save(tmp_path / "nan.npy", np.full((4, 3), np.nan))
    np.save(tmp_path / "words.npy", np.array([["a"]]))
    out = [] if "--out" in arguments else ["--out", tmp_path / "out"]
    length = [] if "--length" in arguments else ["--length", 4]
    arguments = [argument.format(tmp=tmp_path) if "{tmp}" in argument else argument for argument in arguments]
    before = sorted(tmp_path.rglob("*.html"))
    assert run(monkeypatch, "compare", *arguments, *length, "--input-size", 3, *out) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("seqjax: ") and captured.err.count("\n") == 1 and message in captured.err
    assert sorted(tmp_path.rglob("*.html")) == before and not (tmp_path / "out").exists()


def test_a_specification_is_read_as_the_python_it_looks_like():
    text = "lstm(8, forget_bias=0.0),method=Newton(jacobian='block', damping=0.5),dtype=bfloat16,device=cpu:1"
    assert split(text)[1] == "method=Newton(jacobian='block', damping=0.5)"
    found = implementation(text, 32)
    assert found.make == sj.recurrent(sj.lstm(8, forget_bias=0.0), sj.Newton(jacobian="block", damping=0.5))
    assert found.dtype == "bfloat16" and found.device == jax.devices()[1]
    assert implementation("gru", 5).make == sj.recurrent(sj.gru(5))
    with pytest.raises(UsageError, match="expected CELL"):
        implementation("gru,dtype=", 5)


def test_text_is_given_as_one_fixed_vector_per_byte(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"abcabcabcabc")
    xs = inputs(str(path), 6, 2, 5, 0)
    assert xs.shape == (6, 2, 5) and len(np.unique(xs.reshape(-1, 5), axis=0)) == 3
    np.testing.assert_array_equal(xs, inputs(str(path), 6, 2, 5, 0))
    assert not np.array_equal(xs, inputs(str(path), 6, 2, 5, 1))
    array = np.arange(12.0).reshape(4, 3)
    np.save(tmp_path / "x.npy", array)
    np.testing.assert_array_equal(inputs(str(tmp_path / "x.npy"), 3, 9, 9, 0), array[:3, None])
