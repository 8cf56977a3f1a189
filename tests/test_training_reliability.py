"""Run folders: odd paths, full disks, damage, locks, code and changes. Nothing is lost or changed without a word."""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import textwrap
import warnings
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import seqjax as sj
from seqjax.training import Checkpoints, DamagedCheckpointWarning, fit, init_train_state, make_train_step
from seqjax.training import checkpoint_storage as storage_module
from seqjax.training.checkpoint_contents import leaves_by_path
from seqjax.training.folder_lock import NAME, FolderLock
from seqjax.training.run_record import RunRecord

ROOT = Path(__file__).parent.parent
STATE = {"w": jnp.arange(6.0).reshape(2, 3), "step": jnp.int32(3)}
BLANK = jax.tree.map(jnp.zeros_like, STATE)


def python(program, *args, **options):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *map(str, args)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        **options,
    )


def saved(folder, *steps, **options):
    with Checkpoints(folder, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, STATE | {"step": jnp.int32(step)})


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize(
    "name", ["run[lr=0.1]", "x[ab]y/sub", "a**b", "back\\slash", "what?", "[!a]", "a b#%ü"]
)
def test_every_path_can_be_read_back(tmp_path, name):
    folder = tmp_path / name
    saved(folder, 1, 2)
    checkpoints = Checkpoints(folder)
    step, state = checkpoints.restore(BLANK)
    assert step == 2 and np.array_equal(state["w"], STATE["w"]) and checkpoints.steps() == [1, 2]
    assert sorted(path.name for path in folder.iterdir()) == ["steps"]


def test_names_of_leaves_are_no_paths(tmp_path):
    state = {
        "a/b": jnp.ones(2),
        "..": jnp.ones(3),
        "": jnp.ones(1),
        "x" * 300: jnp.ones(4),
        "[0]": jnp.ones(5),
    }
    state |= {"a.b": jnp.full(2, 7.0), "a": {"b": jnp.full(2, 8.0)}}
    assert len(leaves_by_path(state)) == 7
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        found = checkpoints.restore(jax.tree.map(jnp.zeros_like, state))[1]
    jax.tree.map(np.testing.assert_array_equal, found, state)


def test_what_cannot_be_read_back_ends_training_before_it_begins(tmp_path, monkeypatch):
    """A storage library that keeps nothing of the leaves, as orbax did in folders with brackets."""
    monkeypatch.setattr(
        storage_module.Storage,
        "read",
        lambda *args: (_ for _ in ()).throw(ValueError("NOT_FOUND")),
    )
    with pytest.raises(ValueError, match=r"cannot be read back \(NOT_FOUND\). Choose another folder"):
        Checkpoints(tmp_path / "a").save(1, STATE)
    made = []
    with pytest.raises(ValueError, match="fit: the first state could not be saved in .*cannot be read back"):
        fit(
            lambda *args: made.append(args),
            START,
            batches,
            num_steps=3,
            checkpoints=Checkpoints(tmp_path / "b"),
        )
    assert not made and Checkpoints(tmp_path / "b").steps() == []


def test_a_changed_byte_of_the_first_checkpoint_is_noticed_at_once(tmp_path, monkeypatch):
    read = storage_module.digest
    calls = []

    def changed(leaf):
        calls.append(leaf)
        return read(leaf) if len(calls) <= len(STATE) else "another"

    monkeypatch.setattr(storage_module, "digest", changed)
    with pytest.raises(ValueError, match="cannot be read back"):
        Checkpoints(tmp_path).save(1, STATE)


# ---------------------------------------------------------------- reading


def test_reading_needs_no_right_to_write_and_writes_nothing(tmp_path, monkeypatch):
    saved(tmp_path, 1, 2, config={"cell": "lstm"})

    def refuse(*args, **options):
        raise PermissionError("read-only")

    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    flags = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    opened = os.open
    monkeypatch.setattr(
        os, "open", lambda path, how, *rest, **k: refuse() if how & flags else opened(path, how, *rest, **k)
    )
    for name in ("mkdir", "rename", "replace", "unlink"):
        monkeypatch.setattr(os, name, refuse)
    reader = Checkpoints(tmp_path, config={"cell": "lstm"})
    assert reader.steps() == [1, 2] and reader.restore(BLANK)[0] == 2 and reader.notes(1) == {}
    reader.close()
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before
    assert Checkpoints(tmp_path / "new").steps() == [] and not (tmp_path / "new").exists()


def test_a_reader_sees_what_a_writer_adds(tmp_path):
    reader, writer = Checkpoints(tmp_path), Checkpoints(tmp_path)
    for step in (1, 2):
        writer.save(step, STATE, wait=True)
        assert reader.restore(BLANK)[0] == step
    writer.close()


# ---------------------------------------------------------------- damage


def test_damage_to_a_description_is_damage_and_an_older_checkpoint_is_used(tmp_path):
    saved(tmp_path, 1, 2)
    path = next((tmp_path / "steps" / "2" / "about").glob("metadata"))
    whole = path.read_bytes()
    places = [whole.index(word) for word in (b"float", b"shape", b"sha256", b"notes", b"stored", b"config")]
    for place in (*places, *range(0, len(whole), len(whole) // 10)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.warns(DamagedCheckpointWarning, match="Using that of step 1") as said:
            assert Checkpoints(tmp_path).restore(BLANK)[0] == 1
        [message] = [str(each.message) for each in said if each.category is DamagedCheckpointWarning]
        assert "\n" not in message and len(message) < 600
    path.write_bytes(whole)
    assert Checkpoints(tmp_path).restore(BLANK)[0] == 2


def test_a_damaged_checkpoint_prints_one_line(tmp_path):
    """The storage libraries report through logging, through asyncio and as ignored exceptions."""
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, STATE | {"w": jnp.ones((2, 3), jnp.float32)})
    for path in (tmp_path / "steps" / "2" / "state").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[:20])
    program = """
        import sys, jax.numpy as jnp
        from seqjax.training import Checkpoints
        like = {"w": jnp.zeros((2, 3), "float32"), "step": jnp.int32(0)}
        with Checkpoints(sys.argv[1]) as checkpoints:
            print(checkpoints.restore(like)[0])
    """
    ran = python(program, tmp_path)
    assert ran.stdout == "1\n", ran.stderr
    lines = [line for line in ran.stderr.splitlines() if not line.startswith("  ")]
    assert len(lines) == 1 and "DamagedCheckpointWarning" in lines[0], ran.stderr


def test_a_save_that_fails_leaves_nothing_that_fills_the_disk(tmp_path):
    """A limit on the size of files stands for the disk. What a killed save has left goes as well."""
    program = """
        import resource, signal, sys, jax.numpy as jnp
        from pathlib import Path
        from seqjax.training import Checkpoints
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        steps = Path(sys.argv[1], "steps")
        (steps / "9.orbax-checkpoint-tmp").mkdir(parents=True)
        checkpoints = Checkpoints(sys.argv[1])
        checkpoints.save(1, {"a": jnp.ones(10)}, wait=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
        for step in (2, 3):
            try:
                checkpoints.save(step, {"a": jnp.sin(jnp.arange(100_000.0))}, wait=True)
            except Exception as error:
                print(type(error).__name__)
        print([path.name for path in steps.iterdir()])
    """
    ran = python(program, tmp_path)
    *errors, names = ran.stdout.splitlines()
    assert len(errors) == 2 and names == "['1']", ran.stdout + ran.stderr
    assert ran.stderr == ""


@pytest.mark.parametrize(
    "count", [12, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_no_blind_damage_is_silent_or_stuck(tmp_path, count):
    """One byte flipped, a file cut or removed, anywhere in a run: an older state, or a refusal of one line."""
    config = {"rate": 0.5, "names": ["a", "b"], "seed": 3}
    whole = tmp_path / "whole"
    saved(whole, 1, 2, config=config)
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    chance, outcomes = random.Random(0), Counter()
    for number in range(count):
        broken = tmp_path / str(number)
        shutil.copytree(whole, broken)
        path = broken / chance.choice(files)
        data = bytearray(path.read_bytes())
        place = chance.randrange(max(len(data), 1))
        how = chance.choice(["flip", "flip", "cut", "remove"])
        if how == "flip" and data:
            data[place] ^= 1 << chance.randrange(8)
        path.unlink() if how == "remove" else path.write_bytes(data if how == "flip" else data[:place])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DamagedCheckpointWarning)
            try:
                kept = json.loads((broken / "config.json").read_bytes())
            except (ValueError, FileNotFoundError):
                kept = config
            try:
                with Checkpoints(broken, config=kept) as checkpoints:
                    step, state = checkpoints.restore(BLANK)
                assert (
                    np.array_equal(state["w"], STATE["w"]) and int(state["step"]) == step and kept == config
                )
                outcomes[step] += 1
            except ValueError as error:
                assert path.name == "config.json" and "\n" not in str(error), (path, str(error))
                outcomes["refused"] += 1
        shutil.rmtree(broken)
    assert sum(outcomes.values()) == count
    if count > 100:  # the names of files differ from run to run, and with them what a few damages hit
        assert outcomes[1] > 0 and outcomes[2] > 0


# ---------------------------------------------------------------- locks


def test_two_writers_in_one_folder_are_refused_with_the_process(tmp_path):
    first, second = Checkpoints(tmp_path), Checkpoints(tmp_path)
    first.save(1, {"w": jnp.zeros(2)}, wait=True)
    with pytest.raises(
        ValueError, match=rf"is being written by process {os.getpid()}, which is this one. Close"
    ):
        second.save(1, {"w": jnp.ones(2)}, wait=True)
    assert float(second.restore({"w": jnp.zeros(2)})[1]["w"].sum()) == 0  # reading takes no lock
    first.close()
    with pytest.raises(ValueError, match=r"step 1 is saved already in .*drop_from\(1\)"):
        second.save(1, {"w": jnp.ones(2)})
    second.save(2, {"w": jnp.ones(2)})
    second.close()
    assert not (tmp_path / NAME).exists()


def test_another_process_is_named_and_its_end_releases_the_lock(tmp_path):
    program = """
        import os, signal, sys
        from seqjax.training.folder_lock import FolderLock
        lock = FolderLock(sys.argv[1])
        lock.acquire()
        print(os.getpid(), flush=True)
        sys.stdin.readline()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    pid = process.stdout.readline().strip()
    with pytest.raises(ValueError, match=f"is being written by process {pid} on .*Wait for its end"):
        fit(lambda *args: None, START, batches, num_steps=3, checkpoints=Checkpoints(tmp_path))
    process.communicate("\n")
    assert process.returncode == -9 and (tmp_path / NAME).exists()
    saved(tmp_path, 1)


def test_fit_releases_the_lock_that_it_took(tmp_path):
    def step(state, batch):
        return state._replace(step=state.step + 1), {"loss": jnp.zeros(())}

    for number in (2, 4):  # the first Checkpoints is never closed
        fit(step, START, batches, num_steps=number, checkpoints=Checkpoints(tmp_path), progress=False)
        assert not (tmp_path / NAME).exists()
    held = Checkpoints(tmp_path)
    held.claim()
    with pytest.raises(ValueError, match="is being written by"):
        fit(step, START, batches, num_steps=5, checkpoints=Checkpoints(tmp_path), progress=False)
    held.close()


def test_a_folder_that_is_removed_or_replaced_is_not_written(tmp_path):
    folder = tmp_path / "run"
    lock = FolderLock(folder)
    lock.acquire()
    folder.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match="was removed or replaced"):
        lock.check()
    other = FolderLock(folder)
    other.acquire()
    with pytest.raises(FileNotFoundError, match="was removed or replaced"):
        lock.check()
    lock.release()
    other.check()  # the end of the first one does not end the second
    other.release()


def test_fit_says_what_it_could_not_save(tmp_path):
    def step(state, batch):
        if int(state.step) == 3:
            (tmp_path / "run").rename(tmp_path / "moved")
        return state._replace(step=state.step + 1), {"loss": jnp.zeros(())}

    options = {"num_steps": 6, "checkpoint_every": 2, "eval_every": 2, "progress": False}
    evaluate = lambda state: {"loss": -float(state.step)}  # noqa: E731
    checkpoints = Checkpoints(tmp_path / "run")
    fitted = fit(step, START, batches, checkpoints=checkpoints, evaluate=evaluate, **options)
    assert fitted.unsaved == "the last state, of step 6 and the best state, of step 6"
    fine = fit(
        step,
        START,
        batches,
        checkpoints=Checkpoints(tmp_path / "b"),
        evaluate=evaluate,
        **options | {"num_steps": 3},
    )
    assert fine.unsaved is None and fit(step, START, batches, num_steps=2, progress=False).unsaved is None


# ---------------------------------------------------------------- what a run depends on


def test_a_checkpoint_of_another_configuration_or_other_inputs_is_refused(tmp_path):
    config, inputs = {"rate": np.float32(0.5), "dtype": np.dtype("int8"), "file": "/a/m.py"}, {"sha": "1"}
    saved(tmp_path, 1, config=config, inputs=inputs, paths=("file",))
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("0.5", "0.25"))
    with pytest.raises(ValueError, match=r"another configuration: rate 0.25 -> 0.5"):
        Checkpoints(tmp_path, config=config)
    with pytest.raises(ValueError, match=r"other inputs: rate 0.5 -> 0.25. Restore them"):
        Checkpoints(tmp_path, config=config | {"rate": 0.25}).restore(BLANK)
    path.write_text(path.read_text().replace("0.25", "0.5").replace("/a/m.py", "/b/m.py"))
    moved = config | {"file": "/b/m.py"}
    with pytest.raises(ValueError, match=r"other inputs: sha 1 -> 2"):
        Checkpoints(tmp_path, config=moved, inputs={"sha": "2"}, paths=("file",)).restore(BLANK)
    assert Checkpoints(tmp_path, config=moved, inputs=inputs, paths=("file",)).restore(BLANK)[0] == 1
    with pytest.raises(
        TypeError, match=r"Checkpoints\(config\): expected values that JSON holds, got object"
    ):
        Checkpoints(tmp_path / "new", config={"a": object()})


def test_an_allowed_change_is_logged_and_older_checkpoints_stay_valid(tmp_path):
    saved(tmp_path, 3, config={"steps": 3, "seed": 0})
    with pytest.raises(ValueError, match="another configuration: seed 0 -> 1"):
        Checkpoints(tmp_path, config={"steps": 6, "seed": 1}, may_change=("steps",))
    with Checkpoints(tmp_path, config={"steps": 6, "seed": 0}, may_change=("steps",)) as checkpoints:
        assert checkpoints.restore(BLANK)[0] == 3
        checkpoints.save(6, STATE)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written == {"steps": 6, "seed": 0, "changes": [{"after_step": 3, "steps": [3, 6]}]}
    with Checkpoints(tmp_path, config={"steps": 6, "seed": 0}) as again:
        assert again.restore(BLANK, 3)[0] == 3 and again.restore(BLANK, 6)[0] == 6
    (tmp_path / "config.json").write_text(json.dumps(written | {"changes": []}))
    with pytest.raises(ValueError, match="other inputs: .*changes"):
        Checkpoints(tmp_path, config={"steps": 6, "seed": 0}).restore(BLANK, 6)
    with pytest.raises(ValueError, match="other inputs: steps 3 -> 6"):
        Checkpoints(tmp_path, config={"steps": 6, "seed": 0}).restore(BLANK, 3)


def test_other_versions_are_logged(tmp_path, monkeypatch, caplog):
    def step(state, batch):
        return state._replace(step=state.step + 1), {"loss": jnp.zeros(())}

    fit(step, START, batches, num_steps=2, checkpoints=Checkpoints(tmp_path), progress=False)
    before = optax.__version__
    monkeypatch.setattr(optax, "__version__", "99")
    fit(step, START, batches, num_steps=3, checkpoints=Checkpoints(tmp_path), progress=False)
    assert f"comes from other versions: optax {before} -> 99. Results may" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"params": jnp.ones(3)}, "The model is another one"),
        ({"opt_state": (jnp.zeros(4),)}, "the optimizer is another one"),
        ({"opt_state": ()}, "the optimizer is another one"),
        ({"carry": jnp.zeros((5, 2))}, "The streams are others: their batch size"),
        ({"key": None}, "The random key has another implementation"),
        ({"params": jnp.ones(2, jnp.float16), "carry": jnp.zeros((4, 2), jnp.float16)}, "Only dtypes differ"),
        ({"more": jnp.ones(2)}, "Build the state that was saved"),
    ],
)
def test_a_mismatch_names_what_has_changed(tmp_path, change, message):
    state = {
        "params": jnp.ones(2),
        "opt_state": (jnp.zeros(3),),
        "carry": jnp.zeros((4, 2)),
        "key": jax.random.key(0),
    }
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        with pytest.raises(ValueError, match=message):
            checkpoints.restore(state | change)
        with pytest.raises(ValueError, match="for params alone use seqjax.training.warm_start"):
            checkpoints.restore({"params": state["params"]})


# ---------------------------------------------------------------- hyperparams in the optimizer's state


MODEL = sj.recurrent(sj.elman(2))
SGD = optax.inject_hyperparams(optax.sgd)


def batches(step):
    return sj.Batch(np.full((3, 2, 2), step / 10 + 0.1, np.float32), np.ones((3, 2, 2), np.float32))


def initial(optimizer):
    return init_train_state(MODEL, optimizer, jax.random.key(0), batches(0).xs[0])


START = initial(optax.sgd(0.1))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda rate: SGD(rate),
        lambda rate: optax.chain(optax.clip(1.0), SGD(learning_rate=rate)),
        lambda rate: optax.MultiSteps(SGD(rate), 1).gradient_transformation(),
        lambda rate: optax.partition(
            {"a": SGD(rate), "b": optax.sgd(0.1)}, lambda p: jax.tree.map(lambda _: "a", p)
        ),
    ],
    ids=["plain", "chain", "multi-steps", "partition"],
)
@pytest.mark.fast_cases(1)
def test_another_rate_in_the_optimizers_state_needs_a_choice(tmp_path, wrap):
    def go(rate, num_steps, **options):
        optimizer = wrap(rate)
        step = make_train_step(MODEL, lambda ys, targets: ((ys - targets) ** 2).sum(-1), optimizer)
        options |= {"checkpoints": Checkpoints(tmp_path), "progress": False}
        state = fit(step, initial(optimizer), batches, num_steps=num_steps, **options).state
        return np.asarray(state.params.w_x)

    first = go(0.1, 2)
    with pytest.raises(ValueError, match=r"learning_rate 0.1\d* -> 0.0. Pass hyperparams='new'"):
        go(0.0, 3)
    assert np.array_equal(go(0.0, 3, hyperparams="new"), first)  # a rate of 0
    assert np.array_equal(go(0.0, 4), first)  # the choice is remembered
    assert not np.array_equal(go(0.1, 5, hyperparams="new"), first)
    with pytest.raises(ValueError, match="expected 'checkpoint', 'new' or None, got 'old'"):
        go(0.1, 6, hyperparams="old")


def test_hyperparams_that_change_on_the_way_are_continued(tmp_path):
    """A run that lowers its rate itself resumes with the lower rate, and needs no choice."""
    optimizer = SGD(0.1)
    inner = make_train_step(MODEL, lambda ys, targets: ((ys - targets) ** 2).sum(-1), optimizer)

    def step(state, batch):
        state, metrics = inner(state, batch)
        lower = {"learning_rate": state.opt_state.hyperparams["learning_rate"] / 2}
        return state._replace(opt_state=state.opt_state._replace(hyperparams=lower)), metrics

    whole = fit(step, initial(optimizer), batches, num_steps=4, progress=False).state
    for number in (2, 4):
        state = fit(
            step,
            initial(optimizer),
            batches,
            num_steps=number,
            checkpoints=Checkpoints(tmp_path),
            progress=False,
        ).state
    jax.tree.map(np.testing.assert_array_equal, state.params, whole.params)
    rate = float(state.opt_state.hyperparams["learning_rate"])
    assert rate == pytest.approx(0.1 / 16)


def test_every_promise_names_a_test():
    """docs/promises.md: the file and the function exist."""
    named = re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", (ROOT / "docs" / "promises.md").read_text())
    assert len(named) > 15
    for file, name in named:
        assert f"def {name}" in (ROOT / "tests" / file).read_text() or not name, (file, name)


def test_a_run_that_began_meanwhile_keeps_its_configuration(tmp_path):
    late = RunRecord(tmp_path, {"seed": 1}, None, (), (), lambda: None)
    saved(tmp_path, 1, config={"seed": 0})
    with pytest.raises(ValueError, match="another configuration: seed 0 -> 1"):
        late.write()
    assert json.loads((tmp_path / "config.json").read_text()) == {"seed": 0}
