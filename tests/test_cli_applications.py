"""Test ``seqjax train --as KIND``, ``seqjax generate`` and ``seqjax evaluate`` on small files."""

import csv
import functools
import importlib
import json
import logging
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.applications import KINDS, OF_FILES, TINY, answers, command, measured, write_files
from helpers.command_line import run
from helpers.tiers import slow

from seqjax.training import load_run
from seqjax.training.applications import examples_of
from seqjax.training.applications.common import Examples, parts
from seqjax.training.recipe import read_recipe
from seqjax.training.run import prepare
from seqjax.training.trained import load_trained

TRAIN = importlib.import_module("seqjax.cli.train")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The folder of the files of all kinds."""
    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    return folder


# Translation answers as classes do and is an encoder and decoder as captions are; recordings are files as images are.
OTHERS = ("translation", "speech")


@pytest.fixture(scope="module", params=[*(kind for kind in KINDS if kind not in OTHERS), *slow(*OTHERS)])
def trained(request, files, tmp_path_factory):
    """The kind and the folder of a run."""
    folder = tmp_path_factory.mktemp("runs") / request.param
    logger = logging.getLogger("seqjax.training")
    before = logger.handlers, logger.propagate
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert run(monkeypatch, "train", *command(request.param, files), *TINY, "--out", folder) == 0
    logger.handlers, logger.propagate = before
    return request.param, folder


def test_a_trained_run_is_used_and_measured(trained, files, monkeypatch, capsys):
    kind, folder = trained
    recipe = read_recipe(folder / "config.json")
    found = measured(monkeypatch, capsys, folder)
    if kind == "language":
        options = ("--prompt", "the cat", "--tokens", "5")
        made = answers(monkeypatch, capsys, folder, [], *options)
        assert made == answers(monkeypatch, capsys, folder, [], *options) and made[0].startswith("the cat")
        assert made != answers(monkeypatch, capsys, folder, [], *options, "--seed", "1")
        assert found["loss"] == pytest.approx(loss_of_words(folder, files), rel=1e-4)
        assert found["bits_per_token"] == pytest.approx(found["loss"] / np.log(2), rel=1e-4)
        return
    if kind == "forecast":
        assert found == pytest.approx(forecast_metrics(folder, files), rel=1e-4)
        forecasts_follow_the_units(folder, files, monkeypatch, capsys)
        return
    if kind in OF_FILES:
        of_files_are_used_and_measured(kind, folder, files, found, monkeypatch, capsys)
        return
    held_out = examples_of(recipe)[1]
    made = answers(monkeypatch, capsys, folder, held_out.inputs)
    # The padding of other lines changes nothing.
    assert answers(monkeypatch, capsys, folder, held_out.inputs[:1]) == made[:1]
    right = [line.partition("\t")[0] == target for line, target in zip(made, held_out.targets, strict=True)]
    assert found["accuracy" if kind == "classes" else "exact"] == pytest.approx(np.mean(right), abs=1e-5)
    whole = files / ("labelled.tsv" if kind == "classes" else "source.txt")
    more = () if kind == "classes" else ("--target", files / "target.txt")
    assert measured(monkeypatch, capsys, folder, whole, *more) != found


def loss_of_words(folder, files):
    """The loss of the held-out text in windows of 8 words, from the definition of the loss."""
    model, params = load_run(folder)
    words = json.loads((folder / "application.json").read_text())["vocabulary"]["words"]
    text = (files / "text.txt").read_text()
    held_out = text[len(text) - round(len(text) / 10) :].replace(".", " .").split()
    tokens = np.array([words.index(word) + 4 if word in words else 3 for word in held_out], np.int32)
    losses = []
    for begin in range(0, len(tokens) - 1, 8):
        xs = tokens[:-1][begin : begin + 8, None]
        ys = np.asarray(model.unroll(params, None, jnp.asarray(xs))[1][:, 0], np.float64)
        targets = tokens[1:][begin : begin + 8]
        losses += list(np.log(np.exp(ys).sum(-1)) - ys[np.arange(len(targets)), targets])
    return np.mean(losses)


def of_files_are_used_and_measured(kind, folder, files, found, monkeypatch, capsys):
    """Each file is answered by itself, alone as in its folder; metrics compare the answers with the texts."""
    held_out = examples_of(read_recipe(folder / "config.json"))[1]
    known = {}
    for path, text in zip(*held_out, strict=True):
        known.setdefault(path, set()).add(text)
    made = dict(line.split("\t") for line in answers(monkeypatch, capsys, folder, [], *known))
    place = files / ("speech" if kind == "speech" else "pictures")
    all_made = dict(line.split("\t") for line in answers(monkeypatch, capsys, folder, [], place))
    assert len(all_made) == 12 and all_made.items() >= made.items()
    if kind == "captions":
        lower = {path: {text.lower().replace(".", " .") for text in texts} for path, texts in known.items()}
        exact = np.mean([made[path] in texts for path, texts in lower.items()])
        assert found["exact"] == pytest.approx(exact) and found["bleu"] >= 0
        return
    pairs = [(made[path], text) for path, texts in known.items() for text in texts]
    errors, characters = (
        sum(column) for column in zip(*((distance(*p), len(p[1])) for p in pairs), strict=True)
    )
    assert found["character_error"] == pytest.approx(errors / characters)
    whole = measured(monkeypatch, capsys, folder, place)
    assert np.isfinite(whole["loss"]) and whole["loss"] != found["loss"]


@functools.cache
def distance(a, b):
    """The Levenshtein distance by its recursive definition."""
    if not a or not b:
        return len(a) + len(b)
    return min(distance(a[1:], b) + 1, distance(a, b[1:]) + 1, distance(a[1:], b[1:]) + (a[0] != b[0]))


def forecast_metrics(folder, files):
    """The metrics of the held-out ends, origin by origin, from their definitions."""
    trained = load_trained(folder)
    rows = list(csv.reader((files / "series.csv").open()))[1:]
    found = {"loss": [], "mae": [], "last_value_mae": [], "mase": [], "coverage": []}
    levels = np.array([0.025, 0.1, 0.5, 0.9, 0.975])
    for column in (1, 2):
        values = []
        for row in rows:
            if row[column] or values:
                values.append(float(row[column]) if row[column] else values[-1])
        values = np.array(values)
        for origin in range(len(values) - max(4, round(len(values) / 10)), len(values) - 3, 4):
            known, future = values[origin - 8 : origin], values[origin : origin + 4]
            xs = jnp.asarray((known - known.mean()) / known.std(), jnp.float32)[:, None, None]
            ys = np.sort(np.asarray(trained.model.unroll(trained.params, None, xs)[1][-1, 0], np.float64))
            above = ((future - known.mean()) / known.std())[:, None] - ys
            found["loss"].append(np.mean(np.where(above > 0, levels, levels - 1) * above))
            quantiles = ys * known.std() + known.mean()
            error = np.abs(quantiles[:, 2] - future).mean()
            found["mae"].append(error)
            found["last_value_mae"].append(np.abs(known[-1] - future).mean())
            found["mase"].append(error / np.abs(np.diff(values[:origin])).mean())
            found["coverage"].append(np.mean((quantiles[:, 0] <= future) & (future <= quantiles[:, 4])))
    return {name: np.mean(each) for name, each in found.items()}


def forecasts_follow_the_units(folder, files, monkeypatch, capsys):
    """The quantiles of a table in other units are those quantiles in other units; old values change nothing."""
    rows = [row.split(",") for row in (files / "series.csv").read_text().splitlines()]
    other = files / "other_units.csv"
    changed = [[f"{10 * float(v) + 3 if v else 7}" for v in row[1:]] for row in rows[1:]]
    changed[:40] = [["1e6", "2"]] * 40
    other.write_text("\n".join(",".join(row) for row in [rows[0][1:], *changed]) + "\n")
    tables = []
    for table in (files / "series.csv", other):
        lines = answers(monkeypatch, capsys, folder, [], table, "--plot", files / "forecast.png")
        found = list(csv.reader(lines))
        assert found[0] == ["series", "step", "0.025", "0.1", "0.5", "0.9", "0.975"]
        assert [row[:2] for row in found[1:]] == [
            [n, str(i)] for n in ("north", "south") for i in range(1, 5)
        ]
        tables.append(np.array([[float(v) for v in row[2:]] for row in found[1:]]))
    np.testing.assert_allclose(tables[1], 10 * tables[0] + 3, rtol=1e-3)
    assert (np.diff(tables[0]) >= 0).all() and (files / "forecast.png").read_bytes().startswith(b"\x89PNG")


UNUSABLE = {
    "speech": [([], "expected files for a run of speech (.wav"), (["nothing"], "expected files .wav"),
               (["text.txt"], "expected a recording that soundfile reads")],
    "captions": [(["nothing"], "expected files .png"), (["text.txt"], "expected a complete image")],
    "forecast": [
        ([], "expected files for a run of forecast"),
        (["series.csv", "series.csv"], "expected one table, got 2"),
        (["series.csv", "--plot", "x.bmp"], "--plot: expected a file that ends with .png, .svg, .pdf"),
        (["series.csv", "--plot", "text.txt/x.png"], "--plot: text.txt/x.png cannot be written"),
        (["few.csv"], "expected at least 4 values of the series 'a' in 'few.csv' for a horizon of 4, got 3"),
    ],
}  # fmt: skip


def test_inputs_that_cannot_be_used_are_refused_in_one_line(trained, files, monkeypatch, capsys):
    kind, folder = trained
    monkeypatch.chdir(files)
    (files / "nothing").mkdir(exist_ok=True)
    (files / "few.csv").write_text("a\n1\n2\n3\n")
    for arguments, text in UNUSABLE.get(kind, [(["missing.txt"], "missing.txt")]):
        assert run(monkeypatch, "generate", folder, *arguments) == 2
        said = capsys.readouterr()
        assert text in said.err and said.err.count("\n") == 1 and not said.out


def test_a_run_needs_its_definition_and_not_its_data(trained, files, monkeypatch, capsys, tmp_path):
    kind, folder = trained
    place = folder / "application.json"
    before, data = place.read_text(), read_recipe(folder / "config.json").data
    hidden = tmp_path / "hidden"
    try:
        (files / data).rename(hidden)
        named = [hidden] if kind in (*OF_FILES, "forecast") else []
        assert answers(monkeypatch, capsys, folder, [] if kind == "language" or named else ["a b"], *named)
        assert run(monkeypatch, "evaluate", folder) == 2 and "does not exist" in capsys.readouterr().err
        hidden.rename(data)
        place.write_text(json.dumps(json.loads(before) | {"more": 1}))
        assert run(monkeypatch, "generate", folder, "--newest") == 2
        assert "definition_sha256" in capsys.readouterr().err
        place.unlink()
        assert run(monkeypatch, "generate", folder) == 2
        assert "application.json" in capsys.readouterr().err
    finally:
        place.write_text(before)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["nowhere.tsv", "--as", "classes"], "does not exist"),
        (["labelled.tsv", "--as", "capptions"], "--as: "),
        (["parity", "--target", "text.txt"], "--target goes with --as translation"),
        (["parity", "--as", "classes"], "goes with a file"),
        (["--as", "classes"], "expected a task or a file"),
        (["labelled.tsv", "--as", "classes", "--columns", "text,kind"], "expected a column 'kind'"),
        (["labelled.tsv", "--as", "classes", "--columns", "text"], "--columns: expected two columns"),
        (
            ["labelled.tsv", "--as", "classes", "--target", "source.txt"],
            "--target goes with --as translation",
        ),
        (["labelled.tsv", "--as", "classes", "--estimator", "truncated"], "--estimator truncated goes with"),
        (
            ["text.txt", "--columns", "0,1"],
            "--columns goes with --as classes or --as translation or --as forecast",
        ),
        (["text.txt", "--vocabulary-size", "9"], "--vocabulary-size goes with --vocabulary"),
        (["source.txt", "--as", "translation", "--target", "text.txt"], "lines"),
        (["labelled.tsv", "--as", "classes", "--model", "lstn"], "--model: "),
    ],
)
def test_bad_input_is_refused_in_one_line(options, text, files, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(files)
    assert run(monkeypatch, "train", *options, *TINY, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_options_of_another_kind_are_refused(trained, monkeypatch, capsys):
    kind, folder = trained
    option = ("--beam-size", "2") if kind not in ("translation", "captions") else ("--prompt", "a")
    assert run(monkeypatch, "generate", folder, *option) == 2
    assert f"{option[0]} goes with a run of" in capsys.readouterr().err


def test_examples_of_one_input_are_in_one_part():
    inputs = [f"text {i % 25}" for i in range(100)]
    train, held_out = parts(Examples(inputs, [str(i) for i in range(100)]))
    assert not set(train.inputs) & set(held_out.inputs) and len(set(held_out.inputs)) == 2
    back = Examples(inputs[::-1], [str(i) for i in range(100)][::-1])
    assert set(parts(back)[1].targets) == set(held_out.targets)
    with pytest.raises(ValueError, match="at least two different inputs"):
        parts(Examples(["a", "a"], ["x", "y"]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_goes_on_to_the_same_bits(kind, files, monkeypatch, tmp_path):
    options = [*command(kind, files), *TINY, "--dropout", "0.2"]
    whole, halved = tmp_path / "whole", tmp_path / "halved"
    assert run(monkeypatch, "train", *options, "--out", whole) == 0

    def signalled(recipe, *mesh):
        made = prepare(recipe, *mesh)

        def step(state, batch):
            if int(state.step) == 1:
                signal.raise_signal(signal.SIGTERM)
            return made.step(state, batch)

        return made._replace(step=step)

    with monkeypatch.context() as patched:
        patched.setattr(TRAIN, "prepare", signalled)
        assert run(patched, "train", *options, "--out", halved) == 143
    assert run(monkeypatch, "train", "--out", halved, "--resume") == 0
    assert (halved / "application.json").read_text() == (whole / "application.json").read_text()
    bits = [
        [leaf.tobytes() for leaf in jax.tree.leaves(jax.device_get(load_run(folder, best=False)[1]))]
        for folder in (whole, halved)
    ]
    assert bits[0] == bits[1]
