"""Test the downloads of data with clients of the tests' own: complete, pinned, or an error in one line."""

import dataclasses
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile

import pytest
import typer.testing

from seqjax.cli.parser import make_app
from seqjax.datasets import sources
from seqjax.datasets.sources import (
    SOURCES,
    FetchError,
    MissingDataError,
    Source,
    cache_folder,
    clients,
    fetch,
)
from seqjax.datasets.sources.cache import folders
from seqjax.datasets.sources.package import Package, digest, read_members

MEMBERS = {"pack/data/a.txt": b"one", "pack/data/b.txt": b"two"}
OTHERS = {"pack/code.py": b"raise SystemExit"}


def zipped(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def tarred(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A source of two packages, and a client that copies their archives; returns the log of its downloads."""
    monkeypatch.setenv("SEQJAX_DATA", str(tmp_path / "cache"))
    packages = tuple(
        Package("pip", name, "1.0", ("*/data/*",), ("0" * 64, digest(MEMBERS))) for name in ("one", "two")
    )
    monkeypatch.setitem(SOURCES, "pair", Source("two packages", "none", packages, "nobody"))
    archive, log = tmp_path / "pack.whl", tmp_path / "log.txt"
    zipped(archive, MEMBERS | OTHERS)
    log.touch()

    def command(package, folder):
        program = (
            f"import shutil; print({package.name!r}, file=open({str(log)!r}, 'a'))\n"
            f"shutil.copy({str(archive)!r}, {str(folder)!r})"
        )
        return [sys.executable, "-S", "-c", program]

    monkeypatch.setattr(clients, "command", command)
    return log


def test_a_fetched_source_has_its_members_alone(registry):
    paths = fetch("pair")
    assert paths == [cache_folder() / "pip-one-1.0", cache_folder() / "pip-two-1.0"] == folders("pair")
    for folder in paths:
        found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        assert found == MEMBERS
    assert sorted(path.name for path in cache_folder().iterdir()) == ["pip-one-1.0", "pip-two-1.0"]


def test_a_second_call_continues_after_complete_packages(registry):
    fetch("pair")
    shutil.rmtree(cache_folder() / "pip-two-1.0")
    (cache_folder() / "pip-one-1.0" / "pack/data/a.txt").write_text("damaged")
    with pytest.raises(
        MissingDataError, match="pip-one-1.0', which is damaged. Run 'seqjax data fetch pair'"
    ):
        folders("pair")
    lines = []
    fetch("pair", report=lines.append)
    assert [line.split()[2] for line in lines] == ["one", "two"]
    fetch("pair", report=lines.append)
    assert len(lines) == 2 and registry.read_text().split() == ["one", "two"] * 2
    assert folders("pair")


def test_absent_data_say_how_to_get_them(registry):
    with pytest.raises(MissingDataError, match="pair: expected data in .*pip-one-1.0', which is absent. Run"):
        folders("pair")


def test_other_data_than_the_pinned_ones_are_refused_and_not_kept(registry, monkeypatch):
    first = dataclasses.replace(SOURCES["pair"].packages[0], sha256=("0" * 64,))
    monkeypatch.setitem(SOURCES, "pair", dataclasses.replace(SOURCES["pair"], packages=(first,)))
    with pytest.raises(
        FetchError, match=r"expected the members of one 1.0 with the sha256 000000000000\.\.\."
    ):
        fetch("pair")
    assert not list(cache_folder().iterdir())


def test_a_download_that_fails_leaves_what_was_complete(registry, monkeypatch):
    whole = clients.command

    def command(package, folder):
        code = "import sys; print('WARNING: x\\nERROR: no network', file=sys.stderr); sys.exit(1)"
        return whole(package, folder) if package.name == "one" else [sys.executable, "-S", "-c", code]

    monkeypatch.setattr(clients, "command", command)
    with pytest.raises(
        FetchError, match=r"expected the package two 1.0 from pip, got 'ERROR: no network'. Check"
    ):
        fetch("pair")
    assert [path.name for path in cache_folder().iterdir()] == ["pip-one-1.0"]


def test_what_a_killed_download_left_is_removed_after_a_day(registry):
    for name, age in ((".download-old", 90_000), (".download-new", 10)):
        (cache_folder() / name).mkdir(parents=True)
        os.utime(cache_folder() / name, (time.time() - age,) * 2)
    fetch("pair")
    assert [path.name for path in cache_folder().glob(".download-*")] == [".download-new"]


def test_a_folder_that_cannot_be_written_is_named(registry, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SEQJAX_DATA", str(tmp_path / "file"))
    with pytest.raises(
        FetchError, match="expected a cache folder that can be written, got .*file.* SEQJAX_DATA"
    ):
        fetch("pair")


@pytest.mark.parametrize("client", ["npm", "apt"])
def test_a_missing_client_is_named(client, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    program = {"npm": "npm", "apt": "dpkg-deb"}[client]
    with pytest.raises(FetchError, match=f"expected the program {program}, to download x 1, got none"):
        clients.command(Package(client, "x", "1", (), ()), tmp_path)


def test_a_python_without_pip_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(clients.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FetchError, match="expected pip in .* ensurepip"):
        clients.command(Package("pip", "x", "1", (), ()), tmp_path)


@pytest.mark.parametrize(("name", "write"), [("x.whl", zipped), ("x.tar.gz", tarred), ("x.tgz", tarred)])
def test_archives_are_read_by_the_end_of_their_names(name, write, tmp_path):
    write(tmp_path / name, MEMBERS | OTHERS)
    assert read_members(tmp_path / name, ("*/data/*",)) == MEMBERS


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="there is no dpkg-deb here")
def test_debian_packages_are_read(tmp_path):
    (tmp_path / "p/DEBIAN").mkdir(parents=True)
    (tmp_path / "p/DEBIAN/control").write_text(
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x>\nDescription: x\n"
    )
    for name, data in (MEMBERS | OTHERS).items():
        path = tmp_path / "p" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    subprocess.run(
        ["dpkg-deb", "--build", "-Znone", tmp_path / "p", tmp_path / "x.deb"], check=True, capture_output=True
    )
    assert read_members(tmp_path / "x.deb", ("*/data/*",)) == MEMBERS


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    for name in ("SEQJAX_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sources.cache.Path, "home", lambda: tmp_path)
    assert cache_folder() == tmp_path / ".cache" / "seqjax"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert str(cache_folder()) == "/x/seqjax"
    monkeypatch.setenv("SEQJAX_DATA", "/y")
    assert str(cache_folder()) == "/y"


def test_every_package_of_the_catalog_is_pinned():
    for source in SOURCES.values():
        assert source.about and source.license and source.credit
        for package in source.packages:
            assert package.version and package.members
            assert all(re.fullmatch("[0-9a-f]{64}", each) for each in package.sha256), package


def run(*arguments):
    return typer.testing.CliRunner().invoke(make_app(), ["data", *arguments])


def test_the_command_fetches_and_lists(registry):
    assert run("fetch", "pair").exit_code == 0
    shown = run("list").output
    assert all(name in shown for name in SOURCES) and re.search(r"pair\s*│\s*yes", shown)
    assert re.search(r"mnist\s*│\s*no", shown)


def test_the_command_reports_what_failed_and_goes_on(registry, monkeypatch):
    found = run("fetch", "shakespear", "pair")
    assert "unknown name 'shakespear'. Did you mean 'shakespeare'?" in str(found.exception)
    bad = dataclasses.replace(SOURCES["pair"].packages[0], sha256=("0" * 64,))
    monkeypatch.setitem(SOURCES, "bad", dataclasses.replace(SOURCES["pair"], packages=(bad,)))
    found = run("fetch", "bad", "pair")
    assert found.exit_code == 1 and folders("pair")
    assert found.stderr.count("\n") == 1 and found.stderr.startswith(
        "seqjax: bad: fetch: expected the members"
    )
