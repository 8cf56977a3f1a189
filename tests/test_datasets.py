"""Test readers and windows of text against NumPy slices."""

import hashlib
import math
import os
import re
from pathlib import Path

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from seqjax import datasets
from seqjax.datasets import held_out_windows, moby_dick, read_bytes, sample_windows, split, unigram_entropy

FOLDER = Path(datasets.__file__).parent
DATA = np.random.default_rng(0).integers(0, 256, 1000).astype(np.uint8)
sample = jax.jit(sample_windows, static_argnames=("batch_size", "length"))
tokens = st.lists(st.integers(0, 255), min_size=2, max_size=50).map(lambda values: np.array(values, np.uint8))


def test_moby_dick_is_the_file_that_its_readme_describes():
    data = moby_dick()
    readme = (FOLDER / "README.md").read_text()
    assert data.dtype == np.uint8 and data.ndim == 1
    assert hashlib.sha256(data.tobytes()).hexdigest() in readme and f"{len(data)} bytes" in readme
    chapters = re.findall(rb"^CHAPTER (\d+)\.", data.tobytes(), re.MULTILINE)
    assert list(map(int, chapters)) == list(range(1, 66))
    data.tobytes().decode("utf-8")


def test_read_bytes_reads_any_file(tmp_path):
    path = tmp_path / "all.bin"
    path.write_bytes(bytes(range(256)) + b"\r\n\x00")
    for given_path in (path, str(path)):
        np.testing.assert_array_equal(read_bytes(given_path), [*range(256), 13, 10, 0])


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "gone.txt",
            FileNotFoundError,
            r"expected a file, got '.*gone.txt', which does not exist. Check the path",
        ),
        (".", ValueError, "expected a file, got the folder '.*'. Pass one of its files"),
        ("empty.txt", ValueError, "expected at least one byte, got '.*empty.txt', which is empty"),
        (
            "x" * 300,
            ValueError,
            r"expected a readable file, got '.*' \(File name too long\). Check the path",
        ),
    ],
    ids=["absent", "folder", "empty", "long"],
)
def test_read_bytes_says_what_is_wrong(name, error, message, tmp_path):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(error, match=message):
        read_bytes(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_read_bytes_of_a_file_without_permission(tmp_path):
    path = tmp_path / "secret.txt"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(ValueError, match=r"expected a readable file, got '.*' \(Permission denied\)"):
        read_bytes(path)


@given(tokens, st.floats(0.001, 0.999))
def test_split_keeps_the_order_and_leaves_no_part_empty(data, held_out):
    train, rest = split(data, held_out)
    np.testing.assert_array_equal(np.concatenate([train, rest]), data)
    assert len(train) > 0 and len(rest) > 0
    assert abs(len(rest) - held_out * len(data)) <= 1


def test_split_holds_out_the_last_tenth():
    assert [len(part) for part in split(DATA)] == [900, 100]
    assert isinstance(split(jnp.asarray(DATA))[0], jax.Array)


@pytest.mark.parametrize("held_out", [0.0, 1.0, -0.5, 10.0, math.nan])
def test_split_refuses_what_is_no_fraction(held_out):
    with pytest.raises(
        ValueError, match=rf"split: expected a fraction held_out between 0 and 1, got {held_out}"
    ):
        split(DATA, held_out)


def test_split_refuses_data_that_cannot_be_split():
    with pytest.raises(ValueError, match="split: expected at least 2 tokens, one for each part, got 1"):
        split(DATA[:1])


@settings(max_examples=8)  # each example compiles
@given(data=tokens, batch=st.integers(1, 5), step=st.integers(0, 2**31 - 1), fraction=st.floats(0, 1))
def test_sampled_windows_are_slices_of_the_data(data, batch, step, fraction):
    length = 1 + int(fraction * (len(data) - 2))
    windows = sample(jnp.asarray(data), 0, step, batch_size=batch, length=length)
    check_windows(data, *windows, batch, length)


@settings(max_examples=8)  # each example compiles
@given(data=tokens, batch=st.integers(1, 5), fraction=st.floats(0, 1))
def test_held_out_windows_are_slices_of_the_data(data, batch, fraction):
    length = 1 + int(fraction * (len(data) - 2))
    check_windows(data, *held_out_windows(data, batch, length), batch, length)


def check_windows(data, xs, targets, batch, length):
    assert xs.shape == targets.shape == (length, batch)
    assert xs.dtype == targets.dtype == jnp.int32
    slices = {bytes(data[start : start + length + 1]) for start in range(len(data) - length)}
    for b in range(batch):
        assert bytes([*np.asarray(xs[:, b]), int(targets[-1, b])]) in slices
        np.testing.assert_array_equal(xs[1:, b], targets[:-1, b])


def test_sampled_windows_are_a_pure_function_of_seed_and_step():
    def xs(seed, step):
        return np.asarray(sample(jnp.arange(1000), seed, step, batch_size=4, length=7)[0])

    np.testing.assert_array_equal(xs(3, 5), xs(3, 5))
    assert (xs(3, 5) != xs(3, 6)).any() and (xs(3, 5) != xs(4, 5)).any()


def test_sampled_windows_do_not_depend_on_jit_nor_on_how_the_seed_comes_nor_on_x64():
    data = jnp.asarray(DATA)
    expected = sample_windows(data, 3, 5, 4, 7)
    with jax.enable_x64(False):
        narrow = sample_windows(DATA, 3, 5, 4, 7)
    for got in (
        sample(data, 3, 5, batch_size=4, length=7),
        sample_windows(DATA, jax.random.key(3), 5, 4, 7),
        narrow,
    ):
        np.testing.assert_array_equal(got, expected)


def test_sampled_windows_reach_both_ends():
    starts = np.asarray(sample_windows(np.arange(6), 0, 0, batch_size=200, length=3)[0][0])
    assert set(starts.tolist()) == {0, 1, 2}


def test_held_out_windows_are_evenly_spaced():
    np.testing.assert_array_equal(held_out_windows(np.arange(101), 5, 20)[0][0], [0, 20, 40, 60, 80])
    np.testing.assert_array_equal(held_out_windows(np.arange(101), 1, 100)[1][-1], [100])


@pytest.mark.parametrize(
    ("batch", "length", "message"),
    [
        (
            4,
            1000,
            ": expected data of at least length \\+ 1 = 1001 tokens, got 1000. Use longer data or a shorter length",
        ),
        (0, 5, r"\(batch_size\): expected a whole number of at least 1, got 0"),
        (4, -1, r"\(length\): expected a whole number of at least 1, got -1"),
    ],
)
def test_windows_say_what_is_wrong(batch, length, message):
    with pytest.raises(ValueError, match=f"sample_windows{message}"):
        sample_windows(DATA, 0, 0, batch, length)
    with pytest.raises(ValueError, match=f"held_out_windows{message}"):
        held_out_windows(DATA, batch, length)


def test_unigram_entropy():
    assert unigram_entropy(np.arange(8).repeat(3)) == pytest.approx(math.log(8), rel=1e-12)
    assert unigram_entropy(np.array([0, 0, 0, 1])) == pytest.approx(
        0.75 * math.log(4 / 3) + 0.25 * math.log(4), rel=1e-12
    )
    assert str(unigram_entropy(np.array([7, 7]))) == "0.0"
    with pytest.raises(ValueError, match="unigram_entropy: expected at least 1 token, got 0"):
        unigram_entropy(np.zeros(0, np.uint8))
