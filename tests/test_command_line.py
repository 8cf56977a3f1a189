"""Test the parser of the command line: options from a file, help in groups, completion, all without importing JAX."""

import json
import os
import subprocess
import sys

import pytest
from helpers.command_line import ROOT, run

from seqjax import __version__
from seqjax.cli import describe
from seqjax.cli.commands import COMMANDS, OPTIONS

WITHOUT_JAX = """if True:
    import sys
    from seqjax import cli

    for line in sys.argv[1:]:
        sys.argv = ["seqjax", *line.split()]
        try:
            cli.main()
        except SystemExit as stop:
            print(f"status {stop.code}", file=sys.stderr)
    found = {"jax", "numpy", "polars", "matplotlib", "rich.console"} & set(sys.modules)
    sys.exit(f"imported {found}" if found else 0)
"""


def test_the_file_of_options_is_current():
    assert OPTIONS.read_text() == describe.text(), "run 'make tables'"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_group_begins_with_a_parameter_of_its_command(name):
    known = {each["name"] for each in json.loads(OPTIONS.read_text())[name]["parameters"]}
    assert set(COMMANDS[name].groups) <= known


def test_an_option_of_an_unknown_form_is_refused(monkeypatch):
    monkeypatch.setattr(describe, "function_of", lambda name: lambda length: None)
    with pytest.raises(TypeError, match=r"length: expected Annotated\[type, typer.Option\(\)\], got"):
        describe.describe("check")


def test_help_versions_and_errors_of_options_do_not_import_jax():
    helps = {"--help": 0, "--version": 0, "": 2, **{f"{name} --help": 0 for name in COMMANDS}}
    errors = {
        "train --hlp": "No such option: --hlp (Possible options: --",
        "gradients --workers x": "Invalid value for '--workers': ",
        "list --version x": "No such option: --version",
        "trai": "No such command 'trai'. Did you mean 'train'?",
        "data fetch": "Missing argument 'NAME...'",
        "compare lstm": "Missing argument 'B'",
    }
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_JAX, *helps, *errors],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    told = ran.stderr.splitlines()
    assert told[: len(helps)] == [f"status {status}" for status in helps.values()]
    for message, (line, status) in zip(
        errors.values(), zip(told[len(helps) :: 2], told[len(helps) + 1 :: 2]), strict=True
    ):
        assert line.startswith("seqjax: ") and message.lower() in line.lower() and status == "status 2"
    assert f"seqjax {__version__}, jax " in ran.stdout


def test_help_shows_groups_in_their_order(monkeypatch, capsys):
    assert run(monkeypatch, "train", "--help") == 0
    heads = [
        line[:-1] for line in capsys.readouterr().out.splitlines() if line.endswith(":") and line[0] != " "
    ]
    assert heads[:4] == ["Arguments", "Data", "Model", "Training"]
    assert heads[-1] == "Options" and heads.count("Run") == 1
    assert run(monkeypatch, "--help") == 0
    assert {"Measure and compare:", "Train and use:", "Look up:"} <= set(capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(
    ("words", "expected"),
    [("seqjax tr", "train"), ("seqjax train --learning", "--learning-rate"), ("seqjax data f", "fetch")],
)
def test_a_shell_completes_commands_and_options(words, expected):
    asked = {
        "_SEQJAX_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
        "PYTHONPATH": str(ROOT),
    }
    ran = subprocess.run(
        [sys.executable, "-m", "seqjax"], capture_output=True, text=True, env=os.environ | asked, check=False
    )
    assert ran.returncode == 0 and ran.stdout.split() == [expected]


def test_a_missing_package_of_a_command_is_one_line(monkeypatch, capsys):
    class Stop:
        def find_spec(self, name, path=None, target=None):
            if name == "seqjax.cli.check":
                raise ModuleNotFoundError("no", name="polars")

    monkeypatch.delitem(sys.modules, "seqjax.cli.check", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Stop(), *sys.meta_path])
    assert run(monkeypatch, "check") == 2
    shown = capsys.readouterr().err
    assert shown.startswith("seqjax: check needs the package polars: pip install '")
    assert shown.endswith("[report]'.\n") and shown.count("\n") == 1
