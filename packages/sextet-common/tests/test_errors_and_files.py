from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sextet_common import files
from sextet_common.errors import InputError, reading, require


def test_an_input_error_says_what_was_given_and_what_is_accepted() -> None:
    error = InputError("ipc is 0", "a whole number >= 1")
    assert str(error) == "ipc is 0; expected: a whole number >= 1"
    assert str(InputError("nothing to add")) == "nothing to add"
    assert isinstance(error, ValueError)


def test_a_missing_optional_dependency_names_its_extra() -> None:
    with pytest.raises(InputError, match=r"pip install 'sextet-common\[figures\]'"):
        require("no_such_module.inside", package="sextet-common", extra="figures")


def test_a_broken_installed_dependency_is_not_reported_as_a_missing_extra(tmp_path, monkeypatch) -> None:
    (tmp_path / "half_installed.py").write_text("import a_module_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        require("half_installed", package="sextet-common", extra="figures")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path) -> None:
    target = tmp_path / "result.json"
    files.write_text(target, "old")
    with pytest.raises(RuntimeError), files.replacing(target) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_a_block_that_writes_nothing_is_an_error_and_changes_nothing(tmp_path) -> None:
    with pytest.raises(FileNotFoundError), files.replacing(tmp_path / "result.json"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_error_with_lone_surrogates_can_be_printed() -> None:
    error = InputError("the name '\ud800'", "one without \udcff")
    assert str(error).encode("utf-8") == b"the name '\\ud800'; expected: one without \\udcff"


def test_any_exception_of_a_parser_becomes_an_error_that_names_the_file(tmp_path) -> None:
    for failure in (
        EOFError("a"),
        OverflowError("too large"),
        MemoryError(),
        RecursionError("deep"),
        OSError(5, "bad"),
    ):
        message = r"^a\.json cannot be read: .+; expected: a table$"
        with pytest.raises(InputError, match=message) as caught, reading("a.json", "a table"):
            raise failure
        assert caught.value.__cause__ is failure
    with pytest.raises(InputError, match=r"^own$"), reading("a.json", "a table"):
        raise InputError("own")
    none = tmp_path / "none.json"
    with pytest.raises(InputError, match=r"none\.json does not exist; expected: a table"), reading(none, "a table"):
        none.read_text()
    with pytest.raises(KeyboardInterrupt), reading("a.json", "a table"):
        raise KeyboardInterrupt


def test_content_may_unpack_to_a_hundred_times_its_size_or_to_64_mib(tmp_path) -> None:
    files.check_growth("a", 64 << 20, 1)
    files.check_growth("a", 100 << 20, 1 << 20)
    for claimed, there in (((64 << 20) + 1, 1), ((100 << 20) + 1, 1 << 20)):
        with pytest.raises(InputError, match=f"a unpacks to {claimed} bytes from {there}"):
            files.check_growth("a", claimed, there)


@pytest.mark.skipif(os.name != "posix", reason="other systems cannot query a process")
def test_a_write_deletes_only_temporary_files_of_killed_writers_of_the_same_file(tmp_path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here, elsewhere = files._host(), "0123abcd"
    left = [tmp_path / f".{name}.{here}.{gone.pid}.0.tmp" for name in ("a", "a.json", "b")]
    left += [tmp_path / f".a.{here}.{os.getppid()}.0.tmp", tmp_path / ".a.x.tmp"]  # of a running process
    left += [tmp_path / f".a.{elsewhere}.{gone.pid}.0.tmp"]  # a process of another machine may be running
    for path in left:
        path.touch()
    files.write_text(tmp_path / "a", "whole")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "a", *left[1:]])
    files.remove_leftovers(tmp_path, alone=True)
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "a", *left[3:5]])


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "set"
    for content in ("first", "second"):
        with files.replacing_folder(target) as folder:
            (folder / content).touch()
        assert [path.name for path in target.iterdir()] == [content] and list(tmp_path.iterdir()) == [target]

    def fail() -> None:
        with files.replacing_folder(target) as folder:
            (folder / "third").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [path.name for path in target.iterdir()] == ["second"] and list(tmp_path.iterdir()) == [target]


def test_only_temporary_folders_of_killed_writers_are_deleted(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    dead, host = int(ended.stdout), files._host()
    (tmp_path / "set").mkdir()
    for name in (f".set.{host}.{dead}.0.tmp", f".set.{host}.{dead}.0.old.tmp", f".set.{host}.{os.getppid()}.0.tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / f".other.{host}.{dead}.0.tmp").mkdir()
    for end in (".999999.tmp", ".999999.old.tmp"):  # an earlier process with the same id
        name = f".set.{host}.{os.getpid()}{end}"
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").touch()
    with files.replacing_folder(tmp_path / "set"):
        pass
    kept = {"set", f".set.{host}.{os.getppid()}.0.tmp", f".other.{host}.{dead}.0.tmp"}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_missing_folders_are_created(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a" / "b" / "c.txt", "whole")
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "whole"
    with files.replacing_folder(tmp_path / "d" / "e" / "set"):
        pass
    assert (tmp_path / "d" / "e" / "set").is_dir()


def test_a_file_and_its_folder_are_flushed_around_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    replace = os.replace

    def synced(descriptor: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")

    def renamed(source: Path, target: Path) -> None:
        events.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    files.write_text(tmp_path / "a", "whole")
    assert events == ["file", "rename", "folder"]
    events.clear()
    with files.replacing_folder(tmp_path / "set"):
        pass
    assert events == ["rename", "folder"]


def test_a_folder_is_restored_when_its_replacement_cannot_be_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "old").touch()
    replace, calls = os.replace, 0

    def fails_once(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:  # the first rename moves the old folder away, the second one puts the new one there
            raise OSError("no space")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails_once)
    with pytest.raises(OSError, match="no space"), files.replacing_folder(tmp_path / "set") as folder:
        (folder / "new").touch()
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [tmp_path / "set"]


def test_leftovers_are_the_temporary_files_of_ended_processes(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    for name in (f".a.txt.{files._host()}.{int(ended.stdout)}.3.tmp", ".hidden", "b.tmp", ".c.1.tmp"):
        (tmp_path / name).touch()
    files.remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".c.1.tmp", ".hidden", "b.tmp"]


def test_the_old_folder_of_a_writer_killed_between_two_renames_comes_back(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    for name in ("", ".old"):
        (tmp_path / f".set.{files._host()}.{int(ended.stdout)}.0{name}.tmp").mkdir()
    (tmp_path / f".set.{files._host()}.{int(ended.stdout)}.0.old.tmp" / "kept").touch()
    files.remove_leftovers(tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["set", "set/kept"]


def test_two_writers_of_one_file_never_delete_each_others_temporary_file(tmp_path: Path) -> None:
    with files.replacing(tmp_path / "a") as first, files.replacing(tmp_path / "a") as second:
        assert first != second
        first.write_text("first"), second.write_text("second")
        files.remove_leftovers(tmp_path)
        files.remove_leftovers(os.path.relpath(tmp_path))
        assert first.exists() and second.exists()
        other = f"from sextet_common import files; files.write_text({str(tmp_path / 'a')!r}, 'third')"
        subprocess.run([sys.executable, "-c", other], check=True)
    assert (tmp_path / "a").read_text() == "first"  # the last to end
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_modes_follow_the_umask_and_an_existing_file_keeps_its_own(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "new" / "a", "x")
        with files.replacing_folder(tmp_path / "set"):
            pass
        modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "new/a", "set")]
        assert modes == [0o750, 0o640, 0o750]
        (tmp_path / "new" / "a").chmod(0o600), (tmp_path / "set").chmod(0o711)
        files.write_text(tmp_path / "new" / "a", "y")
        with files.replacing_folder(tmp_path / "set"):
            pass
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new/a", "set")] == [0o600, 0o711]


def impossible(folder: Path) -> dict[str, str]:
    """Return paths that cannot be written, with what the error says about each."""
    (folder / "file").touch()
    (folder / "dangling").symlink_to(folder / "nowhere" / "else")
    (folder / "loop").symlink_to(folder / "loop")
    return {
        "": "'' cannot be written",
        "a\0b": r"'a\\x00b' cannot be written",
        str(folder / "file" / "x"): "file.* cannot be written: (File exists|Not a directory)",
        str(folder / "file" / "x" / "y"): "file.* cannot be written: (File exists|Not a directory)",
        str(folder / "dangling" / "x"): "dangling is a link to nothing",
        str(folder / "loop" / "x"): "loop.* (is a link to nothing|cannot be written)",
        str(folder / ("n" * 300)): "cannot be written: File name too long; expected: a shorter name",
        str(folder / ("n" * 300) / "x"): "cannot be written: File name too long; expected: a shorter name",
        "/proc/none/x": "/proc/none.* cannot be written",
    }


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the messages of Linux")
def test_an_impossible_path_is_one_error_and_nothing_is_written(tmp_path: Path) -> None:
    paths = impossible(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for path, message in paths.items():
        for replace in (files.replacing, files.replacing_folder):
            with pytest.raises(InputError, match=message) as caught, replace(path) as temporary:
                temporary.touch()
            assert "\n" not in str(caught.value) and ".tmp" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.EIO])
def test_a_refused_write_names_the_target_and_leaves_the_old_file(tmp_path: Path, number: int) -> None:
    files.write_text(tmp_path / "a", "old")
    with pytest.raises(InputError, match=f"a cannot be written: {os.strerror(number)}; expected: "):  # noqa: SIM117
        with files.replacing(tmp_path / "a") as temporary:
            temporary.write_text("hal")
            raise OSError(number, os.strerror(number), str(temporary))
    assert (tmp_path / "a").read_text() == "old" and [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_error_that_is_no_refusal_stays_what_it_is(tmp_path: Path) -> None:
    for error in (FileNotFoundError(errno.ENOENT, "gone"), ConnectionError("no"), KeyError("x")):
        with pytest.raises(type(error)), files.replacing(tmp_path / "a"):
            raise error
    assert list(tmp_path.iterdir()) == []


def test_a_new_folder_whose_block_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"), files.replacing_folder(tmp_path / "set"):
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []
