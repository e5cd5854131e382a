"""Downloading, from a server on this machine that can be made to misbehave."""

import hashlib
import os
import signal
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from accelnn.datasets import download as downloads
from accelnn.datasets.__main__ import main

BYTES = {  # by path below the base
    "courses/train.h5": np.random.RandomState(0).bytes(300_000),
    "courses/test.h5": np.random.RandomState(1).bytes(1000),
    "other/data.mat": np.random.RandomState(2).bytes(70_000),
}
FILES = {
    "cats": {"train.h5": "courses/train.h5", "test.h5": "courses/test.h5"},
    "football": {"football.mat": "other/data.mat"},
}


class Server(ThreadingHTTPServer):
    """Serves BYTES, and misbehaves as `fault` says."""

    daemon_threads = True
    fault = ""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []  # the paths
        self.base = f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path, fault = self.path[1:], self.server.fault
        self.server.asked.append(path)
        if fault == "absent":
            self.send_error(404)
            return
        if fault == "hang up":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        contents = BYTES[path]
        if fault == "wrong bytes":
            contents = b"<html>" + contents[6:]
        self.send_response(200)
        if fault != "cut, length unknown":
            self.send_header("Content-Length", str(len(contents)))
        self.end_headers()
        if fault:
            self.wfile.write(contents[: len(contents) // 2])
            self.wfile.flush()
        if fault == "Ctrl-C":
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            threading.Event().wait(10)
        if fault.startswith("cut"):
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.wfile.write(contents[len(contents) // 2 :] if fault else contents)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    table = {
        name: {
            file: (path, hashlib.sha256(BYTES[path]).hexdigest()) for file, path in files.items()
        }
        for name, files in FILES.items()
    }
    monkeypatch.setattr(downloads, "FILES", table)
    monkeypatch.setenv("NO_PROXY", "*")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "new" / "folder"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def failure(server, folder, capsys, name="cats"):
    """The one line that a failed download says."""
    assert main(["download", name, "--folder", str(folder)], server.base) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    return said.err


def test_the_files_are_fetched_once(server, folder, capsys):
    for _ in range(2):
        assert main(["download", "cats", "--folder", str(folder)], server.base) == 0
        said = capsys.readouterr()
        assert said.out.split() == [str(folder / "train.h5"), str(folder / "test.h5")]
        assert said.err.strip() == ""
    assert server.asked == ["courses/train.h5", "courses/test.h5"]
    assert contents(folder) == {name: BYTES[path] for name, path in FILES["cats"].items()}


def test_football_is_saved_as_football_in_the_users_cache(server, tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / name))
    assert main(["download", "football"], server.base) == 0
    assert contents(tmp_path / "accelnn") == {"football.mat": BYTES["other/data.mat"]}


def test_the_bar_shows_how_much_there_is(server, folder, monkeypatch):
    seen = []
    close = downloads._Bar.close
    monkeypatch.setattr(
        downloads._Bar,
        "close",
        lambda bar: (seen.append(bar._progress.tasks[bar._task]), close(bar)),
    )
    downloads.download("cats", folder, server.base)
    assert [(task.description, task.completed, task.total) for task in seen] == [
        ("train.h5", 300_000, 300_000),
        ("test.h5", 1000, 1000),
    ]
    assert all(task.visible and task.finished for task in seen)


def test_a_damaged_file_is_fetched_again(server, folder):
    folder.mkdir(parents=True)
    (folder / "football.mat").write_bytes(b"half")
    assert downloads.download("football", folder, server.base) == [folder / "football.mat"]
    assert contents(folder) == {"football.mat": BYTES["other/data.mat"]}


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("absent", "the server answers 404 Client Error: Not Found"),
        ("cut", "the connection was cut: try again"),
        ("cut, length unknown", "the bytes are not the expected ones"),
        ("wrong bytes", "the bytes are not the expected ones"),
    ],
)
def test_what_fails_says_so_in_a_line_and_leaves_nothing(server, folder, capsys, fault, says):
    server.fault = fault
    line = failure(server, folder, capsys)
    assert f"{server.base}courses/train.h5: {says}" in line
    assert contents(folder) == {}
    server.fault = ""
    assert main(["download", "cats", "--folder", str(folder)], server.base) == 0


def test_a_failed_download_keeps_what_was_there(server, folder, capsys):
    folder.mkdir(parents=True)
    (folder / "football.mat").write_bytes(b"mine")
    server.fault = "wrong bytes"
    failure(server, folder, capsys, "football")
    assert contents(folder) == {"football.mat": b"mine"}


def test_without_a_network_a_line_says_so(server, folder, capsys):
    server.fault = "hang up"
    assert "cats: cannot reach 127.0.0.1 (" in failure(server, folder, capsys)
    server.server_close()
    assert "cats: cannot reach 127.0.0.1 (" in failure(server, folder, capsys)
    server.base = "http://no-such-host.invalid/"
    line = failure(server, folder, capsys)
    assert "cats: cannot reach no-such-host.invalid (" in line
    assert "): try again, or put train.h5 and test.h5 into a folder and name it in ACCEL" in line
    assert contents(folder) == {}


def test_a_silent_server_is_not_waited_for_for_ever(server, folder, capsys, monkeypatch):
    import pooch

    slow = pooch.HTTPDownloader
    monkeypatch.setattr(pooch, "HTTPDownloader", lambda **how: slow(timeout=0.2, **how))
    monkeypatch.setattr(Handler, "do_GET", lambda _: threading.Event().wait(1))
    assert "cannot reach" in failure(server, folder, capsys)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no POSIX signals")
def test_ctrl_c_leaves_nothing(server, folder):
    server.fault = "Ctrl-C"
    with pytest.raises(KeyboardInterrupt):
        main(["download", "cats", "--folder", str(folder)], server.base)
    assert contents(folder) == {}


def test_a_folder_that_cannot_be_made_is_an_error(server, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert "file" in failure(server, tmp_path / "file", capsys)
    assert "file" in failure(server, tmp_path / "file" / "below", capsys)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission_is_an_error(server, tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert "ermission" in failure(server, tmp_path / "below", capsys)
    tmp_path.chmod(0o700)


def test_an_unknown_name_is_an_error(server, folder, capsys):
    with pytest.raises(ValueError, match="unknown data set 'dogs': expected one of cats, football"):
        downloads.download("dogs", folder, server.base)
    with pytest.raises(SystemExit, match="2"):
        main(["download", "dogs"])
    assert "invalid choice" in capsys.readouterr().err


def test_without_a_command_the_error_names_it(capsys):
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert capsys.readouterr().err.endswith("are required: download {cats,football}\n")


def test_what_is_fetched_is_what_the_loaders_look_for(real_data):
    """The names and hashes, against the real files."""
    for files in downloads.FILES.values():
        for name, (_, sha256) in files.items():
            if (real_data / name).exists():
                assert hashlib.sha256((real_data / name).read_bytes()).hexdigest() == sha256
