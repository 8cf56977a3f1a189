"""Test warm starts: params are taken by path and shape, and what was not taken is reported."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.command_line import run
from helpers.tiers import slow

import seqjax as sj
from seqjax.training import Checkpoints, warm_start
from seqjax.training.checkpoint_contents import leaves_by_path
from seqjax.training.recipe import STACKS, Recipe
from seqjax.training.recipe_model import model_of, parts_of
from seqjax.training.run import begin_from, prepare

PARAMS = {
    "embed": {"kernel": jnp.arange(6.0).reshape(2, 3)},
    "layers": (jnp.full(3, 2.0), jnp.full(3, 3.0)),
    "head": {"kernel": jnp.ones((3, 2)), "bias": jnp.full(2, 7.0)},
}


def saved(folder, params=PARAMS, step=5):
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(step, {"params": params, "opt_state": (jnp.zeros(4), jnp.ones((), int))})
    return folder


def test_params_come_by_path_and_shape_and_the_rest_is_reported(tmp_path):
    new = {
        "embed": {"kernel": jnp.zeros((2, 3), jnp.bfloat16)},
        "layers": (jnp.zeros(3), jnp.zeros(3), jnp.full(3, -1.0)),
        "head": {"kernel": jnp.full((3, 9), -2.0), "bias": jnp.full(9, -3.0)},
    }
    made, report = warm_start(new, saved(tmp_path))
    assert jax.tree.structure(made) == jax.tree.structure(new)
    assert made["embed"]["kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(made["embed"]["kernel"], np.float32), PARAMS["embed"]["kernel"])
    for number in (0, 1):
        np.testing.assert_array_equal(made["layers"][number], PARAMS["layers"][number])
    assert made["layers"][2] is new["layers"][2] and made["head"]["bias"] is new["head"]["bias"]
    assert report.taken == ("embed.kernel", "layers.0", "layers.1")
    assert report.differ == (("head.bias", (9,), (2,)), ("head.kernel", (3, 9), (3, 2)))
    assert report.missing == ("layers.2",) and report.unused == () and not report.whole
    # Every param of the model is in exactly one list.
    listed = [*report.taken, *(path for path, *_ in report.differ), *report.missing]
    assert sorted(listed) == sorted(leaves_by_path(new))
    assert json.loads(json.dumps(report.to_json()))["differ"][0] == ["head.bias", [9], [2]]
    for words in (
        "3 arrays were taken",
        "head.bias [9], in the checkpoint [2]",
        "not in the checkpoint: layers.2",
    ):
        assert words in str(report)


def test_parts_are_renamed_or_left_out(tmp_path):
    new = {
        "layers": (jnp.zeros(3), jnp.zeros(3)),
        "old_head": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)},
    }
    saved(tmp_path)
    rename = {"layers": None, "layers.0": "layers.1", "head": "old_head"}
    made, report = warm_start(new, tmp_path, rename=rename)
    np.testing.assert_array_equal(made["layers"][1], PARAMS["layers"][0])
    np.testing.assert_array_equal(made["old_head"]["bias"], PARAMS["head"]["bias"])
    assert report.missing == ("layers.0",) and report.unused == ("embed.kernel", "layers.1")
    with pytest.raises(
        ValueError, match=r"expected a path for each param, got layers.1 for layers.0 and layers.1"
    ):
        warm_start(new, tmp_path, rename={"layers.0": "layers.1"})


def test_strict_refuses_any_difference(tmp_path):
    saved(tmp_path)
    assert warm_start(PARAMS, tmp_path, strict=True)[1].whole
    with pytest.raises(
        ValueError, match="params that all fit, got: Warm start .*not in the checkpoint: more"
    ):
        warm_start({**PARAMS, "more": jnp.ones(2)}, tmp_path, strict=True)
    fewer = {name: PARAMS[name] for name in ("embed", "head")}
    with pytest.raises(ValueError, match="not used, not in the model: layers.0"):
        warm_start(fewer, tmp_path, strict=True)
    assert warm_start(fewer, tmp_path)[1].unused == ("layers.0", "layers.1")


def test_what_cannot_be_taken_is_one_clear_error(tmp_path):
    with pytest.raises(ValueError, match="warm_start: expected a checkpoint in .*nowhere, got none"):
        warm_start(PARAMS, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="expected params that fit, got: .* 0 arrays were taken"):
        warm_start({"w": jnp.ones(2)}, saved(tmp_path / "a"))
    with Checkpoints(tmp_path / "b") as checkpoints:
        checkpoints.save(1, {"weights": jnp.ones(2)})
    with pytest.raises(ValueError, match="expected a checkpoint of a state with params in .*, got weights"):
        warm_start(PARAMS, tmp_path / "b")
    with pytest.raises(ValueError, match=r"expected w of float\d\d, got complex numbers"):
        warm_start({"w": jnp.ones(2)}, saved(tmp_path / "c", {"w": jnp.ones(2, complex)}))
    assert not (tmp_path / "nowhere").exists()


def test_the_best_params_are_taken_where_they_are_saved(tmp_path):
    saved(tmp_path, {"w": jnp.zeros(2)}, step=9)
    saved(tmp_path / "best", {"w": jnp.ones(2)}, step=4)
    for best, step, value in ((True, 4, 1.0), (False, 9, 0.0)):
        made, report = warm_start({"w": jnp.full(2, -1.0)}, tmp_path, best=best)
        assert report.step == step and float(made["w"][0]) == value


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"dropout": 0.1},
        {"depth": 2},
        {"depth": 3, "dropout": 0.1},
        {"model": "samba", "depth": 2},
        *slow(*({"model": name, "depth": 1} for name in sorted(set(STACKS) - {"samba"}))),
    ],
)
def test_the_parts_of_a_model_are_where_they_are_said_to_be(settings):
    """Every param belongs to one part, and norms and maps are what their names say."""
    recipe = Recipe(task="parity", hidden_size=8, heads=2, length=4, **settings)
    model = model_of(recipe, sj.tasks.parity(4))
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(1, int))
    parts = parts_of(recipe)
    of = {
        path: [role for role, part in parts.items() if path == part or path.startswith(part + ".")]
        for path in leaves_by_path(jax.tree.map(lambda a: np.zeros(a.shape), params))
    }
    assert all(len(roles) == 1 for roles in of.values())
    found = {
        roles[0]: {path.rpartition(".")[2] for path, r in of.items() if r == roles} for roles in of.values()
    }
    assert set(found) == set(parts)
    assert found["inputs"] == {"embedding"} and found["outputs"] == {"kernel", "bias"}
    assert all(names <= {"scale", "bias"} for role, names in found.items() if role.startswith("norm"))


def test_a_run_begins_with_the_params_of_another_of_any_depth(tmp_path):
    recipe = Recipe(task="parity", length=4, batch_size=2, hidden_size=3, model="elman", depth=2)
    old = prepare(recipe)
    saved(tmp_path, old.state.params)
    (tmp_path / "config.json").write_text(json.dumps(recipe.to_json()))
    other = Recipe(**{**recipe.to_json(), "depth": 3, "seed": 4, "init_from": str(tmp_path)})
    made, report = begin_from(prepare(other), other)
    assert (
        {path.partition(".")[0] for path in report.missing} == {"3"}
        and not report.differ
        and not report.unused
    )
    before, after = leaves_by_path(old.state.params), leaves_by_path(made.state.params)
    for there, here in {"0": "0", "1": "1", "2": "2", "3": "4", "4": "5"}.items():
        for name in (name for name in before if name.partition(".")[0] == there):
            np.testing.assert_array_equal(before[name], after[here + name[len(there) :]])
    # The model of the other run is code: its name is read, and no more.
    (tmp_path / "config.json").write_text(json.dumps(recipe.to_json() | {"model": "nowhere.py:build"}))
    assert begin_from(prepare(other), other)[1].taken == report.taken


TINY = "--length 4 --batch-size 2 --hidden-size 3 --model elman --steps 2 --eval-every 2 --eval-batches 1".split()


def test_a_warm_start_is_reported_repeated_and_resumed(monkeypatch, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    assert run(monkeypatch, "train", "parity", *TINY, "--out", first) == 0
    options = ["--init-from", first, "--init-strict"]
    assert run(monkeypatch, "train", "parity", *TINY, "--seed", 1, *options, "--out", second) == 0
    said = capsys.readouterr().out
    assert f"Warm start from step 2 of {first / 'best'}: 6 arrays were taken." in said
    assert f"{second / 'warm_start.json'}: " in said
    report = json.loads((second / "warm_start.json").read_text())
    config = json.loads((second / "config.json").read_text())
    assert report["sha256"] == config["init_sha256"] and len(report["taken"]) == 6 and not report["missing"]
    assert run(monkeypatch, "train", "--config", second / "config.json", "--out", tmp_path / "again") == 0
    newest = [Checkpoints(folder).restore(None)[1] for folder in (second, tmp_path / "again")]
    assert all(np.array_equal(newest[0][name], newest[1][name]) for name in newest[0])

    def refused(*options):
        capsys.readouterr()
        assert run(monkeypatch, "train", *options, "--out", tmp_path / "x") == 2
        assert not (tmp_path / "x").exists()
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1
        return said.err

    deeper = ["parity", *TINY, "--depth", 2, *options]
    assert "warm_start: expected params that all fit" in refused(*deeper)
    assert "expected a checkpoint in" in refused("parity", *TINY, "--init-from", tmp_path / "nowhere")
    shutil.rmtree(first / "best")
    assert run(monkeypatch, "train", "--out", first, "--resume", "--steps", 3) == 0
    assert "have changed since the run was made" in refused("--config", second / "config.json")
    shutil.rmtree(first)
    assert run(monkeypatch, "train", "--out", second, "--resume", "--steps", 3) == 0  # needs no other run
