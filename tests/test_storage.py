"""A file is there whole or not at all, whatever fails on the way."""

import os
import stat

import pytest

from flowzoo.storage import write_atomic


def test_content_and_nothing_beside_it(tmp_path):
    write_atomic(tmp_path / "a.bin", b"one")
    write_atomic(tmp_path / "a.bin", b"two")
    assert (tmp_path / "a.bin").read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_others_may_read_it(tmp_path):
    # a temporary file is private to its owner, a result is not
    write_atomic(tmp_path / "a.bin", b"one")
    assert stat.S_IMODE((tmp_path / "a.bin").stat().st_mode) == 0o644


@pytest.mark.parametrize("function", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_write_that_fails_midway_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch, function, error):
    path = tmp_path / "a.bin"
    write_atomic(path, b"old")

    def fail(*args):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(os, function, fail)
        with pytest.raises(type(error)):
            write_atomic(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    path, done = tmp_path / "a.bin", []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(handle):
        done.append("fsync")
        fsync(handle)

    def noted_replace(source, target):
        done.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_atomic(path, b"one")
    # the file, its name, and the folder that holds the name
    assert done == ["fsync", "replace", "fsync"]


def test_no_folder_is_an_error_and_not_a_guess(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "missing" / "a.bin", b"one")
