"""Test that the files of a model are those that Python imports from its folder."""

import hashlib
import json
import subprocess
import sys

import pytest

from seqjax.local_modules import local_files
from seqjax.user_model import source_digest, source_digests

FILES = {
    "m.py": "import math, net as n\nfrom pkg import deep\nimport seqjax.values\ndef build():\n    from late import x\n",
    "net.py": "import m2\nfrom pkg.sub import leaf as l\n",
    "m2.py": "import m2\n",
    "late.py": "x = 1\n",
    "unused.py": "import nowhere\n",
    "pkg/__init__.py": "from .inside import *\n",
    "pkg/inside.py": "from . import deep\nfrom .sub.leaf import here\n",
    "pkg/deep.py": "try:\n    import absent\nexcept ImportError:\n    pass\nif False:\n    import m2\n",
    "pkg/unused.py": "",
    "pkg/sub/leaf.py": "here = 1\n",
    "space/mod.py": "import unused_too\n",
}
RUN = """
import importlib, json, pathlib, sys
folder = pathlib.Path.cwd()
module = importlib.import_module(sys.argv[1])
getattr(module, "build", lambda: None)()
files = [pathlib.Path(each.__file__) for each in list(sys.modules.values()) if getattr(each, "__file__", None)]
print(json.dumps(sorted(f.relative_to(folder).as_posix() for f in files if folder in f.parents)))
"""


@pytest.fixture(name="folder")
def _folder(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("module", ["m", "pkg", "pkg.deep", "pkg.sub.leaf", "net"])
def test_the_files_are_those_that_python_imports(folder, module, monkeypatch):
    run = [sys.executable, "-c", RUN, module]
    imported = json.loads(subprocess.run(run, cwd=folder, capture_output=True, check=True).stdout)
    monkeypatch.chdir(folder)
    # m2 is named by an import statement that does not run, and counts as well.
    extra = {"m2.py"} if any("deep" in name for name in imported) else set()
    assert set(source_digests(f"{module}:build")) == set(imported) | extra
    if "." not in module and module != "pkg":
        assert source_digests(f"{module}.py:build") == source_digests(f"{module}:build")


def test_every_file_changes_the_digest_and_other_files_do_not(folder):
    name = f"{folder / 'm.py'}:build"
    digests = [source_digest(name)]
    for file in FILES:
        (folder / file).write_text(FILES[file] + "# changed\n")
        digests.append(source_digest(name))
    same = [file for file, a, b in zip(FILES, digests, digests[1:], strict=False) if a == b]
    assert same == ["unused.py", "pkg/unused.py", "space/mod.py"]


def test_a_file_alone_has_its_own_digest_and_a_broken_one_too(tmp_path):
    for text in ("import jax\n", "def (", "\0", "from .... import x\n"):
        (tmp_path / "m.py").write_text(text)
        assert source_digest(f"{tmp_path / 'm.py'}:build") == hashlib.sha256(text.encode()).hexdigest()
    assert source_digest("nowhere.py:build") is None and source_digests("nowhere.py:build") == {}


def test_installed_packages_are_left_out(tmp_path):
    folder = tmp_path / "site-packages"
    for name, text in {
        "mine.py": "import other",
        "other.py": "",
        "p/__init__.py": "import mine, p.q",
        "p/q.py": "",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    assert list(local_files(folder / "mine.py")) == ["mine.py"]
    assert list(local_files(folder / "p" / "__init__.py", 1)) == ["p/__init__.py", "p/q.py"]
