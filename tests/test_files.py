"""Files are written atomically, and a full disk gives a one-line message."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from repro.files import (
    check_writable,
    describe_fault,
    follow_umask,
    remove_partial,
    storage_fault,
    whole_file,
    write_whole,
)


def test_a_file_takes_its_name_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_whole(path, b"old")
    with whole_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("mask", [0o002, 0o077])
def test_files_have_the_permissions_of_the_umask(mask: int, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "tensors")
    before = os.umask(mask)
    try:
        write_whole(tmp_path / "file", b"new")
        follow_umask(tmp_path)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~mask}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_file_that_breaks_off_leaves_the_old_one_alone(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")
    with pytest.raises(error), whole_file(path) as file:
        file.write(b"new")
        raise error
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_what_a_killed_process_left_goes_and_the_rest_stays(tmp_path: Path) -> None:
    write_whole(tmp_path / "result.json", b"{}")
    child = os.fork()
    if child == 0:
        with whole_file(tmp_path / "result.json") as file:
            file.write(b"half")
            file.flush()
            os._exit(1)
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 2
    remove_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_a_full_disk_is_known_by_every_library_that_writes_to_it(small_disk: Path) -> None:
    """torch and safetensors have their own messages for it."""
    write_whole(small_disk / "kept", b"kept")
    tensor = torch.zeros(4 * 2**20)
    for write in (
        lambda file: torch.save(tensor, file),
        lambda file: file.write(bytes(tensor.nbytes)),
        lambda file: save_file({"a": tensor}, small_disk / "direct"),
    ):
        path = small_disk / "big"
        with pytest.raises(OSError, match="No space left on device") as caught, whole_file(path) as file:
            write(file)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
        (small_disk / "direct").unlink(missing_ok=True)
        assert [item.name for item in small_disk.iterdir()] == ["kept"]
    check_writable(small_disk)
    with pytest.raises(OSError), (small_disk / "all").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(OSError, match="No space left") as full:
        check_writable(small_disk)
    assert full.value.filename == str(small_disk)


def test_a_read_only_folder_is_found_out_without_leaving_anything(read_only: Path) -> None:
    with pytest.raises(OSError, match="Read-only file system") as caught:
        check_writable(read_only / "runs")
    assert caught.value.filename == str(read_only / "runs")


def test_a_writable_folder_stays_empty(tmp_path: Path) -> None:
    check_writable(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_faults_of_the_disk_are_told_from_others() -> None:
    try:
        try:
            raise OSError(errno.EROFS, "Read-only file system")
        except OSError as inner:
            raise RuntimeError("a library's own words") from inner
    except RuntimeError as error:
        assert storage_fault(error) == errno.EROFS
    assert storage_fault(FileNotFoundError(errno.ENOENT, "No such file")) is None
    assert storage_fault(ValueError("No space left on device")) is None
    line = describe_fault(errno.EROFS, Path("runs"))
    assert line.startswith("runs: Read-only file system; make it writable, or set REPRO_RESULTS_DIR")
