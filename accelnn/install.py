"""Where this copy of accelnn comes from, and how to install its extras from there."""

import shlex
from pathlib import Path
from typing import Any

_BESIDE = Path(__file__).resolve().parents[1]

# The root of the clone that this file lies in, known by files that only accelnn has; None for an
# installed copy. Packages named kernels and datasets also exist elsewhere.
CLONE = (
    _BESIDE
    if all((_BESIDE / ours).is_file() for ours in ("kernels/gpu/common.cuh", "datasets/digits.h5"))
    else None
)


def install_command(extra: str) -> str:
    """The command that installs one of the extras in pyproject.toml: "plot", "peers", "cuda13".

    accelnn is on no package index: it is installed from its clone, or from the URL that it was
    installed from.
    """
    origin = _origin()
    editable = ""
    if CLONE is not None:
        source = f"{'.' if Path.cwd() == CLONE else CLONE}[{extra}]"
        editable = "-e " if origin.get("dir_info", {}).get("editable") else ""
    elif "url" in origin:
        vcs = f"{origin['vcs_info']['vcs']}+" if "vcs_info" in origin else ""
        source = f"accelnn[{extra}] @ {vcs}{origin['url']}"
    else:
        return f"pip install '.[{extra}]' in a clone of accelnn"
    return f"pip install {editable}{shlex.quote(source)}"


def _origin() -> dict[str, Any]:
    """What pip recorded of the installed accelnn's source (PEP 610); {} if it recorded none."""
    import json
    from importlib import metadata  # takes 10 ms to import

    # A build leaves an accelnn.egg-info in the clone: it is found too, and records no source.
    for installed in metadata.distributions(name="accelnn"):
        if recorded := installed.read_text("direct_url.json"):
            return dict(json.loads(recorded))
    return {}
