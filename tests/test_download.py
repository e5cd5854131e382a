"""Downloads from a server on this machine that misbehaves on request."""

import contextlib
import hashlib
import os
import signal
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from helpers.files import refusal

from accelnn.datasets import download as downloads
from accelnn.datasets.download import main

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
            threading.Event().wait(0.2)  # until the client waits for the rest
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
            file: (path, len(BYTES[path]), hashlib.sha256(BYTES[path]).hexdigest())
            for file, path in files.items()
        }
        for name, files in FILES.items()
    }
    monkeypatch.setattr(downloads, "DOWNLOADS", table)
    monkeypatch.setenv("NO_PROXY", "*")
    with Server() as server:
        monkeypatch.setattr(downloads, "BASE", server.base)
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


def failure(folder, capsys, name="cats"):
    """The line that a failed download prints."""
    assert main(["download", name, "--folder", str(folder)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    return printed.err


def test_the_files_are_fetched_once(server, folder, capsys):
    for _ in range(2):
        assert main(["download", "cats", "--folder", str(folder)]) == 0
        printed = capsys.readouterr()
        assert printed.out.split() == [str(folder / "train.h5"), str(folder / "test.h5")]
        assert printed.err.strip() == ""
    assert server.asked == ["courses/train.h5", "courses/test.h5"]
    assert contents(folder) == {name: BYTES[path] for name, path in FILES["cats"].items()}


@pytest.mark.usefixtures("server")
def test_football_is_saved_as_football_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / name))
    assert main(["download", "football"]) == 0
    assert contents(tmp_path / "accelnn") == {"football.mat": BYTES["other/data.mat"]}


@pytest.mark.usefixtures("server")
def test_the_bar_shows_how_much_there_is(folder, monkeypatch):
    tasks, stop = [], downloads.Progress.stop_task

    def stop_task(bar, task):
        stop(bar, task)
        tasks.append(bar.tasks[task])

    monkeypatch.setattr(downloads.Progress, "stop_task", stop_task)
    downloads.download("cats", folder)
    assert [(task.description, task.completed, task.total) for task in tasks] == [
        ("train.h5", 300_000, 300_000),
        ("test.h5", 1000, 1000),
    ]
    assert all(task.visible and task.finished for task in tasks)


@pytest.mark.usefixtures("server")
def test_a_damaged_file_is_fetched_again(folder):
    folder.mkdir(parents=True)
    (folder / "football.mat").write_bytes(b"half")
    assert downloads.download("football", folder) == [folder / "football.mat"]
    assert contents(folder) == {"football.mat": BYTES["other/data.mat"]}


def test_a_failure_is_one_line_and_leaves_nothing(server, folder, capsys):
    url = f"{server.base}courses/train.h5"
    for fault, says in (
        ("absent", f"cannot download {url} (404 Client Error: Not Found): try again, or put"),
        ("cut", f"cannot download {url} (IncompleteRead("),
        ("cut, length unknown", f"{url}: wrong contents (expected sha256"),
        ("wrong bytes", f"{url}: wrong contents (expected sha256"),
    ):
        server.fault = fault
        assert says in failure(folder, capsys), fault
        assert contents(folder) == {}
    server.fault = ""
    assert main(["download", "cats", "--folder", str(folder)]) == 0


def test_a_failed_download_keeps_what_was_there(server, folder, capsys):
    folder.mkdir(parents=True)
    (folder / "football.mat").write_bytes(b"mine")
    server.fault = "wrong bytes"
    failure(folder, capsys, "football")
    assert contents(folder) == {"football.mat": b"mine"}


def test_without_a_network_a_line_says_so(server, folder, capsys, monkeypatch):
    server.fault = "hang up"
    says = f"cannot download {server.base}courses/train.h5 ("
    assert says in failure(folder, capsys)
    server.server_close()
    assert says in failure(folder, capsys)
    monkeypatch.setattr(downloads, "BASE", "http://no-such-host.invalid/")
    line = failure(folder, capsys)
    assert "cannot download http://no-such-host.invalid/courses/train.h5 (" in line
    assert "): try again, or put train.h5 and test.h5 into a folder and name it in ACCEL" in line
    assert contents(folder) == {}


@pytest.mark.usefixtures("server")
def test_a_silent_server_is_given_up(folder, capsys, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT", 0.2)
    monkeypatch.setattr(Handler, "do_GET", lambda _: threading.Event().wait(1))
    assert "timed out" in failure(folder, capsys)


@pytest.mark.usefixtures("server")
def test_a_server_that_never_ends_is_given_up(folder, capsys, monkeypatch):
    def endless(self: Handler) -> None:
        self.send_response(200)
        self.end_headers()
        pause = 0.05 if downloads.DEADLINE < 1 else 0
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"x" if pause else bytes(2**16))
                self.wfile.flush()
                time.sleep(pause)

    monkeypatch.setattr(Handler, "do_GET", endless)
    assert "courses/train.h5: wrong contents (expected sha256" in failure(folder, capsys)
    monkeypatch.setattr(downloads, "DEADLINE", 0.3)
    assert "(not finished in 0.3 s): try again, or put" in failure(folder, capsys)
    assert contents(folder) == {}


@pytest.mark.usefixtures("server")
def test_slow_headers_and_redirects_are_given_up(folder, capsys, monkeypatch):
    ended = threading.Event()

    def slow(self: Handler) -> None:
        for byte in b"HTTP/1.1 200 OK\r\n\r\n":
            self.wfile.write(bytes([byte]))
            time.sleep(0.05)
        ended.set()

    def elsewhere(self: Handler) -> None:
        self.send_response(302)
        self.send_header("Location", "/other/data.mat")
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(bytes(2**16))

    monkeypatch.setattr(downloads, "DEADLINE", 0.5)
    for answer, message in ((slow, "no answer in 0.5 s"), (elsewhere, "sent to another address")):
        monkeypatch.setattr(Handler, "do_GET", answer)
        assert f"({message}): try again, or put" in failure(folder, capsys)
    assert contents(folder) == {}
    assert ended.wait(5)


@pytest.mark.usefixtures("server")
@pytest.mark.skipif(os.name != "posix", reason="no POSIX permissions")
def test_downloaded_files_have_the_permissions_of_any_new_file(folder):
    for path in downloads.download("cats", folder):
        (folder / "new").touch()
        assert path.stat().st_mode == (folder / "new").stat().st_mode


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no POSIX signals")
def test_ctrl_c_leaves_nothing(server, folder):
    server.fault = "Ctrl-C"
    with pytest.raises(KeyboardInterrupt):
        main(["download", "cats", "--folder", str(folder)])
    assert contents(folder) == {}


@pytest.mark.usefixtures("server")
def test_a_folder_that_cannot_be_made_is_an_error(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert "file" in failure(tmp_path / "file", capsys)
    assert "file" in failure(tmp_path / "file" / "below", capsys)


@pytest.mark.usefixtures("server")
@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission_is_an_error(tmp_path, capsys):
    tmp_path.chmod(0o500)
    assert "ermission" in failure(tmp_path / "below", capsys)
    tmp_path.chmod(0o700)


def test_an_unknown_name_is_an_error(folder, capsys):
    says = "unknown data set 'dogs': expected one of cats, football"
    assert refusal(downloads.download, "dogs", folder) == says
    with pytest.raises(SystemExit, match="2"):
        main(["download", "dogs"])
    assert "invalid choice" in capsys.readouterr().err


def test_without_a_command_the_error_names_it(capsys):
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert capsys.readouterr().err.endswith("are required: download, name\n")


def test_the_published_hashes_are_those_of_the_real_files(real_data):
    for files in downloads.DOWNLOADS.values():
        for name, (_, size, sha256) in files.items():
            if (real_data / name).exists():
                assert (real_data / name).stat().st_size == size
                assert hashlib.sha256((real_data / name).read_bytes()).hexdigest() == sha256
