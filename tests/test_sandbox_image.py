"""The one image of every backend: its digest, its tar, and the packages in it."""

from __future__ import annotations

import importlib.util
import io
import os
import py_compile
import stat
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

from testbed.errors import UnknownName, UsageError
from testbed.sandbox import Bwrap, Limits, image
from testbed.sandbox.packages import find
from testbed.sandbox.root import PythonRoot, python_root


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A small root: a module, a program, a link, a folder to hide."""
    folder = tmp_path / "library"
    (folder / "inner").mkdir(parents=True)
    (folder / "tests").mkdir()
    (folder / "module.py").write_text("value = 1\n")
    (folder / "inner" / "program").write_bytes(b"\x7fELF")
    (folder / "inner" / "program").chmod(0o755)
    (folder / "link").symlink_to("module.py")
    (folder / "tests" / "secret").write_text("hidden")
    return folder


def root_of(library: Path) -> PythonRoot:
    return PythonRoot("/python/bin/x", ((str(library), "/python/lib"),), ("/python/lib/tests",))


def digest_of(library: Path) -> str:
    image.digest.cache_clear()
    return image.digest(root_of(library))


def unpack(root: PythonRoot) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    file = io.BytesIO()
    image.write_tar(root, file)
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        members = [(member, tar.extractfile(member)) for member in tar]
        return {member.name: (member, content.read() if content else b"") for member, content in members}


@pytest.mark.parametrize(
    "change",
    [
        lambda f: (f / "module.py").write_text("value = 2\n"),
        lambda f: (f / "module.py").chmod(0o755),
        lambda f: (f / "inner" / "program").chmod(0o644),
        lambda f: (f / "module.py").rename(f / "other.py"),
        lambda f: (f / "empty").mkdir(),
        lambda f: ((f / "link").unlink(), (f / "link").symlink_to("inner")),
        lambda f: ((f / "link").unlink(), (f / "link").write_text("value = 1\n")),
    ],
    ids=["bytes", "executable", "not executable", "name", "empty folder", "link elsewhere", "file for a link"],
)
def test_whatever_a_program_can_read_changes_the_digest(library, change):
    before = digest_of(library)
    change(library)
    assert digest_of(library) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda f: os.utime(f / "module.py", (1, 1)),
        lambda f: (f / "module.py").chmod(0o600),
        lambda f: py_compile.compile(str(f / "module.py")),
        lambda f: (f / "tests" / "secret").write_text("other"),
        lambda f: f.rename(f.parent / "elsewhere") and (f.parent / "elsewhere").rename(f),
    ],
    ids=["time", "private", "compiled", "hidden", "moved"],
)
def test_what_differs_between_machines_does_not_change_the_digest(library, change):
    before = digest_of(library)
    change(library)
    assert digest_of(library) == before


def test_digest_is_the_same_in_another_process():
    code = "from testbed.sandbox import image, root; print(image.digest(root.python_root()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == image.digest(python_root())


def test_hidden_folders_are_there_and_empty(library):
    found = unpack(root_of(library))
    assert found["python/lib/tests"][0].isdir()
    assert not [name for name in found if name.startswith("python/lib/tests/")]


def test_everything_belongs_to_root_and_nothing_is_setuid(library):
    (library / "inner" / "program").chmod(0o6777)
    (library / "module.py").chmod(0o666)
    for member, _ in unpack(root_of(library)).values():
        assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")
        assert not member.mode & (stat.S_ISUID | stat.S_ISGID)
        assert member.name == "tmp" or member.issym() or not member.mode & 0o022


def test_the_same_files_give_the_same_tar(library):
    first, second = io.BytesIO(), io.BytesIO()
    image.write_tar(root_of(library), first)
    image.write_tar(root_of(library), second)
    assert first.getvalue() == second.getvalue()


def test_devices_sockets_and_pipes_are_left_out(library):
    os.mkfifo(library / "pipe")
    assert "python/lib/pipe" not in unpack(root_of(library))


def compiled_module(library: Path) -> bytes:
    return unpack(root_of(library))[f"python/lib/__pycache__/module.{sys.implementation.cache_tag}.pyc"][1]


def test_a_valid_compiled_module_is_taken_as_it_is(library):
    here = py_compile.compile(str(library / "module.py"))
    assert compiled_module(library) == Path(here).read_bytes()


@pytest.mark.parametrize("stale", [False, True], ids=["missing", "stale"])
def test_a_module_without_a_valid_compiled_form_gets_one_that_needs_no_check(library, stale):
    if stale:
        py_compile.compile(str(library / "module.py"))
        (library / "module.py").write_text("value = 3_000\n")
    compiled = compiled_module(library)
    flags = int.from_bytes(compiled[4:8], "little")
    assert compiled[:4] == importlib.util.MAGIC_NUMBER
    assert flags == 0b01  # by hash, not checked
    assert (b"\xb8\x0b" in compiled) == stale  # 3000


def test_a_module_that_cannot_be_compiled_is_there_without(library):
    (library / "broken.py").write_text("def")
    found = unpack(root_of(library))
    assert "python/lib/broken.py" in found
    assert not [name for name in found if "broken" in name and name.endswith(".pyc")]


# --- the real one


def test_image_holds_no_shell_no_compiler_and_nobodys_packages():
    names = {entry.inside for entry in image.entries(python_root()) if entry.kind != "folder"}
    programs = {name.rpartition("/")[2] for name in names}
    assert not programs & {"sh", "bash", "dash", "busybox", "cc", "gcc", "ld", "as", "sudo", "su", "mount", "pip"}
    library = f"/python/{sys.platlibdir}/python{sys.version_info.major}.{sys.version_info.minor}"
    for folder in ("site-packages", "ensurepip", "idlelib", "test"):
        assert not [name for name in names if name.startswith(f"{library}/{folder}/")]
    assert {name.split("/")[1] for name in names} <= {"python", "lib", "lib64"}


def test_every_module_of_the_image_is_compiled():
    file = io.BytesIO()
    image.write_tar(python_root(), file)
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        names = {member.name for member in tar if not member.issym()}  # Debian's sitecustomize.py is a link
    modules = {name for name in names if name.endswith(".py")}
    compiled = {name for name in names if name.endswith(f".{sys.implementation.cache_tag}.pyc")}
    assert len(compiled) == len(modules)


# --- packages


def test_a_package_comes_with_all_that_it_needs_and_without_its_extras():
    found = find(("jsonschema",))
    names = {name.rpartition("-")[0] for name in found.names}
    assert {"jsonschema", "attrs", "referencing", "rpds-py"} <= names
    assert "webcolors" not in names
    assert found.modules == ("jsonschema",)
    assert [path for path in found.extensions if "rpds" in path]


def test_packages_know_their_versions_and_nothing_of_this_machine():
    entries = {entry.inside for entry in image.entries(python_root(("packaging",)))}
    notes = {name for name in entries if ".dist-info" in name}
    assert {name.rpartition("/")[2] for name in notes if not name.endswith(".dist-info")} == {"METADATA"}


async def test_a_program_can_ask_for_the_version_of_a_package():
    session = await Bwrap(packages=("packaging",)).open(Limits())
    result = await session.run("from importlib.metadata import version; print(version('packaging'))")
    await session.close()
    assert result.stdout.strip() == version("packaging"), result


def test_packages_change_the_digest_and_are_shown_in_a_folder_of_their_own():
    root = python_root(("packaging",))
    assert image.digest(root) != image.digest(python_root())
    assert "/python/packages/packaging/version.py" in {entry.inside for entry in image.entries(root)}
    assert root.environment["PYTHONPATH"] == "/python/packages"
    assert root.preload == ("packaging",)


def test_names_of_packages_are_read_as_pip_reads_them():
    assert find(("Typing_Extensions",)).modules == ("typing_extensions",)


def test_an_unknown_package_is_named_with_the_nearest():
    with pytest.raises(UnknownName, match="'packaging'"):
        find(("packagin",))


def test_a_package_whose_files_lie_elsewhere_is_refused():
    direct = importlib.util.find_spec("testbed")
    assert direct is not None
    if "site-packages" in str(direct.origin):
        pytest.skip("the testbed is not installed with -e here")
    with pytest.raises(UsageError, match="capability-testbed"):
        find(("capability-testbed",))
