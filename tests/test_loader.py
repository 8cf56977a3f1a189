"""Test batches as a pure function of seed and step, against plain loops; damaged files."""

import threading
import zipfile

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given

from seqjax import datasets as D
from seqjax.datasets import (
    examples,
    packed,
    padded,
    prefetch,
    read_arrays,
    read_json_lines,
    read_lines,
    streams,
    windows,
)

DOCUMENTS = st.lists(st.integers(0, 9), min_size=1, max_size=8)


def numbered(sizes):
    """Documents whose tokens are all different: token 1000 i + t."""
    return [1000 * i + np.arange(size) for i, size in enumerate(sizes)]


def transitions(batch):
    """``(x, target)`` of every step that happens, row by row."""
    mask = np.ones(batch.xs.shape, bool) if batch.mask is None else batch.mask
    return [(int(x), int(t)) for x, t in zip(batch.xs.T[mask.T], batch.targets.T[mask.T], strict=True)]


@given(sizes=DOCUMENTS, batch=st.integers(1, 3), length=st.integers(1, 6), seed=st.integers(0, 3))
def test_packing_loses_and_invents_nothing(sizes, batch, length, seed):
    documents = numbered(sizes)
    expected = sorted((int(d[t]), int(d[t + 1])) for d in documents for t in range(len(d) - 1))
    if not expected:
        with pytest.raises(ValueError, match="expected a document of at least 2 tokens, got none"):
            packed(documents, batch_size=batch, length=length)
        return
    loader = packed(documents, batch_size=batch, length=length, seed=seed)
    for epoch in range(2):
        steps = range(epoch * loader.steps_per_epoch, (epoch + 1) * loader.steps_per_epoch)
        batches = [loader(step) for step in steps]
        assert sorted(pair for b in batches for pair in transitions(b)) == expected
        for b in batches:
            for row in range(batch):
                before = None
                for x, target, reset, happens in zip(
                    *(a[:, row] for a in (b.xs, b.targets, b.reset, b.mask)), strict=True
                ):
                    if happens:  # a step either restarts or goes on where the one before ended
                        assert reset or x == before
                        assert x % 1000 != 0 or reset
                        before = target
                    assert happens or not reset


@given(sizes=DOCUMENTS, batch=st.integers(1, 3), length=st.integers(1, 6))
def test_padding_holds_each_document_once_an_epoch(sizes, batch, length):
    documents = numbered(sizes)
    loader = padded(documents, batch_size=batch, length=length)
    expected = sorted((int(d[t]), int(d[t + 1])) for d in documents for t in range(min(len(d) - 1, length)))
    for epoch in range(2):
        steps = range(epoch * loader.steps_per_epoch, (epoch + 1) * loader.steps_per_epoch)
        batches = [loader(step) for step in steps]
        assert sorted(pair for b in batches for pair in transitions(b)) == expected
        for b in batches:  # masks are lengths: they do not come back once they ended
            assert (np.diff(b.mask.astype(int), axis=0) <= 0).all()


@given(size=st.integers(3, 40), batch=st.integers(1, 3), length=st.integers(1, 7), steps=st.integers(1, 12))
def test_streams_go_on_where_they_stopped(size, batch, length, steps):
    if size < batch + 1:
        return
    loader = streams(np.arange(size), batch_size=batch, length=length)
    batches = [loader(step) for step in range(steps)]
    xs, targets, reset = (
        np.concatenate([getattr(b, name) for b in batches]) for name in ("xs", "targets", "reset")
    )
    np.testing.assert_array_equal(targets, xs + 1)
    part = (size - 1) // batch
    for row in range(batch):
        for t in range(len(xs)):
            begins = t % part == 0
            assert bool(reset[t, row]) == begins
            assert xs[t, row] == (row * part if begins else xs[t - 1, row] + 1)


def test_rows_of_streams_restart_at_a_share_of_the_batches():
    plain, loader = (streams(np.arange(1000), batch_size=8, length=4, restart=p, seed=3) for p in (0.0, 0.25))
    extra = [loader(step).reset & ~plain(step).reset for step in range(1, 30)]
    assert not any(reset[1:].any() for reset in extra)
    counts = np.array([reset[0] for reset in extra])  # 232 draws: a standard deviation of .03
    assert 0.16 < counts.mean() < 0.34 and (counts.any(0) & ~counts.all(0)).all()
    for step in range(3):
        np.testing.assert_array_equal(loader(step).xs, plain(step).xs)
    other = streams(np.arange(1000), batch_size=8, length=4, restart=0.25, seed=4)
    assert any((loader(step).reset != other(step).reset).any() for step in range(5))
    for restart in (1.0, -0.1):
        with pytest.raises(ValueError, match=r"streams\(restart\): expected a number in \[0, 1\)"):
            streams(np.arange(9), batch_size=2, length=2, restart=restart)


@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=6),
    batch=st.integers(1, 2),
    length=st.integers(1, 5),
)
def test_streams_of_documents_restart_at_their_beginnings(sizes, batch, length):
    documents = [100 * i + np.arange(n) for i, n in enumerate(sizes)]
    if sum(sizes) < batch + 1:
        return
    loader = streams(documents, batch_size=batch, length=length)
    for step in range(2 * loader.steps_per_epoch):
        b = loader(step)
        np.testing.assert_array_equal(b.targets[b.mask], b.xs[b.mask] + 1)
        assert b.reset[b.mask & (b.xs % 100 == 0)].all()  # each document begins with a reset
    epoch = [loader(step) for step in range(loader.steps_per_epoch)]
    seen = {pair for b in epoch for pair in zip(b.xs[b.mask], b.targets[b.mask], strict=True)}
    skipped = sum(max(n - 1, 0) for n in sizes) - len(seen)
    assert 0 <= skipped < batch + 1  # what B parts of equal size leave over


@pytest.mark.parametrize(
    "loader",
    [
        packed(numbered([5, 9, 3, 12]), batch_size=4, length=3),
        padded(numbered([5, 9, 3, 12, 2]), batch_size=4, length=3),
        streams(np.arange(100), batch_size=4, length=3),
        streams(np.arange(100), batch_size=4, length=3, restart=0.5),
        streams(numbered([30, 20, 50]), batch_size=4, length=3),
        windows(np.arange(100), batch_size=4, length=3),
        examples(
            np.arange(60.0).reshape(10, 3, 2), np.arange(10), batch_size=4, lengths=np.arange(10) % 3 + 1
        ),
    ],
    ids=["packed", "padded", "streams", "restarts", "documents", "windows", "examples"],
)
def test_a_batch_depends_on_the_step_alone_and_parts_make_the_whole(loader):
    backwards = {step: loader(step) for step in (5, 0, 3)}
    for step in (0, 3, 5):
        for a, b in zip(jax.tree.leaves(loader(step)), jax.tree.leaves(backwards[step]), strict=True):
            np.testing.assert_array_equal(a, b)
    parts = [loader.part(3, index, 2) for index in (0, 1)]

    def join(whole, *pieces):
        axis = whole.ndim - 1 if whole.ndim <= 2 else 1
        np.testing.assert_array_equal(np.concatenate(pieces, axis), whole)

    jax.tree.map(join, loader(3), *parts)
    with pytest.raises(ValueError, match="divides the batch of 4, got process 0 of 3"):
        loader.part(0, 0, 3)
    assert not all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(loader(0)), jax.tree.leaves(loader(1)), strict=True)
    )


def test_examples_come_once_an_epoch_and_keep_their_targets():
    xs = np.arange(24.0).reshape(6, 4)
    loader = examples(xs[..., None], xs[:, 0], batch_size=3, lengths=[1, 2, 3, 4, 4, 4])
    seen = []
    for step in range(2):
        batch = loader(step)
        assert batch.xs.shape == (4, 3, 1) and batch.mask.shape == (4, 3)
        np.testing.assert_array_equal(batch.xs[0, :, 0], batch.targets)
        np.testing.assert_array_equal(batch.mask.sum(0), np.minimum(batch.targets // 4 + 1, 4))
        seen += batch.targets.tolist()
    assert sorted(seen) == xs[:, 0].tolist()
    per_step = examples(xs[..., None], xs, batch_size=2)(0)
    np.testing.assert_array_equal(per_step.targets, per_step.xs[..., 0])
    of_sequences = examples(xs[..., None], xs, batch_size=2, per_step=False)(
        0
    )  # four classes, and four steps
    np.testing.assert_array_equal(of_sequences.targets, of_sequences.xs[..., 0].T)
    for steps in (xs, xs[:, 0]):  # lists of numbers are arrays
        listed = examples(xs[..., None], steps.tolist(), batch_size=2)(0).targets
        np.testing.assert_array_equal(listed, examples(xs[..., None], steps, batch_size=2)(0).targets)
    both = examples(xs[..., None], {"steps": xs, "one": xs[:, 0]}, batch_size=2)(0).targets
    np.testing.assert_array_equal(both["steps"][0], both["one"])


def example_with_nan():
    bad = np.zeros((3, 4))
    bad[1, 2] = np.nan
    return bad


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: examples(np.zeros(3), np.zeros(3), batch_size=1),
            r"expected xs \[N, T, ...\] with N and T of at least 1, got \[3\]",
        ),
        (
            lambda: examples(np.zeros((3, 4)), np.zeros(2), batch_size=1),
            r"expected 3 targets and lengths, as xs \[3, 4\], got \[2\]",
        ),
        (
            lambda: examples(example_with_nan(), np.zeros(3), batch_size=1),
            "NaN or infinity in 1 steps, the first in example 1 at step 2",
        ),
        (
            lambda: windows(np.arange(5), batch_size=1, length=5),
            "windows: expected at least length . 1 = 6 tokens, got 5",
        ),
        (
            lambda: streams(np.arange(5), batch_size=5, length=1),
            "streams: expected at least batch_size . 1 = 6 tokens, got 5",
        ),
        (
            lambda: streams(np.zeros(3), batch_size=1, length=1),
            r"expected integers \[N\], got \[3\] of float64",
        ),
        (
            lambda: padded([np.arange(3)], batch_size=1, length=0),
            r"\(length\): expected a whole number of at least 1, got 0",
        ),
        (
            lambda: packed([np.array([0, 2**32 - 1], np.uint32)], batch_size=1, length=1),
            "packed: expected tokens that fit 32 bits, got 0 to 4294967295",
        ),
        (
            lambda: windows(np.arange(5), batch_size=1, length=1, seed=-1),
            r"windows\(seed\): expected a whole number of at least 0, got -1",
        ),
        (
            lambda: examples(np.full((3, 4), None), np.zeros(3), batch_size=1),
            "expected numbers, got an array of object",
        ),
        (
            lambda: examples(np.zeros((3, 4)), np.zeros(3), batch_size=1, per_step=True),
            r"expected targets per step \[3, 4, ...\], got \[3\]",
        ),
        (
            lambda: prefetch(windows(np.arange(50), batch_size=2, length=3), depth=0),
            r"prefetch\(depth\): expected a whole number of at least 1, got 0",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_data_and_sizes_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_not_finite_beyond_the_length_of_an_example_is_not_read():
    assert examples(example_with_nan(), np.zeros(3), batch_size=1, lengths=[4, 2, 4])(0).xs.shape == (4, 1)


def test_prefetch_hands_on_every_batch_and_every_error_and_ends_its_thread():
    loader = windows(np.arange(50), batch_size=2, length=3)
    for step, batch in enumerate(prefetch(loader, 3, 9), 3):
        np.testing.assert_array_equal(batch.xs, loader(step).xs)
    assert step == 8

    def fails(step):
        if step == 2:
            raise OSError("the disk is gone")
        return loader(step)

    got = prefetch(fails, 0)
    next(got), next(got)
    with pytest.raises(OSError, match="the disk is gone"):
        next(got)
    endless = prefetch(loader)
    next(endless)
    endless.close()
    assert not [t for t in threading.enumerate() if t.name == "prefetch"]


def test_lines_in_any_encoding(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes("Grüße\r\n\n".encode("latin-1") + b"\xff\xfe second")
    assert [bytes(line) for line in read_lines(path)] == [b"Gr\xfc\xdfe", b"\xff\xfe second"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected at least one byte, got '.*', which is empty"),
        (b"\n\n", "whose lines are all empty"),
        (b"ab\0c", "expected text, got '.*', which is binary: byte 2 is zero"),
        (b"x\n" + b"y" * 101 + b"\n", "expected lines of at most 100 bytes, got 101 in line 2 of"),
    ],
)
def test_lines_that_are_none(tmp_path, content, message):
    path = tmp_path / "lines"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_lines(path, longest=100)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n{"text": "b', "expected JSON, got .* in line 2 of .* may be truncated"),
        (b'{"text": "a"}\n{"text": \xff}\n', r"expected UTF-8, got byte 0xff at 9 in line 2"),
        (b'{"body": "a"}\n', "expected an object with the text 'text', got {'body': 'a'} in line 1"),
        (b"[1]\n", r"expected an object with the text 'text', got \[1\] in line 1"),
        (b"\n", "whose lines are all empty"),
        (b"[" * 100_000, "expected JSON, got maximum recursion depth exceeded .* in line 1 of"),
        (rb'{"text": "a\ud800"}', "expected text, got an unpaired surrogate at 1 of 'text' in line 1 of"),
    ],
)
def test_json_lines_that_are_none(tmp_path, content, message):
    path = tmp_path / "documents.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_json_lines(path)


def test_arrays_that_are_none(tmp_path):
    path = tmp_path / "arrays.npz"
    np.savez(path, xs=np.arange(1000), targets=np.arange(3))
    assert read_arrays(path)["xs"].shape == (1000,)
    whole = path.read_bytes()
    objects = tmp_path / "objects.npy"
    np.save(objects, np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "one.npy", np.arange(4))
    assert read_arrays(tmp_path / "one.npy")["xs"].shape == (4,)
    for content in (whole[:200], whole[:-30], b"not arrays", objects.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="expected a complete .npy or .npz file of numbers, got"):
            read_arrays(path)
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        read_arrays(tmp_path / "nowhere")


def test_damaged_arrays_are_said_to_be_damaged(tmp_path):
    """Or their checksums do not notice; numpy, zipfile, zlib and ast have errors of their own for it."""
    path = tmp_path / "arrays.npz"
    np.savez_compressed(path, xs=np.random.default_rng(0).random(100))
    np.save(tmp_path / "one.npy", np.zeros(3))
    with (tmp_path / "giant.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f8", "fortran_order": False, "shape": (10**13,)}
        )
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as archive:
        archive.writestr("text.txt", "text")
    contents = [(tmp_path / name).read_bytes() for name in ("giant.npy", "text.npz")]
    for whole in (path.read_bytes(), (tmp_path / "one.npy").read_bytes()):
        for place in range(0, len(whole), 3):
            contents.append(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
    for content in contents:
        path.write_bytes(content)
        try:
            found = read_arrays(path)
        except ValueError as error:
            assert str(error).startswith("read_arrays: expected a complete .npy or .npz file of numbers, got")
        else:
            assert all(isinstance(array, np.ndarray) for array in found.values())


def ragged(kind=np.float32, width=(3,)):
    random = np.random.default_rng(0)
    return [random.normal(size=(n, *width)).astype(kind) for n in (5, 1, 9, 2, 12)]


@pytest.mark.parametrize("width", [(3,), (1,), (2, 4)])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_float_sequences_of_different_lengths_are_padded(kind, width):
    sequences = ragged(kind, width)
    batch = D.padded(sequences, batch_size=5, length=8)(0)
    assert batch.xs.shape == batch.targets.shape == (8, 5, *width) and batch.xs.dtype == kind
    assert sorted(batch.mask.sum(0)) == [0, 1, 4, 8, 8]
    for row in range(5):
        size = int(batch.mask[:, row].sum())
        found = [s for s in sequences if size and np.array_equal(s[:size], batch.xs[:size, row])]
        assert not batch.xs[size:, row].any() and not batch.targets[size:, row].any()
        assert not size or np.array_equal(found[0][1 : size + 1], batch.targets[:size, row])


def test_float_sequences_are_packed_as_tokens_are():
    """Vectors of one number hold the tokens themselves: both loaders cut them alike."""
    tokens = [np.arange(1, n + 1) + 100 * n for n in (5, 1, 9, 2, 12)]
    vectors = [t[:, None].astype(np.float32) for t in tokens]
    for loader in (D.packed, D.padded):
        for step in range(6):
            one, other = (loader(data, batch_size=2, length=4, seed=3)(step) for data in (tokens, vectors))
            np.testing.assert_array_equal(one.xs, other.xs[..., 0])
            np.testing.assert_array_equal(one.targets, other.targets[..., 0])
            np.testing.assert_array_equal(one.mask, other.mask)
            assert one.reset is None or np.array_equal(one.reset, other.reset)


def test_examples_of_different_lengths_are_padded_and_masked():
    sequences = ragged()
    per_step = [s.sum(-1) for s in sequences]
    held = np.empty(5, object)  # as pandas holds sequences
    held[:] = sequences
    for targets in (np.arange(5), per_step):
        batch = D.examples(sequences, targets, batch_size=5)(0)
        jax.tree.map(np.testing.assert_array_equal, D.examples(held, targets, batch_size=5)(0), batch)
        assert batch.xs.shape == (12, 5, 3) and sorted(batch.mask.sum(0)) == [1, 2, 5, 9, 12]
        for row in range(5):
            size = int(batch.mask[:, row].sum())
            which = next(i for i, s in enumerate(sequences) if len(s) == size)
            np.testing.assert_array_equal(batch.xs[:size, row], sequences[which])
            assert not batch.xs[size:, row].any()
            if targets is per_step:
                np.testing.assert_array_equal(batch.targets[:size, row], per_step[which])
            else:
                assert batch.targets[row] == which
    series = [s[:, 0] for s in sequences]
    for loader in (D.padded, D.packed):
        with pytest.raises(ValueError, match=r"got \[\d+\] of float\d\d for sequence 0. Write x\[:, None\]"):
            loader(series, batch_size=2, length=4)
    with pytest.raises(ValueError, match="expected sequences of different lengths or `lengths=`, got both"):
        D.examples(sequences, np.arange(5), batch_size=5, lengths=[1] * 5)


@pytest.mark.parametrize("loader", [D.packed, D.padded])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            np.zeros((3, 2), np.float32),
            r"expected sequences of floats \[N_i, 3\], got \[3, 2\] .* for sequence 5",
        ),
        (np.zeros(3, np.float32), r"got \[3\] of float32 for sequence 5. Write x\[:, None\]"),
        (np.zeros((3, 3), int), r"got \[3, 3\] of int64 for sequence 5"),
        (np.full((3, 3), np.nan, np.float32), r"NaN or infinity in sequence 5 at step 0"),
    ],
)
def test_float_sequences_that_do_not_fit_are_refused(loader, change, message):
    with pytest.raises(ValueError, match=message):
        loader([*ragged(), change], batch_size=2, length=4)


def test_byte_order_marks_are_no_text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xef\xbb\xbfone\ntwo")
    assert bytes(D.read_text(path)) == b"one\ntwo"
    assert [bytes(line) for line in D.read_lines(path)] == [b"one", b"two"]
    lines = tmp_path / "lines.JSONL"
    lines.write_bytes(b'\xef\xbb\xbf{"text": "hello"}\r\n{"text": "\xef\xbb\xbfyou"}\n')
    assert [bytes(text) for text in D.read_json_lines(lines)] == [b"hello", b"\xef\xbb\xbfyou"]
    assert bytes(D.read_text(lines)) == b"hello\n\xef\xbb\xbfyou"
    path.write_bytes(b"\xef\xbb\xbf")
    with pytest.raises(ValueError, match="which has a byte order mark alone"):
        D.read_text(path)


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.csv", "A.CSV", "a.parquet", "a.txt.gz", "a.tar"])
def test_files_that_are_no_text_are_refused_by_name(name, tmp_path):
    path = tmp_path / name
    with pytest.raises(FileNotFoundError, match="does not exist"):
        D.read_text(path)
    path.write_bytes(b"1,2,3")
    with pytest.raises(ValueError, match="expected a text, got .*, whose name is that of "):
        D.read_text(path)
