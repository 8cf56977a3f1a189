"""Small files of all kinds of applications, and the commands that train on them."""

import io
import random
import sys

import numpy as np
import scipy.io.wavfile

from helpers.command_line import run

TINY = (
    "--length 8 --batch-size 4 --hidden-size 4 --steps 4 --eval-every 2 --eval-batches 2 --checkpoint-every 2"
).split()
KINDS = ("classes", "translation", "language", "speech", "forecast", "captions")
OF_FILES = ("speech", "captions")
"""Kinds whose inputs are files of a folder."""
DIGITS = dict(zip("abcd", ("uno", "dos", "tres", "cuatro"), strict=True))
RATE = 2000


def write_files(folder):
    """Write a table of texts with labels, two files of sentences, a text, and the files of the other kinds."""
    draw = random.Random(0)
    texts = [" ".join(draw.choice("abcd") for _ in range(draw.randint(3, 4))) for _ in range(40)]
    rows = "".join(f"{text}\t{'first' if text[0] in 'ab' else 'second'}\n" for text in texts)
    (folder / "labelled.tsv").write_text("text\tlabel\n" + rows)
    (folder / "source.txt").write_text("\n".join(texts) + "\n")
    (folder / "target.txt").write_text(
        "\n".join(" ".join(DIGITS[w] for w in t.split()) for t in texts) + "\n"
    )
    (folder / "text.txt").write_text("the cat sat on the mat. a dog did not. " * 12)
    write_recordings(folder / "speech")
    write_images(folder / "pictures")
    write_series(folder / "series.csv")


def write_recordings(folder, count=12, rate=RATE):
    """Write tones of one to three tenths of a second, and a table that names them."""
    folder.mkdir(parents=True)
    rows = ["file,text"]
    for i in range(count):
        text = "ab"[i % 2] * (1 + i % 3)
        tone = np.sin((1 + i % 2) * np.arange(len(text) * rate // 10) / 3)
        scipy.io.wavfile.write(folder / f"{i}.wav", rate, np.int16(2**14 * tone))
        rows.append(f"{i}.wav,{text}")
    (folder / "all.csv").write_text("\n".join(rows) + "\n")


def write_images(folder, count=12):
    """Write images of one color, and a table of their captions; the first image has two."""
    from PIL import Image

    folder.mkdir()
    rows = ["file,caption", "0.png,A red one."]
    for i in range(count):
        Image.new("RGB", (5 + i % 2, 4), ("red", "blue")[i % 2]).save(folder / f"{i}.png")
        rows.append(f"{i}.png,A {('red', 'blue')[i % 2]} picture.")
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")


def write_series(path, length=60):
    """Write two series with their times; the second one lacks two values, one of them the first."""
    t = np.arange(length)
    north, south = 50 + 20 * np.sin(t / 3) + t % 5, 3 + np.cos(t / 2)
    rows = [f"2024-{i},{a:.3f},{b:.3f}" for i, a, b in zip(t, north, south, strict=True)]
    for i in (0, 20):
        rows[i] = rows[i].rpartition(",")[0] + ","
    path.write_text("day,north,south\n" + "\n".join(rows) + "\n")


def command(kind, files):
    """The arguments that train a kind on its files."""
    return {
        "classes": [files / "labelled.tsv", "--as", "classes"],
        "translation": [files / "source.txt", "--as", "translation", "--target", files / "target.txt"],
        "language": [files / "text.txt", "--as", "language", "--vocabulary", "words"],
        "speech": [files / "speech", "--as", "speech"],
        "forecast": [files / "series.csv", "--as", "forecast", "--horizon", "4"],
        "captions": [files / "pictures", "--as", "captions", "--image-size", "4"],
    }[kind]


def answers(monkeypatch, capsys, folder, lines, *options):
    """What ``seqjax generate`` prints for the lines of stdin."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    capsys.readouterr()
    assert run(monkeypatch, "generate", folder, *options) == 0
    return capsys.readouterr().out.splitlines()


def measured(monkeypatch, capsys, folder, *options):
    """What ``seqjax evaluate`` prints."""
    capsys.readouterr()
    assert run(monkeypatch, "evaluate", folder, *options) == 0
    return {name: float(value) for name, value in map(str.split, capsys.readouterr().out.splitlines())}
