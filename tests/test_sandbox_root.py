from __future__ import annotations

import os

from testbed.sandbox.root import LIBRARIES, WORKER, python_root


def test_everything_to_show_is_here():
    assert [here for here, _ in python_root().files if not os.path.exists(here)] == []


def test_nothing_is_shown_twice():
    places = [inside for _, inside in python_root().files]
    assert len(places) == len(set(places))


def test_the_library_of_c_and_a_loader_are_shown():
    places = {inside for _, inside in python_root().files}
    assert f"{LIBRARIES}/libc.so.6" in places
    assert [place for place in places if os.path.basename(place).startswith("ld-")]


def test_folders_of_tests_windows_and_other_peoples_packages_are_hidden():
    hidden = {os.path.basename(folder) for folder in python_root().hidden}
    assert hidden & {"site-packages", "dist-packages", "test", "idlelib", "ensurepip"}
    assert all(folder.startswith("/python/") for folder in python_root().hidden)


def test_worker_starts_from_its_own_files():
    command, files = python_root().command, dict((inside, here) for here, inside in python_root().files)
    assert WORKER in command[-1]
    assert files[f"{WORKER}/testbed/sandbox/worker.py"].endswith("worker.py")
    assert command[0] in files
