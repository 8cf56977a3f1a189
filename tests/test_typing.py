"""Test that programs of users pass type checkers, and that their mistakes are found: mypy --strict, and pyright."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAMS = Path(__file__).parent / "typed"
SOURCE = (PROGRAMS / "wrong.py").read_text().splitlines()
MARKED = {number for number, line in enumerate(SOURCE, 1) if "wrong" in line.partition("#")[2]}


def lines_by_file(found):
    """``(file name, line number, text) -> {file name: line numbers}``; other files than the programs fail."""
    assert {name for name, _, _ in found} <= {"user.py", "wrong.py"}, found
    return {name: {line for file, line, _ in found if file == name} for name in ("user.py", "wrong.py")}


def test_mypy_strict_accepts_a_program_of_a_user_and_finds_mistakes():
    """The library is followed as an installed one is: its types count, and its own errors are not shown."""
    pytest.importorskip("mypy")
    options = ["--strict", "--follow-imports=silent", "--no-error-summary", "--config-file="]
    options += ["--ignore-missing-imports", "--cache-dir", ROOT / ".cache/mypy"]
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *sorted(PROGRAMS.glob("*.py"))],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"MYPYPATH": str(ROOT)},
        check=False,
    )
    told = [line.split(":", 3) for line in ran.stdout.splitlines() if ": error:" in line]
    found = lines_by_file([(Path(name).name, int(line), text) for name, line, _, text in told])
    assert not ran.stderr and found == {"user.py": set(), "wrong.py": MARKED}, ran.stdout


@pytest.mark.slow  # mypy --strict reads the same program
def test_pyright_accepts_a_program_of_a_user_and_finds_mistakes(tmp_path):
    """In its standard mode: in the strict one, JAX's own functions are of unknown type."""
    pytest.importorskip("pyright")
    settings = {
        "include": ["*.py"],
        "extraPaths": [str(ROOT)],
        "typeCheckingMode": "standard",
        "pythonVersion": "{}.{}".format(*sys.version_info),
    }
    for program in PROGRAMS.glob("*.py"):
        shutil.copy(program, tmp_path)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    options = ["--project", tmp_path, "--pythonpath", sys.executable, "--outputjson"]
    ran = subprocess.run(
        [sys.executable, "-m", "pyright", *options],
        capture_output=True,
        text=True,
        env=os.environ | {"PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
        check=False,
    )
    errors = json.loads(ran.stdout)["generalDiagnostics"]
    told = [
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1, each["message"])
        for each in errors
        if each["severity"] == "error"
    ]
    assert lines_by_file(told) == {"user.py": set(), "wrong.py": MARKED}, told
