"""The private folder of a local Ray cluster: who reaches it, where it is made, and that it goes."""

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from other_user import STRANGER, attacked, needs_root
from sweeps import ROOT, until

from harness.errors import UserError
from harness.sweep import ray_folder, ray_internals


@pytest.fixture
def short(monkeypatch):
    """A short folder of this user; by default, private folders are made there."""
    folder = Path(tempfile.mkdtemp(prefix="t"))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    given(monkeypatch, folder)
    yield folder
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def given(monkeypatch, folder):
    """The system's temporary folder, as a user sets it."""
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)


def made():
    """Where a private folder is made."""
    with ray_folder.private_folder() as folder:
        return folder.parent


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_the_folder_and_its_token_are_its_owners_alone_and_go_at_the_end(short):
    with ray_folder.private_folder() as folder:
        assert folder.parent == short and mode(folder) == 0o700 and mode(folder / ray_folder.TOKEN) == 0o600
        token = (folder / ray_folder.TOKEN).read_text()
        (folder / ray_folder.ROOT / "logs").mkdir(parents=True)
    assert list(short.iterdir()) == [] and len(token) == 64
    with pytest.raises(KeyboardInterrupt), ray_folder.private_folder() as folder:
        assert (folder / ray_folder.TOKEN).read_text() != token
        raise KeyboardInterrupt
    assert list(short.iterdir()) == []


@needs_root
def test_another_user_can_do_nothing_to_it(short):
    short.chmod(0o1777)  # as the system's is
    with ray_folder.private_folder() as folder:
        sockets = folder / ray_folder.ROOT / "sockets"
        sockets.mkdir(parents=True)
        for path in (sockets.parent, sockets):
            path.chmod(0o777)  # as Ray makes them
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(sockets / "raylet"))
            listening.listen()
            where = [ray_folder.ROOT, "sockets"]
            done = attacked(folder, [ray_folder.TOKEN], [*where, "raylet"], where)
            assert len(done) == 12 and set(done.values()) == {"PermissionError"}, done
            folder.chmod(0o777)  # and without it, the same attempts succeed
            done = attacked(folder, [ray_folder.TOKEN], [*where, "raylet"], where)
            assert {name for name, end in done.items() if end == "done"} >= {
                "list",
                "link",
                "rename a socket",
                "listen",
            }
            folder.chmod(0o700)


HOLD = (
    "import sys; from harness.sweep import ray_folder as r\nwith r.private_folder() as f: print(f, flush=True); input()"
)


def holding(short):
    """A process that has a private folder, and the folder."""
    environment = {**os.environ, "TMPDIR": str(short)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env=environment,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_command_left_is_removed_by_the_next_and_nothing_else(short):
    live, lives = holding(short)
    killed, left = holding(short)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert left.is_dir() and lives.is_dir()
    (elsewhere := short / "elsewhere").mkdir()
    (elsewhere / "precious").touch()
    (short / "hray-link").symlink_to(elsewhere)
    (left / "link").symlink_to(elsewhere)
    (short / "hray-file").touch()
    (others := short / "hray-others").mkdir()
    if os.geteuid() == 0:
        os.chown(others, STRANGER, STRANGER)
    else:
        others.rmdir()
    assert made() == short
    stays = {lives, elsewhere, short / "hray-link", short / "hray-file"} | ({others} if os.geteuid() == 0 else set())
    assert set(short.iterdir()) == stays and (elsewhere / "precious").exists()
    live.send_signal(signal.SIGINT)  # ends in good order
    live.communicate()
    assert not lives.exists()


def test_a_folder_taken_for_a_leftover_before_it_was_locked_is_made_again(short, monkeypatch):
    makes, taken = tempfile.mkdtemp, []

    def mkdtemp(**how):
        folder = makes(**how)
        if not taken:
            taken.append(Path(folder))
            ray_folder.remove_leftovers(short)  # another command, at the same moment
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    with ray_folder.private_folder() as folder:
        assert folder.is_dir() and not taken[0].exists() and folder != taken[0]


def test_ray_ends_after_its_folder_began_to_go(short, monkeypatch):
    removes, calls = ray_folder.shutil.rmtree, []

    def rmtree(path, **how):
        if not calls:
            calls.append(path)  # something was written meanwhile, so that the folder was not empty
            return
        removes(path, **how)

    monkeypatch.setattr(ray_folder.shutil, "rmtree", rmtree)
    with ray_folder.private_folder() as folder:
        pass
    assert calls == [folder] and not folder.exists()


def test_the_longest_parent_leaves_room_for_sockets_and_one_byte_more_does_not(short):
    for more in (0, 1):
        parent = short / ("p" * (ray_folder.PARENT_BYTES - len(f"{short}/") + more))
        folder = Path(tempfile.mkdtemp(prefix=ray_folder.PREFIX, dir=_made(parent)))
        path = folder / ray_folder.ROOT / ray_internals.LONGEST_SOCKET
        path.parent.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as listening:
            if more:
                with pytest.raises(OSError, match="too long"):
                    listening.bind(str(path))
            else:
                listening.bind(str(path))
        assert ray_folder._is_usable(parent) == (not more)


def _made(folder):
    folder.mkdir(parents=True)
    return folder


def test_a_temporary_folder_that_does_not_serve_is_passed_over(short, monkeypatch):
    """Too long, missing, empty, relative, or open to others who could rename what is in it."""
    monkeypatch.setattr(ray_folder, "FALLBACKS", (str(_made(short / "b")),))
    given(monkeypatch, _made(short / ("long" * 20)))
    assert made() == short / "b"
    given(monkeypatch, _made(short / "a"))
    assert made() == short / "a"
    (short / "a").chmod(0o777)
    assert made() == short / "b"
    (short / "a").chmod(0o1777)
    assert made() == short / "a"
    monkeypatch.chdir(short)
    for text in ("", "a", str(short / "missing")):
        given(monkeypatch, text)
        assert made().is_absolute()


def test_where_none_serves_a_line_names_the_variable(short, monkeypatch):
    monkeypatch.setattr(ray_folder, "FALLBACKS", ())
    given(monkeypatch, _made(short / ("long" * 20)))
    with pytest.raises(UserError, match=r"^no folder for Ray's sockets: .*set RAY_TMPDIR to a short folder of yours$"):
        made()


def test_a_folder_of_the_users_is_used_and_a_line_says_who_else_can_write_there(short, monkeypatch, capsys):
    given(monkeypatch, _made(short / "a"))
    monkeypatch.setenv("RAY_TMPDIR", str(short / "mine"))
    assert made() == short / "mine" and mode(short / "mine") == 0o700
    assert capsys.readouterr() == ("", "")
    for open_to in (0o777, 0o775):
        (short / "mine").chmod(open_to)
        assert made() == short / "mine"
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("warning: other users can write to ") and err.count("\n") == 1
        assert repr(str(short / "mine")) in err and "RAY_TMPDIR" in err
    (short / "mine").chmod(0o1777)  # where nobody renames what is another's
    assert made() == short / "mine"
    assert capsys.readouterr().err == ""
    short.chmod(0o777)  # the folder itself can be renamed
    assert made() == short / "mine"
    assert "other users can write" in capsys.readouterr().err


def test_a_folder_of_the_users_that_does_not_serve_is_one_line(short, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(short / ("long" * 20)))
    said = (
        rf"^RAY_TMPDIR '.*' is too long for the paths of Ray's sockets: at most {ray_folder.PARENT_BYTES} bytes, not "
    )
    with pytest.raises(UserError, match=said):
        made()
    (short / "file").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(short / "file" / "x"))
    with pytest.raises(UserError, match=r"^cannot write to RAY_TMPDIR '.*/file/x': Not a directory$"):
        made()


def test_a_local_cluster_has_a_token_of_its_own_whatever_the_user_set(short, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of another cluster")
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    with ray_folder.private_folder() as folder, ray_folder.environment(folder):
        assert os.environ["RAY_AUTH_MODE"] == "token" and "RAY_AUTH_TOKEN" not in os.environ
        assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(folder / ray_folder.TOKEN)
    assert (os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"]) == ("disabled", "of another cluster")
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ


def test_commands_that_start_at_once_do_not_disturb_each_other(short):
    several = [holding(short) for _ in range(3)]
    until(lambda: len(list(short.iterdir())) == 3)
    for process, folder in several:
        assert folder.is_dir()
        process.communicate("\n")
        assert not folder.exists()


def test_processes_of_a_cluster_turn_no_warning_into_an_error(tmp_path, monkeypatch):
    """As the command itself is told to: Ray's own deprecations would end them."""
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    with ray_folder.environment(tmp_path):
        assert "PYTHONWARNINGS" not in os.environ
    assert os.environ["PYTHONWARNINGS"] == "error"
