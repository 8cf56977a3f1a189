"""Test checkpoints: they are restored bit by bit, and damaged ones raise errors."""

import gc
import shutil
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqjax.training import Checkpoints, DamagedCheckpointWarning
from seqjax.training.checkpoint_contents import difference

STATE = {
    "params": {"w": jnp.arange(6.0, dtype=jnp.float32).reshape(2, 3), "b": jnp.full(4, 1.5, jnp.bfloat16)},
    "complex": jnp.asarray([1 + 2j], jnp.complex64),
    "double": jnp.asarray([1 / 3], jnp.float64),
    "step": jnp.int32(7),
    "key": jax.random.key(3),
    "nothing": None,
    "carry": (jnp.zeros((2, 0)), jnp.asarray([True, False])),
}


def bits(tree):
    leaves = jax.tree.leaves(
        jax.tree.map(lambda a: a if a.dtype != STATE["key"].dtype else jax.random.key_data(a), tree)
    )
    return [(str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes()) for leaf in leaves]


def blank(state):
    return jax.tree.map(lambda a: a if a.dtype == STATE["key"].dtype else jnp.zeros_like(a), state)


def later(step):
    return STATE | {"step": jnp.int32(step)}


def test_what_is_read_is_what_was_written(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, later(step))
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3]
        step, state = checkpoints.restore(blank(STATE))
        assert step == 3 and bits(state) == bits(later(3))
        assert jax.tree.structure(state) == jax.tree.structure(STATE)
        assert bits(checkpoints.restore(blank(STATE), 2)[1]) == bits(later(2))
    with Checkpoints(tmp_path) as again:
        assert bits(again.restore(blank(STATE))[1]) == bits(later(3))


def test_saving_copies_so_that_the_memory_may_be_donated(tmp_path):
    overwrite = jax.jit(lambda a: a * 0 - 1, donate_argnums=0)
    big = jnp.arange(500_000.0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"a": big})
        overwrite(big)
        checkpoints.wait()
        np.testing.assert_array_equal(
            checkpoints.restore({"a": jnp.zeros(500_000)})[1]["a"], np.arange(500_000.0)
        )


def test_shardings_are_those_asked_for(tmp_path):
    mesh = jax.make_mesh((8,), ("data",))
    split = jax.NamedSharding(mesh, jax.P("data"))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"a": jax.device_put(jnp.arange(16.0), split)}, wait=True)
        whole = checkpoints.restore({"a": jnp.zeros(16)})[1]["a"]
        parts = checkpoints.restore({"a": jax.device_put(jnp.zeros(16), split)})[1]["a"]
    assert parts.sharding == split and not whole.sharding.is_equivalent_to(split, 1)
    np.testing.assert_array_equal(parts, whole)


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 0x10
    path.write_bytes(data[: len(data) // 2] if how == "cut" else b"" if how == "emptied" else data)


# Where one leaf cannot be read, orbax leaves the loop in which tensorstore still reads the others, which then complain.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_every_damage_is_noticed_and_an_older_one_is_used(tmp_path):
    whole = tmp_path / "whole"
    with Checkpoints(whole) as checkpoints:
        checkpoints.save(1, later(1))
        checkpoints.save(2, later(2))
    files = [p.relative_to(whole) for p in sorted((whole / "steps" / "2").rglob("*")) if p.is_file()]
    assert len(files) > 5
    noticed = 0
    cases = [(file, how) for file in files for how in ("flipped", "cut", "emptied")]
    for file, how in cases:
        broken = tmp_path / "broken"
        shutil.copytree(whole, broken)
        damage(broken / file, how)
        with pytest.warns() as said, Checkpoints(broken) as checkpoints:
            warnings.warn("one at least", stacklevel=1)
            step, state = checkpoints.restore(blank(STATE))
        # Some files are not needed to read the arrays: then nothing is lost. Never is something else returned.
        assert bits(state) == bits(later(step)), (file, how)
        if step == 1:
            noticed += 1
            assert any(issubclass(w.category, DamagedCheckpointWarning) for w in said), (file, how)
        shutil.rmtree(broken)
    gc.collect()  # so that what complains does so here
    assert noticed >= 10


def test_an_empty_step_folder_breaks_nothing(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, later(1))
    (tmp_path / "steps" / "2").mkdir()
    with (
        pytest.warns(DamagedCheckpointWarning, match="Using that of step 1"),
        Checkpoints(tmp_path) as checkpoints,
    ):
        assert checkpoints.restore(blank(STATE))[0] == 1


def test_when_all_are_damaged_it_says_so(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, later(1))
    for path in (tmp_path / "steps" / "1").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"all in .* are damaged: 1: "), Checkpoints(tmp_path) as checkpoints:
        checkpoints.restore(blank(STATE))
    with pytest.raises(FileNotFoundError, match="expected a checkpoint in .*, got none"):
        Checkpoints(tmp_path / "new").restore(blank(STATE))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"step": jnp.int64(0)},
            r"step: expected int64\[\], got int32\[\]. Only dtypes differ. Use the precision",
        ),
        ({"double": jnp.zeros(2)}, r"double: expected float64\[2\], got float64\[1\]"),
        ({"more": jnp.zeros(1)}, r"more: expected float64\[1\], got nothing"),
        ({"complex": None}, r"complex: expected nothing, got complex64\[1\]"),
    ],
)
def test_another_state_is_refused_and_not_cast(tmp_path, change, message):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, STATE, wait=True)
        with pytest.raises(ValueError, match=message):
            checkpoints.restore(STATE | change)


def test_another_configuration_is_refused_with_what_differs(tmp_path):
    config = {"model": {"cell": "lstm", "sizes": (8, 16)}, "seed": 0}
    Checkpoints(tmp_path, config=config).close()
    Checkpoints(tmp_path, config=config).close()
    other = {"model": {"cell": "gru", "sizes": [8, 16]}, "seed": 0, "rate": 0.1}
    with pytest.raises(
        ValueError, match=r"another configuration: model.cell lstm -> gru; rate None -> 0.1. Use the same"
    ):
        Checkpoints(tmp_path, config=other)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is damaged"):
        Checkpoints(tmp_path, config=config)
    assert difference({"a": 1}, {"a": 1}) == []


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ValueError, match=r"file/run cannot be written \(Not a directory\). Choose another folder"
    ):
        Checkpoints(tmp_path / "file" / "run").save(1, {"w": jnp.zeros(2)})
    with pytest.raises(
        ValueError, match=r"Checkpoints\(keep\): expected a whole number of at least 1, got 0"
    ):
        Checkpoints(tmp_path, keep=0)


def test_a_full_disk_is_said_and_loses_no_earlier_checkpoint(tmp_path):
    """A limit on the size of files stands for the disk: writing beyond it fails in the same way."""
    program = f"""
        import resource, signal
        import jax.numpy as jnp
        from seqjax.training import Checkpoints
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        small, large = {{"a": jnp.ones(10)}}, {{"a": jnp.arange(2_000_000.0)}}
        checkpoints = Checkpoints({str(tmp_path)!r})
        checkpoints.save(1, small, wait=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        try:
            checkpoints.save(2, large, wait=True)
        except Exception as error:
            print("said:", type(error).__name__)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(checkpoints.steps(), checkpoints.restore(small)[0])
        checkpoints.save(3, small, wait=True)
        print(checkpoints.steps())
    """
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("said:") and lines[1:] == ["[1] 1", "[1, 3]"], ran.stdout + ran.stderr
