"""Test every section of the report on a measured study: rows, captions, the page, and the probes' numbers."""

import dataclasses
import json
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import polars as pl
import pytest
from helpers.page import Parsed, page_script
from helpers.studies import write_study
from markupsafe import Markup

import seqjax as sj
from seqjax import calibration, probes
from seqjax.gradients import last_step
from seqjax.probes.scaling import gradient_of_carry
from seqjax.report import aggregate, page
from seqjax.report.content import Figure, Fold, Table
from seqjax.report.horizons import horizon_of
from seqjax.report.results import StudyResults
from seqjax.report.sections import NAMES, SECTIONS, chosen
from seqjax.statistics import interquartile_mean
from seqjax.study import runner
from seqjax.study.experiment import MOMENTS, Experiment
from seqjax.study.models import make_model
from seqjax.study.presets import PRESETS, SIZES
from seqjax.study.record import record_of
from seqjax.study.sections import MEASUREMENTS, SHOWN, success
from seqjax.study.sections import chosen as measured_for
from seqjax.study.settings import Settings, load_data
from seqjax.study.store import Store
from seqjax.tasks import TASKS

QUICK = Settings(
    preset="smoke",
    cells=("elman",),
    lengths=(8,),
    hidden_size=2,
    batch_size=3,
    seeds=2,
    training_steps=1,
    sections=("calibration", "training", "decay", "singular", "lyapunov", "truncation", "losses", "summary"),
)
STUDIES = {"quick": QUICK, "whole": PRESETS["smoke"]}
_WHOLE = pytest.param("whole", marks=pytest.mark.slow)
EITHER = pytest.mark.parametrize("measured", ["quick", _WHOLE], indirect=True)
WHOLE = pytest.mark.parametrize("measured", [_WHOLE], indirect=True)


class Measured:
    """A study in a folder: its rows, its page, and the bench that measured it."""

    def __init__(self, settings, folder):
        self.settings, self.folder = settings, folder
        text, store = load_data(settings), Store(folder)
        store.open(record_of(settings, text), resume=False, overwrite=False)
        advanced = []
        assert runner.run(settings, text, store, advance=advanced.append, describe=lambda what: None)
        # The progress bar ends where it should, whatever the parts report on their way.
        assert math.isclose(sum(advanced), runner.total_work(settings), rel_tol=1e-9)
        self.page = page.render(folder).read_text(encoding="utf-8")
        self.rows = pl.read_parquet(folder / "results.parquet")
        self.data = StudyResults(self.rows, json.loads((folder / "summary.json").read_text()))
        self.experiment = Experiment(settings, text, store, lambda work: None)

    def values(self, section, **columns):
        rows = self.rows.filter(pl.col("section") == section, *(pl.col(n) == v for n, v in columns.items()))
        return rows["value"].to_numpy()

    def inner(self, seed=0, moment=MOMENTS[0], batch_size=1):
        return self.experiment.inner(
            self.settings.cells[0], max(self.settings.lengths), seed, moment, batch_size=batch_size
        )


@pytest.fixture(scope="module")
def measured(request, tmp_path_factory):
    return Measured(STUDIES[request.param], tmp_path_factory.mktemp("study") / "out")


def blocks_of(blocks):
    for block in blocks:
        yield block
        yield from blocks_of(block.blocks if isinstance(block, Fold) else ())


def words(text):
    return Markup(text).striptags()


def test_every_measurement_is_shown_by_the_section_of_its_name():
    shown = {section.name: section.measurement for section in SECTIONS if section.measurement}
    assert shown == {each.name: each for each in MEASUREMENTS}
    assert {section.name for section in SECTIONS if section.measurement is None} == set(SHOWN)


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        (("decay",), ("training",)),
        (("losses", "calibration"), ("calibration", "training")),
        (("summary",), ("training", "singular", "lyapunov", "precision", "success")),
        (("summary", "lyapunov"), ("lyapunov",)),
        (("decay", "summary"), ("training",)),
        (("truncation",), ("truncation",)),
    ],
)
def test_a_section_that_shows_other_measurements_brings_them(sections, expected):
    assert tuple(each.name for each in measured_for(sections)) == expected


@EITHER
def test_every_section_has_rows_and_something_to_show(measured):
    for section in chosen(measured.settings.sections):
        parts = (
            {part.name for part in section.measurement.parts(measured.settings)}
            if section.measurement
            else set()
        )
        found = measured.rows.filter(pl.col("section") == section.name)
        assert set(found["part"]) == parts
        for part in parts:
            known = found.filter(pl.col("part") == part)["value"].is_finite()
            assert known.any(), part
        view = section.view(measured.data)
        shown = list(blocks_of(view.blocks))
        assert words(view.intro) and any(isinstance(block, Figure | Table) for block in shown), section.name
    assert measured.settings.sections or {
        name for name in NAMES if f'<section id="{name}">' in measured.page
    } == set(NAMES)


@EITHER
def test_every_caption_says_what_is_shown_how_it_was_measured_and_what_to_conclude(measured):
    count = 0
    for section in chosen(measured.settings.sections):
        for figure in blocks_of(section.view(measured.data).blocks):
            if isinstance(figure, Figure):
                count += 1
                parts = [words(part) for part in figure.caption]
                assert figure.panels and len(set(parts)) == 3, section.name
                for part in parts:
                    assert len(part) > 20 and part.rstrip().endswith("."), (section.name, part)
                    assert not re.search(r"nan|None|\{|<", part), (section.name, part)
    assert count == measured.page.count("<figure") > 5
    for label in ("Shows", "Measured", "Conclusion"):
        assert measured.page.count(f'<b class="what">{label}</b>') == count


@EITHER
def test_the_page_is_one_small_file_that_loads_nothing_and_calibration_heads_it(measured):
    parsed = Parsed(measured.page)
    addresses = parsed.addresses + re.findall(r"url\(\s*['\"]?([^)'\"]+)", measured.page)
    assert [address for address in addresses if not address.startswith(("data:", "#"))] == []
    assert not re.search(
        r"\b(fetch|XMLHttpRequest|import|eval|Function|WebSocket)\b", page_script(measured.page)
    )
    assert "@import" not in measured.page and len(measured.page.encode()) < 5_000_000
    assert len(parsed.ids) == len(set(parsed.ids))
    named = [name for name in parsed.ids if name in NAMES]
    assert (
        named == [section.name for section in chosen(measured.settings.sections)]
        and named[0] == "calibration"
    )
    assert measured.page.index('<section id="calibration">') == measured.page.index("<section")
    assert "All pass." in parsed.text and "NaN" not in parsed.text


@EITHER
def test_a_closed_form_that_fails_is_told_at_the_head_of_the_page(measured, tmp_path):
    broken = measured.rows.with_columns(
        value=pl.when(pl.col("quantity") == "passed", pl.col("group") == "C26")
        .then(0.0)
        .otherwise(pl.col("value"))
    )
    write_study(tmp_path, broken, json.loads((measured.folder / "summary.json").read_text()))
    text = Parsed(page.render(tmp_path).read_text(encoding="utf-8")).text
    assert "Do not rely on results that depend on these." in text and "All pass." not in text


@pytest.mark.slow  # as profiles are those of their probe
@EITHER
def test_calibration_singular_values_and_exponents_are_those_of_the_probes(measured):
    checks = calibration.run("float64", only=("C1", "C8", "C25", "C26"))
    np.testing.assert_array_equal(
        measured.values("calibration", quantity="measured"), [c.measured for c in checks]
    )
    cell, length = measured.settings.cells[0], max(measured.settings.lengths)

    @jax.jit
    def measure(step, xs):
        spectrum = probes.lyapunov_spectrum(step, xs, warm_up=length // 8, log_determinant=True)
        return probes.singular_values(step, xs[:16]), spectrum

    for seed in range(measured.settings.seeds):
        for moment in MOMENTS:
            at = {"cell": cell, "seed": seed, "group": moment}
            inner = measured.inner(seed, moment)
            fan, spectrum = measure(probes.bind(inner.layer, inner.params), inner.xs)
            found = measured.values("singular", quantity="log_singular_value", **at)
            np.testing.assert_allclose(found, np.ravel(fan.log_values[:, 0]), rtol=1e-3, atol=1e-3)
            for name in ("log_condition", "participation_ratio", "isometry"):
                found = measured.values("singular", quantity=name, **at)
                np.testing.assert_allclose(found, getattr(fan, name)[:, 0], rtol=1e-3, atol=1e-3)
            for name in ("exponents", "low", "high"):
                quantity = "exponent" if name == "exponents" else f"exponent_{name}"
                found = measured.values("lyapunov", quantity=quantity, **at)
                np.testing.assert_allclose(found, getattr(spectrum, name)[0], rtol=1e-3, atol=1e-3)
            for quantity in ("sum", "log_determinant", "kaplan_yorke"):
                found = measured.values("lyapunov", quantity=quantity, **at)
                np.testing.assert_allclose(found, getattr(spectrum, quantity), rtol=1e-3, atol=1e-3)


@EITHER
def test_profiles_fits_and_horizons_are_those_of_the_probes(measured):
    cell, length = measured.settings.cells[0], max(measured.settings.lengths)
    model, source = measured.experiment.model(cell, length), measured.experiment.source(length)
    (xs, targets), at = source.probe[:2], {"cell": cell, "length": length, "training_step": 0}
    by_seed = []
    for seed in range(measured.settings.seeds):
        params = measured.experiment.params(cell, length, seed)
        loss, batch = last_step(source.task.loss), sj.Batch(xs, targets)
        profile = probes.gradient_profile(probes.bind(model, params), loss, batch)
        norms = np.asarray(probes.total_log_norm(profile.log_norm), float)  # [T, B]
        by_seed.append(norms.T[:, ::-1])
        here = at | {"seed": seed, "loss": "last", "leaf": "carry"}
        found = measured.values("training", quantity="log_norm", **here)
        np.testing.assert_allclose(found, norms.mean(1), atol=1e-3)
        # The state that enters the last step has a part in the last loss alone.
        mean = measured.values("training", quantity="log_norm", **here | {"loss": "mean"})
        np.testing.assert_allclose(mean[-1], found[-1] - math.log(length), atol=1e-3)
        fit = probes.fit_decay(norms.mean(1)[::-1])
        for name in ("exponential_rate", "power_exponent", "lag_50", "lag_90"):
            np.testing.assert_allclose(
                measured.values("training", quantity=name, **here), getattr(fit, name), rtol=1e-2
            )
    sequences = measured.data.sequences(cell, length, False)
    np.testing.assert_allclose(sequences, by_seed, atol=1e-3)
    # The horizon in the table is that of the mean of all sequences of all seeds, in logarithms.
    mass = np.cumsum(np.exp(sequences.mean((0, 1))))
    expected = int(np.argmax(mass >= 0.9 * mass[-1]))
    shown = words(aggregate.shown(horizon_of(sequences, 90, []), counts=True))
    assert shown.split()[0] == str(expected) and shown in Parsed(measured.page).text


@pytest.mark.slow  # as profiles are those of their probe
@EITHER
def test_truncation_biases_are_those_of_the_probe(measured):
    inner = measured.inner(0, MOMENTS[-1], batch_size=min(4, measured.settings.batch_size))
    found = probes.truncation_bias(
        probes.bind(inner.layer, inner.params), lambda ys, _: jnp.mean(jnp.square(ys), -1), inner.xs[:12]
    )
    at = {"cell": measured.settings.cells[0], "seed": 0}
    np.testing.assert_allclose(measured.values("truncation", quantity="bias", **at), found.bias, atol=1e-4)
    np.testing.assert_allclose(
        measured.values("truncation", quantity="cosine", **at), found.cosine, atol=1e-4
    )
    for share in (0.1, 0.01):
        (window,) = measured.values("truncation", quantity=f"window_{round(100 * share)}", **at)
        above = np.flatnonzero(np.asarray(found.bias) > share)
        assert window == above.max(initial=-1) + 2  # windows count from 1


@EITHER
def test_lines_on_the_page_are_the_middle_of_the_rows(measured):
    """What hovering shows, and what the choice of a seed draws."""
    drawn = [
        json.loads(text)
        for text in re.findall(r'<script type="application/json">(.*?)</script>', measured.page)
    ]
    series = {each["id"]: each for data in drawn for each in data.get("s", ())}
    cell, length = measured.settings.cells[0], max(measured.settings.lengths)
    at = {"cell": cell, "length": length}
    norms = measured.values("training", quantity="log_norm", loss="last", leaf="carry", training_step=0, **at)
    norms = norms.reshape(measured.settings.seeds, length)[:, ::-1] / math.log(10)
    line = series[f"curves-last-T{length}-init-s0"]
    assert line["n"] == cell and line["x"] == list(range(length))
    np.testing.assert_allclose(line["y"], interquartile_mean(norms, 0), rtol=1e-4)
    for seed, values in enumerate(norms):
        np.testing.assert_allclose(line["e"][str(seed)], values, rtol=1e-4)
    exponents = measured.values("lyapunov", quantity="exponent", group=MOMENTS[-1], **at)
    points = series[f"lyapunov-{cell}-s1"]
    np.testing.assert_allclose(
        points["y"], interquartile_mean(exponents.reshape(measured.settings.seeds, -1), 0), rtol=1e-4
    )
    chooser = measured.page.split('id="seed"')[1].split("</select>")[0]
    assert re.findall(r"<option>(\d+)<", chooser) == [str(seed) for seed in range(measured.settings.seeds)]


@WHOLE
def test_precision_and_algorithms_are_those_of_the_probes(measured):
    cell = measured.settings.cells[0]
    inner = measured.inner(0, MOMENTS[-1], batch_size=min(4, measured.settings.batch_size))
    with jax.enable_x64(True):
        params, xs = jax.tree.map(lambda a: a.astype(jnp.float64), (inner.params, inner.xs))
        (found,) = probes.precision_error(
            probes.bind(inner.layer, params), lambda ys, _: jnp.mean(jnp.square(ys[-1]), -1), xs,
            dtypes=["bfloat16"], lengths=[8],
        )  # fmt: skip
    for name in ("error", "cosine", "parameters", "state"):
        value = measured.values("precision", quantity=name, cell=cell, group="bfloat16")
        np.testing.assert_allclose(value, getattr(found, name), rtol=1e-3)

    # The gradient truncated after four steps, by autodiff of the loop cut in two.
    layer = sj.recurrent(sj.lstm(3))
    small = measured.experiment.like(Settings(preset="smoke", hidden_size=3, batch_size=2, cells=(cell,)))
    inner = small.inner(cell, 8, 0, batch_size=2)
    xs, carry = inner.xs, layer.initial_carry(inner.params, inner.xs[0])

    def loss(params, cut):
        half, first = layer.unroll(params, carry, xs[:4])
        _, second = layer.unroll(params, jax.lax.stop_gradient(half) if cut else half, xs[4:])
        return jnp.mean(jnp.square(jnp.concatenate([first, second]) - jnp.roll(xs, -1, 0)))

    full, cut = (
        np.concatenate([np.ravel(g) for g in jax.tree.leaves(jax.grad(loss)(inner.params, each))])
        for each in (False, True)
    )
    rows = measured.rows.filter(pl.col("section") == "algorithms", pl.col("cell") == cell)
    (error,) = rows.filter(pl.col("group") == "truncated BPTT(4)", pl.col("quantity") == "error")["value"]
    np.testing.assert_allclose(error, np.linalg.norm(cut - full) / np.linalg.norm(full), rtol=1e-3)
    assert rows.filter(pl.col("group") == "RTRL", pl.col("quantity") == "error")["value"].item() < 1e-5
    assert rows.filter(pl.col("group") == "UORO", pl.col("quantity") == "error").height == 8


@WHOLE
def test_noise_gates_costs_and_tasks_are_those_of_programs_written_out(measured):
    cell, (length,) = measured.settings.cells[0], measured.settings.lengths
    more = measured.experiment.like(dataclasses.replace(measured.settings, batch_size=4))
    source, model = more.source(length), measured.experiment.model(cell, length)
    params, (xs, targets) = measured.experiment.params(cell, length, 0, MOMENTS[-1]), source.probe[:2]

    def mean_loss(params, xs, targets):
        ys = model.unroll(params, model.initial_carry(params, xs[0]), xs)[1]
        return jnp.mean(source.task.loss(ys, targets))

    gradients = jax.vmap(jax.grad(mean_loss), (None, 1, 1))(params, xs[:, :, None], targets[:, :, None])
    each = np.concatenate([np.reshape(g, (4, -1)) for g in jax.tree.leaves(gradients)], axis=1).astype(float)
    trace = np.var(each, axis=0, ddof=1).sum()
    expected = trace / (np.square(each.mean(0)).sum() - trace / 4)
    np.testing.assert_allclose(
        measured.values("signal", quantity="noise_scale", cell=cell), expected, rtol=1e-2
    )

    inner, forget = more.inner_of(cell, length, params), []
    c, h, w = 0.0, jnp.zeros((4, 6)), inner.params
    for x in inner.xs:
        i, f, g, o = jnp.split(x @ w.w_x + h @ w.w_h + w.b, 4, axis=-1)
        forget.append(jax.nn.sigmoid(f))
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
    at = {"quantity": "quantile", "cell": cell, "group": MOMENTS[-1], "x": 0.95}
    for leaf in ("gate 1", "decay 0"):
        np.testing.assert_allclose(
            measured.values("signal", leaf=leaf, **at), np.quantile(forget, 0.95), rtol=1e-2
        )

    layer, x = sj.recurrent(sj.lstm(6), sj.Scan(chunk=64)), jax.ShapeDtypeStruct((2, 6), jnp.float32)
    weights = jax.eval_shape(lambda: layer.init(jax.random.key(0), jnp.zeros((2, 6), jnp.float32)))
    for steps in (8, 32):
        program = jax.jit(gradient_of_carry(layer)).lower(
            weights, jax.ShapeDtypeStruct((steps, *x.shape), x.dtype)
        )
        used = program.compile().memory_analysis().temp_size_in_bytes
        assert measured.values("scaling", quantity="bytes", cell=cell, x=float(steps)).item() == used

    size, task = SIZES["smoke"], TASKS["adding"](24)
    learner, optimizer = (
        make_model(cell, 6, sj.Auto(), "float32", task),
        success._optimizer(measured.settings),
    )
    for seed, final in enumerate(
        measured.values("success", quantity="final_loss", cell=cell, group="adding")
    ):
        key, losses = jax.random.key(seed), []
        weights = learner.init(key, task.sample(key, size.success_batch)[0][0])
        state = optimizer.init(weights)

        def loss_of(weights, xs, targets):
            ys = learner.unroll(weights, learner.initial_carry(weights, xs[0]), xs)[1]
            return jnp.mean(jnp.square(ys[-1, :, 0] - targets[-1]))

        for step in range(size.success_steps):
            xs, targets = task.sample(jax.random.fold_in(key, step + 1), size.success_batch)
            loss, gradients = jax.value_and_grad(loss_of)(weights, xs.astype(jnp.float32), targets)
            updates, state = optimizer.update(gradients, state, weights)
            weights = optax.apply_updates(weights, updates)
            losses.append(loss)
        np.testing.assert_allclose(final, np.mean(losses), rtol=1e-3)


@WHOLE
def test_a_model_of_ones_own_gets_the_same_pages_with_the_same_numbers(measured, tmp_path):
    """The first cell of the study again, as somebody's own file: all of its rows, but for seconds."""
    (tmp_path / "mine.py").write_text("import seqjax as sj\nbuild = lambda: sj.lstm(6)\n")
    name, cell = f"{tmp_path / 'mine.py'}:build", measured.settings.cells[0]
    settings = Settings(
        **{**measured.settings.to_json(), "cells": (name,), "lengths": measured.settings.lengths}
    )
    own = Measured(settings, tmp_path / "out")
    headings = [re.findall(r"<h2>(.*?)</h2>", each.page) for each in (measured, own)]
    assert headings[0] == headings[1]
    columns = [name for name in own.rows.columns if name not in ("part", "cell", "value")]
    sections = ["training", "singular", "lyapunov", "truncation", "precision"]
    left, right = (
        each.rows.filter(pl.col("cell") == who, pl.col("section").is_in(sections))
        for each, who in ((measured, cell), (own, name))
    )
    assert left.select(columns).equals(right.select(columns)) and left.height > 100
    np.testing.assert_allclose(right["value"], left["value"], rtol=1e-4, atol=1e-4)
    assert "mine.py:build" in Parsed(own.page).text


@pytest.mark.slow  # as a training in float64 does
def test_a_study_in_float64_trains_all_params_in_float64():
    settings = Settings(
        dtype="float64",
        task="parity",
        cells=("lru",),
        lengths=(5,),
        batch_size=2,
        hidden_size=3,
        training_steps=1,
    )
    experiment = Experiment(settings, None, None, lambda work: None)
    for snapshot in experiment.run("lru", 5).train(seed=0):
        assert {leaf.dtype for leaf in jax.tree.leaves(snapshot.params)} == {jnp.dtype("float64")}
