"""Test the command line with random bad lines and files, and with Ctrl-C at random moments."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from helpers import bad_lines
from helpers.command_line import ROOT, run

CACHED = {
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(ROOT),
}


@pytest.mark.parametrize(
    ("count", "seed"), [(60, 0), pytest.param(500, 1, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_a_line_that_cannot_be_used_is_refused_and_leaves_nothing(monkeypatch, tmp_path, capsys, count, seed):
    monkeypatch.chdir(tmp_path)
    bad_lines.write_files(tmp_path)
    wrong = []
    for line in bad_lines.lines(seed, count, tmp_path):
        before = sorted(tmp_path.rglob("*"))
        status, said = run(monkeypatch, *line), capsys.readouterr()
        told = said.err.splitlines()
        clear = told and all(each.startswith("seqjax: ") and len(each) < 1100 for each in told)
        if status != 2 or not clear or "Traceback" in said.err or sorted(tmp_path.rglob("*")) != before:
            wrong.append((line, status, said.err[-500:], sorted(set(tmp_path.rglob("*")) - set(before))))
    assert not wrong, "\n".join(map(str, wrong))


SMALL = {
    "train": "train parity --length 4 --hidden-size 4 --batch-size 2 --steps 200 --eval-batches 1 "
    "--checkpoint-every 50",
    "gradients": "gradients --cells elman --seeds 2 --training-steps 2 --lengths 6 --batch-size 2 --hidden-size 3 "
    "--sections training,decay",
    "check": "check --only C12",
    "compare": "compare lstm lstm,method=Newton --length 6 --batch-size 2 --input-size 3 --hidden-size 4",
}


def start(folder, line):
    """Start a command, and wait until Python has begun to import seqjax."""
    code = "import sys; print('on', flush=True); from seqjax.__main__ import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *line.split()],
        cwd=folder,
        env={**os.environ, **CACHED},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout.readline() == "on\n"
    return process


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("command", SMALL)
def test_ctrl_c_at_any_moment_is_one_line_and_loses_nothing(command, tmp_path):
    """The moments lie between the first import and the end; afterwards the command ends as if nothing had been."""
    began = time.monotonic()
    whole = start(
        tmp_path, f"{SMALL[command]}" + (" --out whole" if command in ("train", "gradients") else "")
    )
    whole.communicate()
    lasts = time.monotonic() - began
    choose = random.Random(command)
    for number in range(5):
        out = tmp_path / f"out{number}"
        line = SMALL[command] + (f" --out {out}" if command != "check" else f" --out {out}.json")
        process = start(tmp_path, line)
        time.sleep(0.1 + choose.random() * lasts)
        process.send_signal(signal.SIGINT)
        said = "".join(process.communicate())
        shown = f"{line}: status {process.returncode}\n{said}"
        assert "Traceback" not in said and "Exception ignored" not in said, shown
        if process.returncode == whole.returncode:  # the command had come to its end
            continue
        assert process.returncode == 130 and ("nterrupted" in said or "SIGINT" in said), shown
        resumes = command in ("train", "gradients") and any(out.glob("*.json"))
        again = start(tmp_path, line + " --resume" * resumes)
        told = again.communicate()[1]
        assert again.returncode == whole.returncode, f"{shown}\nand again: status {again.returncode}\n{told}"
    assert not list(tmp_path.rglob("*.part"))
