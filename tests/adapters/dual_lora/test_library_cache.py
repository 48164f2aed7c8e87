"""Libraries in the user's cache: executed only if this user alone can have written them, and undamaged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from repro.adapters.dual_lora import compiler, library_cache

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], int]:
    """A function that compiles or loads a library that returns 7."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "seven.c"
    source.write_text("int value(void) { return 7; }", encoding="utf-8")
    return lambda: compiler.load(source, []).value()


def kept(tmp_path: Path) -> Path:
    (library,) = tmp_path.rglob("*.so")
    return library


def planted(library: Path) -> None:
    """Replace a library by one that returns 8."""
    source = library.parent / "eight.c"
    source.write_text("int value(void) { return 8; }", encoding="utf-8")
    subprocess.run(["cc", "-shared", "-fPIC", source, "-o", library], check=True)
    source.unlink()


def cut(library: Path) -> None:
    os.truncate(library, library.stat().st_size // 2)


def emptied(library: Path) -> None:
    os.truncate(library, 0)


def a_pipe(library: Path) -> None:
    library.unlink()
    os.mkfifo(library)


def a_link(library: Path) -> None:
    other = library.parent.parent / "other.so"
    library.rename(other)
    library.symlink_to(other)
    planted(other)


@pytest.mark.parametrize("damage", [planted, cut, emptied, a_pipe, a_link])
def test_a_library_that_is_not_what_was_written_is_compiled_again(
    damage: Callable[[Path], None], load: Callable[[], int], tmp_path: Path
) -> None:
    assert load() == 7
    library = kept(tmp_path)
    content = library.read_bytes()
    assert library.parent.stat().st_mode & 0o777 == 0o700
    damage(library)
    assert load() == 7
    assert library.read_bytes() == content  # mended


def open_to_all(folder: Path) -> None:
    folder.chmod(0o777)


def of_another_user(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    os.chown(folder, 65534, 65534)


def a_linked_folder(folder: Path) -> None:
    folder.rename(folder.parent / "elsewhere")
    folder.symlink_to(folder.parent / "elsewhere")


def a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.touch()


def a_file_for_the_cache(folder: Path) -> None:
    shutil.rmtree(folder.parent.parent)
    folder.parent.parent.touch()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (open_to_all, "others can write to it; delete it"),
        (of_another_user, "belongs to another user; set XDG_CACHE_HOME"),
        (a_linked_folder, "a link, and not a folder; set XDG_CACHE_HOME"),
        (a_file, "File exists; set XDG_CACHE_HOME"),
        (a_file_for_the_cache, "Not a directory; set XDG_CACHE_HOME"),
    ],
)
def test_a_folder_that_others_can_have_written_to_is_left_alone_and_said(
    change: Callable[[Path], None], reason: str, load: Callable[[], int], tmp_path: Path
) -> None:
    assert load() == 7
    library = kept(tmp_path)
    planted(library)
    change(library.parent)
    with pytest.warns(UserWarning, match=f"compiles its kernels in every process: .*/kernels: .*{reason}"):
        assert load() == 7


def test_for_a_user_without_a_home_nothing_is_made_in_the_current_folder(
    load: Callable[[], int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(library_cache, "user_cache_path", lambda name: Path("~/.cache", name))
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="not an absolute path; set XDG_CACHE_HOME"):
        assert load() == 7
    assert not (tmp_path / "~").exists()


def test_a_disk_that_takes_nothing_costs_a_compilation(
    load: Callable[[], int], monkeypatch: pytest.MonkeyPatch, read_only: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(read_only))
    with pytest.warns(UserWarning, match="Read-only file system; set XDG_CACHE_HOME"):
        assert load() == 7


def test_many_processes_compile_at_once(load: Callable[[], int], tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from repro.adapters.dual_lora import compiler; "
        "assert compiler.load(pathlib.Path(sys.argv[1]), []).value() == 7"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, tmp_path / "seven.c"]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert {path.name for path in kept(tmp_path).parent.iterdir()} == {kept(tmp_path).name}
