"""Test what applications read from the user's files: errors in one line, digests, windows."""

import logging
import shutil
import sys

import numpy as np
import pytest
from helpers.applications import TINY, write_files, write_images, write_recordings, write_series
from helpers.command_line import run

from seqjax.install import install_command
from seqjax.training.applications import data_digest, examples_of
from seqjax.training.applications.forecast import QUANTILES, Forecast, lines_of_forecast
from seqjax.training.applications.series import read_spans
from seqjax.training.applications.speech import frames
from seqjax.training.applications.windows import Span, origins_of, windows
from seqjax.training.recipe import Recipe


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files that can be used, and files that cannot."""
    folder = tmp_path_factory.mktemp("files")
    write_files(folder)
    (folder / "empty").mkdir()
    (folder / "empty/all.csv").write_text("file,text\na.wav,a\n")
    write_recordings(folder / "absent")
    (folder / "absent/3.wav").unlink()
    write_recordings(folder / "rates")
    write_recordings(folder / "other", rate=1000)
    shutil.copy(folder / "other/5.wav", folder / "rates/5.wav")
    write_recordings(folder / "damaged")
    (folder / "damaged/2.wav").write_bytes(b"RIFF")
    write_recordings(folder / "tables")
    (folder / "tables/more.tsv").write_text("file\ttext\n1.wav\tb\n")
    write_recordings(folder / "hasty")
    (folder / "hasty/all.csv").write_text(
        "file,text\n" + "".join(f"{i}.wav,{'ab' * 40}\n" for i in range(12))
    )
    write_images(folder / "broken")
    (folder / "broken/4.png").write_bytes((folder / "broken/5.png").read_bytes()[:40])
    (folder / "short.csv").write_text("north\n" + "1.5\n" * 9)
    (folder / "words.csv").write_text("day,north,weather\n" + "1,2.5,rain\n" * 40)
    (folder / "gaps.csv").write_text("day,north\n" + "1,\n" * 40)
    return folder


def line(kind, data, *options, horizon=4):
    """The arguments of a command that trains."""
    more = {"forecast": ["--horizon", horizon], "captions": ["--image-size", "4"]}.get(kind, [])
    return [data, "--as", kind, *more, *options]


BAD = {
    "no folder": (
        line("speech", "nowhere"),
        "expected a folder of recordings, got 'nowhere', which does not exist",
    ),
    "a file": (
        line("captions", "text.txt"),
        "got the file 'text.txt'. Name the folder, and its table with --target.",
    ),
    "no recording": (
        line("speech", "empty"),
        "expected recordings (.wav, .flac, .mp3, .ogg, .opus) in 'empty'",
    ),
    "no image": (line("captions", "empty"), "expected images (.png, .jpg"),
    "no such recording": (line("speech", "absent"), "expected the recording 'absent/3.wav' of line 5 of"),
    "two tables": (
        line("speech", "tables"),
        "--target: expected the name of a table, or a folder with one .csv",
    ),
    "two rates": (
        line("speech", "rates"),
        "rates/5.wav' and 2000 in others. Pass --sample-rate 1000",
    ),
    "damaged recording": (line("speech", "damaged"), "damaged/2.wav' (unpack"),
    "too much text": (
        line("speech", "hasty", "--length", "99"),
        "with a frame (0.02 seconds) for each token of their transcripts",
    ),
    "long transcripts": (
        line("speech", "hasty"),
        "--length: expected at least one of 11 transcripts to fit, but all are longer than 8 tokens.",
    ),
    "broken image": (line("captions", "broken"), "broken/4.png' (cannot identify"),
    "long captions": (
        line("captions", "pictures", "--length", "1"),
        "captions to fit, but all are longer than 1",
    ),
    "short series": (
        line("forecast", "short.csv"),
        "--horizon 4: expected a series of at least 12 values (what is known, and twice the horizon), the longest one "
        "has 9.",
    ),
    "a column of words": (
        line("forecast", "words.csv"),
        "expected a finite number, got 'rain' in column 'weather'",
    ),
    "a column of gaps": (line("forecast", "gaps.csv"), "--columns: expected numbers in the column 'north'"),
    "no such column": (line("forecast", "series.csv", "--columns", "nroth"), "expected a column 'nroth'"),
    "no column": (
        line("forecast", "series.csv", "--columns", "north,"),
        "--columns: expected columns such as",
    ),
    "rows with columns": (
        line("forecast", "series.csv", "--columns", "1", "--layout", "rows"),
        "--columns goes with --layout columns, got rows",
    ),
    "no layout": (line("forecast", "series.csv", "--layout", "wide"), "--layout: "),
    "a horizon for a text": (
        ["text.txt", "--horizon", "3"],
        "--horizon goes with --as forecast, got the task 'text'",
    ),
    "a rate for images": (
        line("captions", "pictures", "--sample-rate", "8000"),
        "--sample-rate goes with --as speech",
    ),
    "a size for series": (
        line("forecast", "series.csv", "--image-size", "8"),
        "--image-size goes with --as captions",
    ),
    "a vocabulary for series": (
        line("forecast", "series.csv", "--vocabulary", "words"),
        "--vocabulary goes with a text or --as classes or",
    ),
    "a size of characters": (
        line("speech", "speech", "--vocabulary-size", "9"),
        "--vocabulary-size goes with --vocabulary words or subwords, got 'characters'",
    ),
    "an estimator": (
        line("forecast", "series.csv", "--estimator", "truncated"),
        "--estimator truncated goes with",
    ),
}


@pytest.mark.parametrize(("arguments", "text"), BAD.values(), ids=BAD)
def test_files_that_cannot_be_used_are_refused_in_one_line(
    arguments, text, files, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(files)
    before, arguments = sorted(tmp_path.iterdir()), [*TINY, *arguments]
    assert run(monkeypatch, "train", *arguments, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert text in error and error.count("\n") == 1 and sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("PIL", line("captions", "pictures")),
        ("sentencepiece", line("captions", "pictures", "--vocabulary", "subwords")),
        ("soundfile", line("speech", "flac")),
    ],
)
def test_the_extra_that_is_missing_is_named(package, arguments, files, monkeypatch, capsys, tmp_path):
    (files / "flac").mkdir(exist_ok=True)
    (files / "flac/a.flac").write_bytes(b"fLaC")
    (files / "flac/all.csv").write_text("file,text\na.flac,a\na.flac,b\n")
    shutil.copy(files / "flac/a.flac", files / "flac/b.flac")
    (files / "flac/all.csv").write_text("file,text\na.flac,a\nb.flac,b\n")
    monkeypatch.chdir(files)
    monkeypatch.setitem(sys.modules, package, None)
    assert run(monkeypatch, "train", *TINY, *arguments, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert install_command("data") in error and error.count("\n") == 1


def test_the_digest_of_a_folder_is_that_of_names_contents_and_texts(tmp_path):
    write_recordings(tmp_path / "a")
    recipe = Recipe(task="speech", data=str(tmp_path / "a"))
    first = data_digest(recipe)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b/notes.txt").write_text("belongs to no example")
    there = Recipe(task="speech", data=str(tmp_path / "b"), data_sha256=first)
    assert data_digest(there) == first
    held_out = [[path.rpartition("/")[2] for path in examples_of(r)[1].inputs] for r in (there,)]
    assert held_out == [
        [path.rpartition("/")[2] for path in examples_of(recipe_with(recipe, first))[1].inputs]
    ]
    table = (tmp_path / "b/all.csv").read_text()
    (tmp_path / "b/all.csv").write_text(table.replace("3.wav,b", "3.wav,a"))
    assert data_digest(there) != first
    (tmp_path / "b/all.csv").write_text(table)
    whole = bytearray((tmp_path / "b/3.wav").read_bytes())
    whole[-1] ^= 1
    (tmp_path / "b/3.wav").write_bytes(whole)
    with pytest.raises(ValueError, match="has changed since the run was made"):
        examples_of(there)


def recipe_with(recipe, digest):
    """A recipe with its digest."""
    return Recipe(task=recipe.task, data=recipe.data, data_sha256=digest)


def test_recordings_with_another_rate_are_resampled_when_asked(files):
    given, resampled = frames(str(files / "other/5.wav"), 1000), frames(str(files / "other/5.wav"), 2000)
    assert given.shape == resampled.shape == ((300 - 25) // 20 + 1, 40)
    np.testing.assert_allclose(resampled.mean(0), 0, atol=1e-3)


def test_windows_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    spans = [Span(rng.normal(size=20), 3), Span(np.full(9, 5.0), 3), Span(rng.normal(size=5), 3)]
    origins = origins_of(spans, 3)
    expected = [(n, t) for n, s in enumerate(spans) for t in range(3, len(s.values) - 2)]
    assert [tuple(each) for each in origins.tolist()] == expected
    found = windows(spans, origins.tolist(), length=6, horizon=3)
    for place, (number, origin) in enumerate(expected):
        known = list(spans[number].values[:origin])[-6:]
        center = sum(known) / len(known)
        width = (sum((v - center) ** 2 for v in known) / len(known)) ** 0.5 or 5.0
        scaled = [(v - center) / width for v in [*known, *spans[number].values[origin : origin + 3]]]
        np.testing.assert_allclose(found.xs[: len(known), place, 0], scaled[:-3], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.targets[place], scaled[-3:], rtol=1e-5, atol=1e-6)
        assert found.mask[:, place].tolist() == [True] * len(known) + [False] * (6 - len(known))
        np.testing.assert_allclose(found.targets[place] * found.width[place] + found.center[place],
                                   spans[number].values[origin : origin + 3], rtol=1e-5)  # fmt: skip


def test_a_missing_value_is_the_one_before(tmp_path):
    write_series(tmp_path / "series.csv", 30)
    recipe = Recipe(task="forecast", horizon=2, length=4)
    (names, spans), filled = read_spans(recipe, str(tmp_path / "series.csv"))
    assert names == ["north", "south"] and filled == 1
    south = spans[1].values  # its first value is missing, too
    assert len(south) == 29 and south[19] == south[18] and spans[0].begin == 2
    (tmp_path / "rows.csv").write_text("name,1,2,3\nfirst,1,2,3\nsecond,4,5,\n")
    rows = Recipe(task="forecast", layout="rows")
    (names, spans), _ = read_spans(rows, str(tmp_path / "rows.csv"))
    assert names == ["first", "second"] and [s.values.tolist() for s in spans] == [[1, 2, 3], [4, 5]]
    (tmp_path / "plain.csv").write_text("a,b\n1,2\n3,4\n")
    assert read_spans(Recipe(task="forecast"), str(tmp_path / "plain.csv"))[0].inputs == ["a", "b"]


def test_the_lines_of_a_forecast_are_a_table():
    found = Forecast(['a, "b"'], [np.zeros(3)], np.arange(10.0).reshape(1, 2, 5))
    assert lines_of_forecast(found) == [
        f"series,step,{','.join(map(str, QUANTILES))}",
        '"a, ""b""",1,0,1,2,3,4',
        '"a, ""b""",2,5,6,7,8,9',
    ]


@pytest.fixture(autouse=True)
def same_logging():
    """The command speaks by a handler of its own."""
    logger = logging.getLogger("seqjax.training")
    before = logger.handlers, logger.propagate
    yield
    logger.handlers, logger.propagate = before
