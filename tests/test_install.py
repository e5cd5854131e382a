"""The command that installs an extra names what pip can find: accelnn is on no package index."""

import json
from pathlib import Path
from types import SimpleNamespace

from accelnn import install

CLONE = Path(__file__).resolve().parents[1]
EDITABLE = {"url": CLONE.as_uri(), "dir_info": {"editable": True}}
FOLDER = {"url": "file:///home/me/accelnn", "dir_info": {}}
GIT = {"url": "https://example.org/accelnn", "vcs_info": {"vcs": "git", "commit_id": "1a2b"}}


def test_an_extra_is_installed_from_where_accelnn_came_from(monkeypatch):
    monkeypatch.chdir(CLONE)
    for clone, origin, command in (
        (CLONE, {}, "pip install '.[plot]'"),
        (CLONE, FOLDER, "pip install '.[plot]'"),
        (CLONE, EDITABLE, "pip install -e '.[plot]'"),
        (CLONE / "other", {}, f"pip install '{CLONE / 'other'}[plot]'"),
        (None, FOLDER, "pip install 'accelnn[plot] @ file:///home/me/accelnn'"),
        (None, GIT, "pip install 'accelnn[plot] @ git+https://example.org/accelnn'"),
        (None, {}, "pip install '.[plot]' in a clone of accelnn"),
    ):
        monkeypatch.setattr(install, "CLONE", clone and str(clone))
        records = [None, json.dumps(origin)]  # the first is that of a build's accelnn.egg-info
        found = [SimpleNamespace(read_text=lambda _, text=text: text) for text in records]
        monkeypatch.setattr("importlib.metadata.distributions", lambda found=found, **_: found)
        assert install.install_command("plot") == command, (clone, origin)
