"""Train on your own files from the command line.

A folder of recordings with a table of transcripts becomes a recognizer, a table of series a forecaster, and a folder of
images with a table of captions a captioner. This program writes small files of these forms and runs the commands:

    seqjax train recordings --as speech --out speech             # recordings/all.csv has the columns file and text
    seqjax generate speech new.wav                               # a path and its transcript per line
    seqjax train load.csv --as forecast --horizon 12 --out load  # a column per series; the first one may hold times
    seqjax generate load load.csv --plot load.png                # a table of quantiles, and a picture
    seqjax train images --as captions --image-size 16 --out captions
    seqjax generate captions images --beam-size 2                # a path and its caption per line
    seqjax evaluate captions                                     # metrics on the tenth that was held out

`seqjax train --help` lists the options; `--model gru`, `--depth 2` and the like change the model. The recordings are
WAV files; others, such as FLAC and MP3, and the images need `pip install '.[data]'` in a checkout.
"""

import contextlib
import io
import shlex
import sys
from pathlib import Path

import numpy as np
import scipy.io.wavfile

from seqjax import cli

RATE = 8000
TONES = {"low": 400, "mid": 700, "high": 1100}
COLORS = {"red": (220, 0, 0), "green": (0, 160, 0), "blue": (0, 0, 220)}


def seqjax(line: str) -> str:
    """Run a command as a shell does, and return what it prints."""
    print(f"$ seqjax {line}")
    sys.argv = ["seqjax", *shlex.split(line)]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            cli.main()
        except SystemExit as end:
            if end.code:
                raise
    return printed.getvalue()


def write_recordings(folder: Path, rng: np.random.Generator) -> None:
    """Write 150 recordings of one to three tones, and the table of their names."""
    folder.mkdir()
    rows = ["file,text"]
    for i in range(150):
        words = rng.choice(list(TONES), rng.integers(1, 4), replace=False)
        parts = [np.sin(2 * np.pi * TONES[word] * np.arange(1200) / RATE) for word in words]
        wave = np.concatenate([np.pad(part, (0, 400)) for part in parts])
        noisy = 0.5 * wave + 0.01 * rng.normal(size=len(wave))
        scipy.io.wavfile.write(folder / f"{i}.wav", RATE, np.int16(2**14 * noisy))
        rows.append(f"{i}.wav,{' '.join(words)}")
    (folder / "all.csv").write_text("\n".join(rows) + "\n")


def write_series(path: Path, rng: np.random.Generator) -> None:
    """Write two noisy series with a period of a day, hour by hour."""
    hours = np.arange(600)
    north = 50 + 20 * np.sin(2 * np.pi * hours / 24) + rng.normal(size=600)
    south = 5 + np.cos(2 * np.pi * hours / 12) + 0.1 * rng.normal(size=600)
    rows = [f"{hour},{a:.2f},{b:.3f}" for hour, a, b in zip(hours, north, south, strict=True)]
    path.write_text("\n".join(["hour,north,south", *rows]) + "\n")


def write_images(folder: Path, rng: np.random.Generator) -> None:
    """Write 60 images of a colored square, and the table of their captions."""
    from PIL import Image

    folder.mkdir()
    rows = ["file,caption"]
    for i in range(60):
        color, side = rng.choice(list(COLORS)), rng.integers(2)
        image = np.full((16, 16, 3), 255, np.uint8)
        image[4:12, 8 * side : 8 * side + 8] = COLORS[color]
        Image.fromarray(image).save(folder / f"{i}.png")
        rows.append(f"{i}.png,A {color} square on the {('left', 'right')[side]}.")
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")


def main(steps: int = 200) -> dict[str, float]:
    """Write files into the current folder, train on them, print answers, and return held-out losses."""
    rng = np.random.default_rng(0)
    write_recordings(Path("recordings"), rng)
    write_series(Path("load.csv"), rng)
    write_images(Path("images"), rng)
    small = f"--steps {steps} --hidden-size 32 --batch-size 16 --eval-every 50"
    seqjax(f"train recordings --as speech --vocabulary words --out speech {small}")
    print(seqjax("generate speech recordings/0.wav recordings/1.wav"))
    seqjax(f"train load.csv --as forecast --horizon 12 --out load {small}")
    print("\n".join(seqjax("generate load load.csv --plot load.png").splitlines()[:4]))
    seqjax(f"train images --as captions --image-size 16 --out captions {small}")
    print(seqjax("generate captions images/0.png images/1.png --beam-size 2"))
    losses = {}
    for run in ("speech", "load", "captions"):
        found = seqjax(f"evaluate {run}")
        print(found)
        losses[run] = float(found.split()[1])
    return losses


if __name__ == "__main__":
    main()
