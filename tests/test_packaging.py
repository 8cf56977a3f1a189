"""Test what is shipped: the metadata, the source distribution, and how messages say to install."""

import ast
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

from seqjax import install

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_a_checkout_is_installed_from_where_one_is(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert install.install_command("report") == "pip install '.[report]'"
    monkeypatch.chdir(tmp_path)
    assert install.install_command("data") == f"pip install '{ROOT}[data]'"


@pytest.mark.parametrize("other", [None, '[project]\nname = "another"\n'])
def test_elsewhere_the_release_is_installed(monkeypatch, tmp_path, other):
    """A package that was copied out of a checkout does not know it; in a checkout, the command names that one."""
    if other is not None:
        (tmp_path / "pyproject.toml").write_text(other)
    monkeypatch.setattr(install, "ROOT", tmp_path)
    assert install.install_command("report") == "pip install '.[report]'"
    monkeypatch.chdir(tmp_path)
    assert install.install_command("report") == "pip install 'seqjax[report]'"


def test_every_message_names_an_extra_that_there_is():
    extras = set()
    for path in (ROOT / "seqjax").rglob("*.py"):
        text = path.read_text()
        extras |= set(re.findall(r"""missing\([^"]*(?:f?"[^"]*"|\w+), "\w+", "(\w+)\"""", text))
        extras |= set(re.findall(r"""install_command\(["'](\w+)["']\)""", text))
        assert "pip install 'seqjax" not in text, f"{path}: write install_command(extra)"
    assert {"report", "data", "interop", "tensorboard"} <= extras <= set(PROJECT["optional-dependencies"])


def test_what_is_imported_is_declared():
    """Of what the library imports at the top of its files: commands, study and report may import the extra report."""
    names = {
        "orbax": "orbax-checkpoint",
        "jaxlib": "jax",
        "markupsafe": "jinja2",
    }  # jax and jinja2 bring the others
    required, report = (
        {re.split(r"[<>=]", each)[0] for each in listed}
        for listed in (PROJECT["dependencies"], PROJECT["optional-dependencies"]["report"])
    )
    commands = {"cli", "report", "study", "compare"}
    for path in (ROOT / "seqjax").rglob("*.py"):
        allowed = required | (report if path.relative_to(ROOT).parts[1] in commands else set())
        for node in ast.parse(path.read_text()).body:
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module] if isinstance(node, ast.ImportFrom) else []
            found = {module.partition(".")[0] for module in modules} - {"seqjax", *sys.stdlib_module_names}
            assert {names.get(each, each) for each in found} <= allowed, path


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("sdist")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", folder]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def test_the_source_distribution_has_every_file_that_tests_read(unpacked):
    for folder in ("seqjax", "tests", "docs", "examples", "benchmarks", "notebooks"):
        for path in (ROOT / folder).rglob("*"):
            ignored = {"__pycache__", ".ipynb_checkpoints", "api", "howto", "toy"} & set(path.parts)
            if path.is_file() and not ignored:
                assert (unpacked / path.relative_to(ROOT)).is_file(), path
    there = {path.name for path in unpacked.iterdir()}
    assert {"pyproject.toml", "Makefile", "README.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE"} <= there
    assert (unpacked / "seqjax/py.typed").exists()


@pytest.mark.slow
def test_the_source_distribution_passes_tests_of_its_files(unpacked):
    files = ["imports", "documents", "layout", "old_names", "site", "public_names", "command_line", "affine"]
    tests = [f"tests/test_{name}.py" for name in files]
    environment = {
        "PYTHONPATH": str(unpacked),
        "JAX_PLATFORMS": "cpu",
        "PATH": Path(shutil.which("sh")).parent,
    }
    run = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests]
    ran = subprocess.run(run, cwd=unpacked, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-3000:]
