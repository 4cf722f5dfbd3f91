"""Names that a store gives stay in their folder, whatever writes or removes by them."""

import http.server
import threading
import uuid

import pytest

from harness.errors import UserError
from harness.storage import remote_store
from harness.storage.contained_path import inside
from harness.storage.driver_files import DriverFiles
from harness.storage.driver_lock import DriverLock
from harness.storage.workspace import Workspace

OUTSIDE = ["../x", "a/../../x", "..", "a/..", "/etc/x", "//x", "..\\x", "a\\b", "a\0b", "", ".", "./.", "a\ud800"]
HOSTILE = "../../outside"


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_is_none_of_a_file_in_the_folder_is_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"^'.*' is no name of a file in "):
        inside(tmp_path / "folder", name)


def test_links_may_lead_about_in_the_folder_and_not_out_of_it(tmp_path):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "folder-beside").mkdir()
    for name, target in {"in": "sub", "out": "..", "beside": "../folder-beside", "loop": "loop"}.items():
        (folder / name).symlink_to(target)
    for name in ("a", "sub/a b.npz", "in/a", "..a", "a..b/c"):
        assert inside(folder, name) == folder / name
    for name in ("out/x", "out", "beside/x", "loop/x"):
        with pytest.raises(UserError, match=r"folder'$"):
            inside(folder, name)


class Listing(http.server.BaseHTTPRequestHandler):
    """A folder `mine` whose page lists a file of it, and one elsewhere."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        page = self.path.rstrip("/").endswith("mine")
        body = f'<a href="{HOSTILE}">1</a><a href="own">2</a>'.encode() if page else b"content"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET


@pytest.fixture
def listing():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/root"
    server.shutdown()
    server.server_close()


@pytest.fixture
def memory(monkeypatch):
    """A store in memory, whose listing of each folder has a name outside it."""
    store = remote_store.RemoteStore(f"memory://{uuid.uuid4().hex}")
    files = store.files
    monkeypatch.setattr(store, "files", lambda name: {**files(name), HOSTILE: "1"})
    monkeypatch.setattr(store, "read", lambda name: b"content")
    monkeypatch.setattr(remote_store.RemoteStore, "_do", lambda self, operation, *expected: operation())
    return store


def copies(store, folder):
    """Each way of ours to copy what a store lists."""
    yield lambda: remote_store.fetch(store, "mine", folder / "mine")
    yield lambda: remote_store.FolderCopy(store, "mine", folder / "copy").pull()


def test_what_a_server_lists_is_written_to_the_folder_or_not_at_all(listing, tmp_path):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    store = remote_store.RemoteStore(listing)
    assert store.files("mine").keys() == {HOSTILE, "own"}
    for copy in copies(store, folder):
        with pytest.raises(UserError, match=r"'\.\./\.\./outside' is no name of a file in "):
            copy()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_a_driver_left_is_written_to_the_folder_or_not_at_all(memory, tmp_path):
    folder = tmp_path / "a" / "b"
    for copy in (*copies(memory, folder), DriverFiles(folder, DriverLock(memory)).pull):
        with pytest.raises(UserError, match=r"'\.\./\.\./outside' is no name of a file in "):
            copy()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_a_store_lists_is_removed_in_the_folder_or_not_at_all(tmp_path):
    kept = tmp_path / "a" / "weights.pt"
    kept.parent.mkdir()
    kept.write_text("x")
    uri = f"memory://{uuid.uuid4().hex}"
    for workspace in (Workspace(tmp_path / "out"), Workspace(tmp_path / "out", remote=uri)):
        with pytest.raises(UserError, match=r"'\.\./a/weights\.pt' is no name of a file in "):
            workspace.remove("../a/weights.pt")
    assert kept.exists()
