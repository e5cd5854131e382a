"""The source of this copy of accelnn, and the command that installs its extras from there."""

import os  # not pathlib, which takes 5 ms to import

_ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))

# The root of the clone that this file lies in, known by files that only accelnn has, because
# other projects have packages named kernels and datasets too; None for an installed copy.
_OURS = ("kernels/gpu/common.cuh", "datasets/digits.h5")
CLONE = _ROOT if all(os.path.isfile(os.path.join(_ROOT, file)) for file in _OURS) else None


def install_command(extra: str) -> str:
    """The command that installs an extra of pyproject.toml, such as "plot", "peers", "cuda13".

    accelnn is on no package index: it is installed from its clone, or from its own source's URL.
    """
    import json  # these take 10 ms to import
    import shlex
    from importlib import metadata

    # The source that pip recorded (PEP 610). A build leaves an accelnn.egg-info in the clone: it is
    # found too, and records no source.
    found = (each.read_text("direct_url.json") for each in metadata.distributions(name="accelnn"))
    origin = json.loads(next(filter(None, found), "{}"))
    editable = ""
    if CLONE is not None:
        source = f"{'.' if os.getcwd() == CLONE else CLONE}[{extra}]"
        editable = "-e " if origin.get("dir_info", {}).get("editable") else ""
    elif "url" in origin:
        vcs = f"{origin['vcs_info']['vcs']}+" if "vcs_info" in origin else ""
        source = f"accelnn[{extra}] @ {vcs}{origin['url']}"
    else:
        return f"pip install '.[{extra}]' in a clone of accelnn"
    return f"pip install {editable}{shlex.quote(source)}"
