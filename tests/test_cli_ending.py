"""Test how the command line ends: one line on stderr and the right status, whatever happens."""

import errno
import io
import os
import subprocess
import sys

import pytest
import typer
from helpers.command_line import ROOT, run

from seqjax.cli.ending import HINT
from seqjax.report import catalog


def chained(error, cause):
    error.__cause__ = cause
    return error


ENDINGS = {
    "nested": (
        RecursionError("maximum recursion depth exceeded"),
        1,
        f"a value is nested too deeply (maximum .*{HINT}",
    ),
    "memory": (MemoryError(), 1, f"out of memory. Choose smaller sizes. {HINT}"),
    "overflow": (OverflowError("int too large"), 1, f"internal error: OverflowError: int too large. {HINT}"),
    "lines": (RuntimeError("one\n\ntwo"), 1, f"internal error: RuntimeError: one two. {HINT}"),
    "end of a file": (EOFError(), 1, f"internal error: EOFError. {HINT}"),
    "name": (
        OSError(errno.ENAMETOOLONG, "File name too long", "aaa"),
        2,
        "aaa cannot be used (File name too long)",
    ),
    "disk": (OSError(errno.ENOSPC, "No space left on device", "aaa"), 1, "aaa cannot be used (No space left"),
    "Ctrl-C": (KeyboardInterrupt(), 130, "interrupted."),
    "Ctrl-C in a library": (chained(RuntimeError("__set_name__"), KeyboardInterrupt()), 130, "interrupted."),
    "Ctrl-C with a way on": (KeyboardInterrupt("run 'a  b'"), 130, "run 'a  b'"),
    "pipe": (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, None),
    "status": (typer.Exit(3), 3, None),
    "signal": (SystemExit(143), 143, None),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_every_exception_has_its_status_and_one_line(name, monkeypatch, capsys):
    error, status, message = ENDINGS[name]

    def fail():
        raise error

    monkeypatch.setattr(catalog, "cells", fail)
    monkeypatch.delenv("SEQJAX_TRACEBACK", raising=False)
    assert run(monkeypatch, "list") == status
    said = capsys.readouterr().err
    if message is None:
        assert said == ""
    else:
        first, _, last = message.partition(".*")
        assert said.startswith(f"seqjax: {first}") and said.endswith(f"{last}\n" if last else "\n")
        assert said.count("\n") == 1


def test_the_full_error_is_shown_where_it_is_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(catalog, "cells", lambda: 1 / 0)
    monkeypatch.setenv("SEQJAX_TRACEBACK", "1")
    assert run(monkeypatch, "list") == 1
    said = capsys.readouterr().err
    assert (
        "Traceback" in said
        and "1 / 0" in said
        and "internal error: ZeroDivisionError" in said.splitlines()[-1]
    )


def stream(file, encoding="utf-8"):
    return io.TextIOWrapper(file, encoding=encoding, line_buffering=False)


def test_letters_that_the_terminal_does_not_have_are_escaped(monkeypatch):
    file = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", stream(file, "ascii"))
    monkeypatch.setattr(catalog, "cells", lambda: print("Größe \udcff") or typer.Exit)
    monkeypatch.setattr(catalog, "methods", catalog.tasks)
    run(monkeypatch, "list")
    assert file.getvalue().startswith(b"Gr\\xf6\\xdfe \\udcff")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device")
def test_output_on_a_full_device_is_one_line_and_status_1(monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert run(monkeypatch, "list") == 1
        full.flush()  # Python does so at its end, and would print an error of its own
    said = capsys.readouterr().err
    assert said == f"seqjax: a file or the output cannot be used (No space left on device). {HINT}\n"


def test_output_into_a_broken_pipe_ends_without_a_word(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert run(monkeypatch, "list") == 141
        pipe.flush()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("module", ["seqjax.cli", "typer.main", "jax", "rich.console"])
def test_ctrl_c_amid_the_imports_is_one_line(module):
    """Even where the importing module takes it for an error of its own."""
    code = f"""if True:
        import signal, sys
        from seqjax import __main__

        class Press:
            def find_spec(self, name, path=None, target=None):
                if name == {module!r}:
                    try:
                        signal.raise_signal(signal.SIGINT)
                    except BaseException:
                        raise ImportError("as modules do")

        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.meta_path.insert(0, Press())
        sys.argv = ["seqjax", "check", "--only", "C1"]
        __main__.main()
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (ended.returncode, ended.stderr) == (130, "seqjax: interrupted.\n")
