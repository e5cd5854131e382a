"""A server on this machine that answers every request with the bytes of one file."""

import functools
import socketserver
import tempfile
import threading
from pathlib import Path

SECONDS = 3  # to wait for the next bytes; a user's limit is longer


class _Answer(socketserver.BaseRequestHandler):
    def handle(self):
        try:
            self.request.settimeout(SECONDS)
            self.request.recv(65536)
            self.request.sendall(self.server.answer)
        except OSError:
            pass  # the client has closed the connection


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    answer = b""


@functools.cache
def _running():
    server = _Server(("127.0.0.1", 0), _Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def address(answer):
    """Where every request is answered with these bytes."""
    server = _running()
    server.answer = answer
    return f"http://127.0.0.1:{server.server_address[1]}/"


def download(path):
    """The football data as downloaded from a server that answers with the file at `path`, or the
    error that the download raised; nothing but a whole file may be left in its folder."""
    from accelnn.datasets import download as module

    module.BASE = address(path.read_bytes())
    module.TIMEOUT = SECONDS
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        old = Path(folder) / "football.mat"
        old.write_bytes(b"an old file")
        try:
            paths = module.download("football", folder)
        except Exception:
            left = [file.name for file in Path(folder).iterdir()]
            assert left == [old.name], f"left behind: {left}"
            assert old.read_bytes() == b"an old file", "the old file was changed"
            raise
        return [file.read_bytes() for file in paths]
