"""Test the benchmarks: interleaving, ratios, the check before times are measured, and the files."""

import dataclasses
import json
import os
import re
from importlib.util import find_spec

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj
from benchmarks import __main__ as command_line
from benchmarks import (
    algorithms,
    fit,
    gpu_compiler,
    layers,
    learning,
    levers,
    lyapunov,
    methods,
    models,
    peers,
    profiles,
    results,
    scaling,
    timing,
)
from seqjax.tasks import parity

typer_testing = pytest.importorskip("typer.testing", reason="the command line needs typer")
SHAPE = (2, 5, 3, 4)
SILENT = lambda line: None  # noqa: E731


class Machine:
    """A clock that only work moves on, and a machine whose speed drifts from round to round."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def arm(self, name, cost):
        def run(inputs):
            self.log.append((name, inputs))
            self.now += cost * (1 + inputs % 7)

        return timing.Arm(name, run)

    def measure(self, arms, **options):
        return timing.interleave(arms, lambda number: number + 10, pause=0, clock=lambda: self.now, **options)


def test_arms_take_turns_on_the_same_fresh_inputs():
    machine = Machine()
    samples = machine.measure([machine.arm(name, 1.0) for name in "abc"], rounds=3, warmup=2)
    assert [name for name, _ in machine.log] == list("abc" * 5)
    assert [inputs for _, inputs in machine.log[::3]] == [8, 9, 10, 11, 12]
    assert machine.log[0][1] == machine.log[2][1]
    assert {name: len(seconds) for name, seconds in samples.items()} == {"a": 3, "b": 3, "c": 3}


def test_preparing_inputs_is_not_timed():
    machine = Machine()

    def prepare(inputs):
        machine.now += 1000
        return inputs

    arm = dataclasses.replace(machine.arm("a", 1.0), prepare=prepare)
    assert max(machine.measure([arm], rounds=4)["a"]) < 10


def test_a_drift_that_arms_share_leaves_their_ratio_alone():
    machine = Machine()
    samples = machine.measure([machine.arm("a", 1.0), machine.arm("b", 3.0)], rounds=15)
    assert max(samples["a"]) > 3 * min(samples["a"])
    np.testing.assert_allclose(timing.paired_ratio(samples["b"], samples["a"]), [3, 3, 3])


def test_intervals_hold_the_true_ratio_19_times_in_20_and_narrow_with_rounds():
    rng = np.random.default_rng(0)
    widths = []
    for rounds in (15, 240):
        ratios = []
        for _ in range(200):
            speed = rng.uniform(1, 5, rounds)
            times = [speed * factor * rng.lognormal(0, 0.1, rounds) for factor in (2.0, 1.0)]
            ratios.append(timing.paired_ratio(*times, resamples=500))
        assert all(ratio.low <= ratio.median <= ratio.high for ratio in ratios)
        assert 0.9 < np.mean([ratio.low < 2 < ratio.high for ratio in ratios]) < 0.99
        widths.append(np.mean([ratio.high - ratio.low for ratio in ratios]))
    assert widths[1] < widths[0] / 3


def test_the_summary_is_least_median_and_95th_percentile():
    assert timing.summary(list(range(101))) == (0, 50, 95)


@pytest.mark.parametrize(
    ("got", "message"),
    [
        ({"a": np.ones(3), "b": np.full(2, 1.01)}, r"arm: result\['b'\] differs by 1.0e-02"),
        ({"a": np.ones(3), "b": np.full(2, np.nan)}, r"result\['b'\] differs by nan"),
        ({"a": np.ones(3), "b": np.ones(3)}, r"expected result\['b'\] \[2\], got \[3\]"),
        ({"a": np.ones(3)}, "expected PyTreeDef"),
    ],
)
def test_what_differs_is_refused(got, message):
    expected = {"a": np.ones(3), "b": np.ones(2)}
    assert timing.check("arm", {"a": np.ones(3) + 1e-6, "b": np.ones(2)}, expected, 1e-4) < 2e-6
    with pytest.raises(timing.Mismatch, match=message):
        timing.check("arm", got, expected, 1e-4)


# ---------------------------------------------------------------- what is written


def document():
    arms = [
        results.Measured("ours", [1.0, 2.0, 4.0], 0.5, 2_000_000, 0.0),
        results.Measured("theirs", [2.0, 4.0, 8.0], None, None, 1e-6, "as it is"),
        results.Measured("absent", note="not installed"),
    ]
    return [results.Group("A claim", "B, T", [results.Case("1, 2", "ours", arms)])]


def test_both_files_say_the_same(tmp_path):
    paths = results.save("name", "Title", "About.", "python -m benchmarks name", document(), tmp_path / "new")
    data, text = json.loads(paths[0].read_text()), paths[1].read_text()
    assert text == results.render(data)
    assert data["groups"][0]["cases"][0]["arms"][1]["seconds"] == [2.0, 4.0, 8.0]
    assert "    python -m benchmarks name\n" in text
    assert "| 1, 2 | **1** | 2.00 [2.00, 2.00] | not installed |" in text
    assert "| 1, 2 | ours | 1000.00 | 2000.00 | 3800.00 | 0.50 | 2.0 | 0e+00 |  |" in text
    assert {"device", "cores", "jax", "jaxlib", "flax", "torch", "commit", "date"} <= data["header"].keys()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    results.save("name", "Old", "", "", document(), tmp_path)
    before = {path: path.read_text() for path in tmp_path.iterdir()}

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        results.save("name", "New", "", "", document(), tmp_path)
    assert {path: path.read_text() for path in tmp_path.iterdir()} == before


# ---------------------------------------------------------------- the measurements, at toy size


def invoke(*words):
    return typer_testing.CliRunner().invoke(command_line.app, [str(word) for word in words])


def without_peers(monkeypatch):
    """As where flax, which seqjax depends on, is the only other library."""
    monkeypatch.setattr(layers, "missing", lambda: ["haiku", "equinox", "torch"])
    monkeypatch.setattr(peers, "missing", layers.missing)


@pytest.mark.parametrize("what", peers.WHATS)
@pytest.mark.fast_cases(1)
def test_layers_agree_and_absent_libraries_are_named(what, monkeypatch):
    without_peers(monkeypatch)
    case = peers.measure("gru", SHAPE, what, 2)
    timed = {arm.name: arm for arm in case.arms if arm.seconds}
    assert list(timed) == ["seqjax", "seqjax (autodiff)", "seqjax (reset before)", "flax"]
    assert all(arm.error < peers.TOLERANCE and arm.temp_bytes > 0 for arm in timed.values())
    assert {arm.name: arm.note for arm in case.arms if not arm.seconds} == dict.fromkeys(
        layers.missing(), "not installed"
    )


def test_an_arm_that_computes_something_else_is_refused_before_the_clock_starts(tmp_path, monkeypatch):
    def wrong(cell, hidden_size):
        ours = layers.seqjax_peers({"": sj.lstm(hidden_size)})[0]
        forgetful = lambda p: p._replace(b=jnp.zeros_like(p.b))  # noqa: E731
        return [ours, layers.Peer("wrong", forgetful, ours.unroll)]

    without_peers(monkeypatch)
    monkeypatch.setattr(peers, "jax_peers", wrong)
    monkeypatch.setattr(peers, "interleave", lambda *args: pytest.fail("timed all the same"))
    options = ("--cell", "lstm", "--what", "gradient", "--shape", "2,5,3,4", "--out", tmp_path / "out")
    result = invoke("peers", *options)
    assert result.exit_code == 1
    assert "Nothing was timed: wrong: result[0] differs by" in result.output
    assert not (tmp_path / "out").exists()


def test_the_command_line_writes_both_files_and_the_command_that_made_them(tmp_path, monkeypatch):
    shapes = []
    monkeypatch.setattr(methods, "run", lambda *args: shapes.append(args) or document())
    options = ("--shape", "2,5,3,4", "--shape", "1,2,3,4", "--rounds", 3)
    result = invoke("methods", *options, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    everything = ["chunks", "scans", "memories"]
    assert shapes[0][:4] == (everything, [(2, 5, 3, 4), (1, 2, 3, 4)], [256, 1024, 4096, 16384], 3)
    text = (tmp_path / "methods.md").read_text()
    assert "    python -m benchmarks methods --shape 2,5,3,4 --shape 1,2,3,4 --rounds 3\n" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize("shape", ["2,5,3", "2,5,3,x", "0,5,3,4"])
def test_a_shape_that_is_none_is_refused(shape, tmp_path):
    result = invoke("peers", "--shape", shape, "--out", tmp_path)
    assert result.exit_code == 2
    assert "expected four sizes" in result.output


def test_methods_agree_and_the_fastest_is_the_baseline(monkeypatch):
    monkeypatch.setattr(methods, "CHUNKS", (None, 2))
    monkeypatch.setattr(methods, "KEPT", (2,))
    (case,) = methods.chunks("lstm", [SHAPE], 2, SILENT).cases
    medians = {arm.name: timing.summary(arm.seconds).median for arm in case.arms}
    assert list(medians) == ["chunk None", "chunk 2", "chunk 2, gates kept", "Auto", "autodiff"]
    assert medians[case.baseline] == min(medians.values())
    assert [arm.note for arm in case.arms if arm.name == "Auto"] == [
        repr(sj.Auto().select(sj.lstm(4), jnp.zeros((5, 2, 3))))
    ]


def test_scans_agree():
    groups = methods.scans([6], (2, 3), 2, SILENT)
    assert [len(group.cases) for group in groups] == [1, 1]
    for group in groups:
        names = [arm.name for arm in group.cases[0].arms]
        assert names == ["Scan", "chunk 256", "AssociativeScan", "Auto", "autodiff"]
        assert all(arm.error < methods.TOLERANCE for arm in group.cases[0].arms)


@pytest.mark.slow
def test_memories_agree():
    groups = methods.memories([9], (2, 32), 2, SILENT)
    assert len(groups) == 4
    for group in groups:
        assert all(arm.error < methods.TOLERANCE for arm in group.cases[0].arms)


@pytest.mark.slow
def test_algorithms_are_gated_and_compared_with_the_exact_gradient(monkeypatch):
    monkeypatch.setattr(algorithms, "DRAWS", 2)
    groups = algorithms.run([8], (2, 2, 2), 2, SILENT)
    assert [group.title.split(",")[0] for group in groups] == ["LSTM", "LRU", "orthogonal RNN"]
    table = algorithms.algorithms(8, 2)
    for group, rows in zip(groups, table.values(), strict=True):
        (case,) = group.cases
        assert [arm.name for arm in case.arms] == list(rows) and case.baseline == "full BPTT"
        for arm in case.arms:
            assert arm.note.startswith("cosine ") and arm.seconds and arm.temp_bytes is not None
            assert not rows[arm.name].exact or arm.error < 1e-4
    errors = {arm.name: arm.error for arm in groups[0].cases[0].arms}
    assert min(errors["truncated T/8"], errors["RFLO"], errors["UORO"]) > 1e-3


def test_an_algorithm_that_is_not_exact_is_refused(monkeypatch):
    table = algorithms.algorithms(8, 2)["orthogonal RNN"]
    wrong = table["reversible"]._replace(estimator=sj.truncated_bptt(1))
    monkeypatch.setattr(algorithms, "interleave", lambda *args: pytest.fail("timed all the same"))
    with pytest.raises(timing.Mismatch, match=r"reversible, T = 8: result"):
        algorithms.compare(
            "", {"full BPTT": table["full BPTT"], "reversible": wrong}, (2, 2, 2), 8, 2, SILENT
        )


@pytest.mark.parametrize("cell", ["gru", *(pytest.param(c, marks=pytest.mark.slow) for c in ("lstm", "lru"))])
def test_a_profile_is_checked_and_judged(cell):
    case = profiles.measure(cell, SHAPE, 2)
    assert case.baseline == "backward" and [arm.name for arm in case.arms] == ["backward", "profile"]
    profile = case.arms[1]
    assert profile.error < profiles.TOLERANCE and profile.note in ("within 1.1", "above 1.1")


def test_a_profile_of_other_gradients_is_refused(monkeypatch):
    plain = profiles.plain
    monkeypatch.setattr(profiles, "plain", lambda layer: lambda *args: plain(layer)(*args[:2], 2 * args[2]))
    monkeypatch.setattr(profiles, "interleave", lambda *args: pytest.fail("timed all the same"))
    with pytest.raises(timing.Mismatch, match=r"profile: result\[0\] differs"):
        profiles.measure("lru", SHAPE, 2)


def test_the_loop_of_training_comes_to_the_params_of_a_bare_loop(monkeypatch):
    monkeypatch.setattr(fit, "SIZES", {"tiny": (2, 3, 2, 4)})
    (group,) = fit.run(["tiny"], 5, 2, SILENT)
    arms = group.cases[0].arms
    assert [arm.name for arm in arms] == [fit.BARE, fit.FIT, fit.ALL] and group.cases[0].baseline == fit.BARE
    assert all(arm.error == 0 and len(arm.seconds) == 2 for arm in arms) and arms[0].note.endswith(
        "ms a step"
    )

    def shorter(step, state, batches, *, num_steps, **options):
        return fit_training(step, state, batches, num_steps=num_steps - 1, **options)

    fit_training = fit.fit
    monkeypatch.setattr(fit, "fit", shorter)
    monkeypatch.setattr(fit, "interleave", lambda *args: pytest.fail("timed all the same"))
    with pytest.raises(timing.Mismatch, match="fit: result.* differs"):
        fit.run(["tiny"], 5, 2, SILENT)


def test_scaling_tells_bytes_operations_and_seconds_with_slopes(monkeypatch, tmp_path):
    make, wraps = scaling.CELLS["lstm"]
    few = {name: wraps[name] for name in ("autodiff", "Nested()")}
    monkeypatch.setattr(scaling, "CELLS", {"lstm": (make, few)})
    options = (
        "--length",
        8,
        "--length",
        32,
        "--batch-size",
        2,
        "--hidden-size",
        4,
        "--rounds",
        2,
        "--out",
        tmp_path,
    )
    result = invoke("scaling", *options)
    assert result.exit_code == 0, result.output
    (group,) = json.loads((tmp_path / "scaling.json").read_text())["groups"]
    by_title = {table["title"]: table for table in group["tables"]}
    assert {"bytes", "flops", "seconds"} <= by_title.keys()
    for quantity in ("bytes", "flops", "seconds"):
        assert by_title[quantity]["columns"] == ["method", "8", "32", "slope", "note"]
        assert [row[0] for row in by_title[quantity]["rows"]] == list(few)
    bytes_ = {row[0]: float(row[2]) for row in by_title["bytes"]["rows"]}
    flops = {row[0]: float(row[2]) for row in by_title["flops"]["rows"]}
    assert bytes_["Nested()"] < bytes_["autodiff"] and flops["Nested()"] > flops["autodiff"]
    text = (tmp_path / "scaling.md").read_text()
    assert (
        "### bytes\n" in text and "--length 8 --length 32 --batch-size 2 --hidden-size 4 --rounds 2" in text
    )


@pytest.mark.slow
def test_every_cell_of_the_scaling_is_measured(monkeypatch):
    two = {
        name: (make, dict([*wraps.items()][:1] + [*wraps.items()][-1:]))
        for name, (make, wraps) in scaling.CELLS.items()
    }
    monkeypatch.setattr(scaling, "CELLS", two)
    groups = scaling.run([4, 8], (2, 8), 2, SILENT, list(two))
    assert len(groups) == len(scaling.CELLS) == len(scaling.usual()) + 1
    assert all(arm.error < scaling.TOLERANCE for group in groups for case in group.cases for arm in case.arms)


@pytest.mark.parametrize(
    ("options", "message"),
    [(("--length", 8), "two different lengths"), (("--hidden-size", 6), "multiple of four")],
)
def test_a_scaling_that_cannot_be_measured_is_refused(options, message, tmp_path):
    result = invoke("scaling", *options, "--out", tmp_path)
    assert result.exit_code == 2 and message in result.output


def test_lyapunov_spectra_are_checked_against_known_ones_before_the_clock_starts(monkeypatch):
    (group,) = lyapunov.run((6, 3), [300], 2, SILENT)
    assert [arm.name for arm in group.cases[0].arms] == [
        "QR every 1",
        "QR every 4",
        "QR every 16",
        "QR adaptive",
    ]
    assert all(arm.error < 0.1 and len(arm.seconds) == 2 for arm in group.cases[0].arms)
    layer, params, known = lyapunov.network(6)
    monkeypatch.setattr(lyapunov, "network", lambda hidden_size: (layer, params, known - 0.1))
    monkeypatch.setattr(lyapunov, "interleave", lambda *args: pytest.fail("timed all the same"))
    with pytest.raises(timing.Mismatch, match="QR every 1: result differs by"):
        lyapunov.run((6, 3), [300], 2, SILENT)


@pytest.mark.peers
@pytest.mark.parametrize("what", peers.WHATS)
@pytest.mark.parametrize("cell", layers.CELLS)
@pytest.mark.fast_cases(1)
def test_every_library_computes_the_same_layer(cell, what):
    if layers.missing():
        pytest.skip(f"not installed: {', '.join(layers.missing())}")
    case = peers.measure(cell, SHAPE, what, 2)
    assert {arm.name.split()[0] for arm in case.arms} == {"seqjax", "flax", "haiku", "equinox", "torch"}
    assert all(arm.seconds and arm.error < 1e-5 for arm in case.arms)


@pytest.mark.peers
@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
def test_a_torch_arm_with_other_weights_is_refused(monkeypatch):
    from benchmarks import torch_layer

    right = torch_layer.to_native
    monkeypatch.setattr(torch_layer, "to_native", lambda p: right(p._replace(b=p.b + 0.1)))
    with pytest.raises(timing.Mismatch, match="torch: result"):
        peers.measure("lstm", SHAPE, "gradient", 2)


@pytest.mark.slow
@pytest.mark.peers
@pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
@pytest.mark.parametrize("name", models.MODELS)
def test_models_of_every_library_have_the_same_losses(name, tmp_path):
    sizes = ("--batch-size", 3, "--length", 7, "--hidden-size", 8)
    result = invoke("models", "--model", name, *sizes, "--rounds", 2, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    (group,) = json.loads((tmp_path / "models.json").read_text())["groups"]
    arms = group["cases"][0]["arms"]
    assert [arm["name"] for arm in arms] == ["seqjax", "flax", "torch"]
    assert all(arm["error"] < 1e-5 and arm["temp_bytes"] > 1000 for arm in arms)
    assert len({round(loss, 4) for loss in group["data"][0]["losses"]["seqjax"]}) == models.GATED_STEPS
    assert "| library | tokens per second |" in (tmp_path / "models.md").read_text()


@pytest.mark.slow
def test_a_model_with_other_weights_is_refused(monkeypatch, tmp_path):
    without_peers(monkeypatch)
    right = models.flax_models.lstm

    def wrong(module, variables, embedding, head):
        return right(module, variables, embedding, {**head, "bias": -head["bias"]})

    monkeypatch.setattr(models.flax_models, "lstm", wrong)
    monkeypatch.setattr(models, "interleave", lambda *args: pytest.fail("timed all the same"))
    with pytest.raises(timing.Mismatch, match="flax: result"):
        models.measure("lstm", (3, 7, 8), 2)


def test_a_width_that_heads_do_not_divide_is_refused(tmp_path):
    result = invoke("models", "--hidden-size", 20, "--out", tmp_path)
    assert result.exit_code == 2 and "multiple of eight" in result.output


@pytest.mark.slow
def test_learning_counts_the_seeds_that_solve_a_task(monkeypatch):
    task = parity(2)  # an Elman cell solves it in no time, a map without memory cannot
    mapped = {"memory": (learning.cell(sj.lstm), True)}
    blind = {"none": (lambda width: sj.pointwise(nn.Dense(width)), False)}
    monkeypatch.setattr(learning, "HELD_OUT", 64)
    monkeypatch.setattr(
        learning,
        "trials",
        lambda *_: [
            learning.Trial("parity", task, task, models, 60, 8, 16, 3e-2, evaluations=2)
            for models in (mapped, blind)
        ],
    )
    (group,) = learning.run(2, 0, 200, 1.0, "", SILENT)
    (table,) = group.tables
    (first, second) = table.rows
    assert first[:4] == ["memory", "2/2 [0.34, 1.00]", "solved", "yes"]
    assert second[:4] == ["none", "0/2 [0.00, 0.66]", "not solved", "yes"]
    assert [len(item["curves"]["loss"][0]) for item in group.data] == [2, 2]
    with pytest.raises(ValueError, match="expected a part of the name of a run, got 'x'"):
        learning.run(1, 0, 200, 1.0, "x", SILENT)


@pytest.mark.slow
def test_models_that_differ_in_their_start_are_one_program():
    length = 24
    (trial,) = (item for item in learning.trials(4, 1e-4) if len(item.models) > 1)
    task = trial.train
    assert task.length == length and list(trial.models) == ["LSTM, chrono", "LSTM"]
    curves = learning.learn(dataclasses.replace(trial, width=4, batch_size=2, steps=1, evaluations=1), 2, 0)
    alone = dataclasses.replace(
        trial, models={"LSTM": trial.models["LSTM"]}, width=4, batch_size=2, steps=1, evaluations=1
    )
    np.testing.assert_allclose(
        curves["LSTM"]["loss"], learning.learn(alone, 2, 0)["LSTM"]["loss"], rtol=1e-12
    )
    assert curves["LSTM, chrono"]["loss"] != curves["LSTM"]["loss"]


THUNKS = """\
000: kCommandBuffer [source]
    001: kCopy [source]
008: kWhile [prev=000]
condition:
    009: kCustomKernel [source] loop_compare_fusion
  body:
    000: kCommandBuffer [source]
        010: kCopy [source]
    016: kWhile [prev=000]
condition:
        017: kCustomKernel [source] loop_compare_fusion
      body:
        018: kCustomKernel [source] gemm
        024: kAsyncStart [prev=018] stream=1
            019: kDynamicSliceFusion [source]
                020: kCopy [source]
        025: kAsyncDone [source]
    021: kCustomKernel [prev=016] loop_add_fusion
    023: kCopy [prev=021]
022: kCustomKernel [prev=008] reduce
"""


def test_operations_of_a_gpu_are_counted_by_loop_and_without_conditions():
    """The top starts 001 and 022; the loop over chunks 010, 021 and 023; the loop in it 018 and 020."""
    assert gpu_compiler.count_operations(THUNKS) == [(0, 2), (1, 3), (2, 2)]


def test_runs_with_other_versions_of_jax_keep_their_rows(monkeypatch, tmp_path):
    """By label in the order of the newest run, then by version as numbers; rows of one version are replaced."""
    columns = ["cell", "method", "jax", "per step"]

    def run(version, *rows):
        table = results.Table("Steps", columns, [[*labels, version, count] for *labels, count in rows])
        monkeypatch.setattr(results.jax, "__version__", version)
        groups = results.beside_other_versions(
            [results.Group("Group", "cell", [], [table])], tmp_path / "name.json"
        )
        results.save("name", "Title", "", "", groups, tmp_path)
        return groups[0].tables[0].rows

    assert run("0.10.2", ["lstm", "a", "5"]) == [["lstm", "a", "0.10.2", "5"]]
    run("0.9.0", ["lstm", "a", "wrong"], ["lstm", "b", "3"])
    run("0.9.0", ["lstm", "a", "4"], ["lstm", "b", "3"])
    assert run("0.12.0.1", ["gru", "a", "6"], ["lstm", "a", "7"]) == [
        ["gru", "a", "0.12.0.1", "6"],
        ["lstm", "a", "0.9.0", "4"],
        ["lstm", "a", "0.10.2", "5"],
        ["lstm", "a", "0.12.0.1", "7"],
        ["lstm", "b", "0.9.0", "3"],
    ]


def test_without_the_compiler_for_gpus_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_compiler, "_is_installed", lambda module: False)
    result = invoke("gpu_program", "--out", tmp_path)
    assert result.exit_code == 2
    assert re.fullmatch(
        r"gpu_program: expected the packages jax-cuda12-plugin and jax-cuda12-pjrt, got no module jax_cuda12_plugin\. "
        r"Run pip install .*\n",
        result.output,
    )
    assert not list(tmp_path.iterdir())
    assert invoke("gpu_program", "--cell", "lru", "--out", tmp_path).exit_code == 2


@pytest.mark.slow
def test_levers_agree_with_auto_and_with_torch():
    (group,) = levers.run(["lstm"], [(8, 32, 3, 8)], 2, SILENT)
    (case,) = group.cases
    errors = {arm.name: arm.error for arm in case.arms}
    assert case.baseline == "Auto" and {
        "chunks of 16",
        "rows",
        "halves of the batch",
        "a device per core",
    } < set(errors)
    assert all(error < methods.TOLERANCE for error in errors.values() if error is not None)


def test_the_products_alone_are_those_of_a_gradient():
    """Twice as many numbers per step are multiplied as in one direction, and once more for the weights."""
    params, xs, w = (
        layers.random_params("gru", 3, 4),
        np.ones((8, 2, 3), np.float32),
        np.ones((8, 2, 4), np.float32),
    )
    program = jax.jit(levers.products_alone(3, 4)).lower(params, xs, w).as_text()
    assert program.count("stablehlo.dot_general") == 6
