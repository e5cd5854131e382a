"""CuPy asked for with its real package installed and no GPU: NumPy runs, and says why.

`.ci/run` runs these in an environment of their own, since CuPy is no dependency of the tests.
Every check has a new interpreter, because the backend is chosen, and CuPy imported, once.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("cupy") is None:
    pytest.skip("the real CuPy is not installed", allow_module_level=True)


def answer(code, backend=None):
    """`result` after `code`, and the warnings it raised, in a new interpreter."""
    environment = {key: value for key, value in os.environ.items() if key != "ACCELNN_BACKEND"}
    if backend is not None:
        environment["ACCELNN_BACKEND"] = backend
    program = f"""
import json, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
{"".join(f"    {line}" for line in code.strip().splitlines(keepends=True))}
print(json.dumps([result, [[w.category.__name__, str(w.message)] for w in caught]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", autouse=True)
def reason():
    """Why CuPy cannot be used here; skips if it can."""
    why, _ = answer("from accelnn import backend\nresult = backend.why_not()")
    if why is None:
        pytest.skip("there is a usable GPU")
    return why


def test_the_reason_is_the_missing_driver_where_there_is_none(reason):
    version, _ = answer("import cupy\nresult = cupy.cuda.runtime.driverGetVersion()")
    if version:
        pytest.skip("there is an NVIDIA driver")
    assert reason == "there is no NVIDIA driver on this machine"


def test_cupy_asked_for_by_the_environment_falls_back_with_one_warning_naming_the_reason(reason):
    code = """
from accelnn import backend
result = [backend.current().name, backend.current().name]
"""
    names, warned = answer(code, backend="cupy")
    assert names == ["numpy", "numpy"]
    [(category, message)] = warned
    assert category == "RuntimeWarning"
    assert reason in message
    assert "NumPy" in message


def test_auto_falls_back_without_a_warning():
    code = "from accelnn import backend\nresult = backend.current().name"
    assert answer(code, backend="auto") == ["numpy", []]


def test_cupy_asked_for_from_python_is_an_error_naming_the_reason(reason):
    code = """
from accelnn import backend
try:
    backend.use("cupy")
except backend.BackendError as error:
    result = str(error)
"""
    message, warned = answer(code)
    assert reason in message
    assert warned == []


def test_an_unknown_backend_is_an_error_naming_it():
    code = """
from accelnn import backend
try:
    backend.current()
except backend.BackendError as error:
    result = str(error)
"""
    message, warned = answer(code, backend="nonsense")
    assert "nonsense" in message
    assert warned == []


def test_importing_accelnn_does_not_import_cupy():
    for backend in (None, "numpy", "cupy", "auto"):
        got = answer("import sys, accelnn\nresult = 'cupy' in sys.modules", backend)
        assert got == [False, []], backend


def test_the_names_the_device_double_may_use_are_names_of_cupy():
    names = (Path(__file__).parent / "doubles" / "cupy_names.txt").read_text().split()
    assert names == sorted(set(names))
    missing, _ = answer(f"import cupy\nresult = [n for n in {names!r} if not hasattr(cupy, n)]")
    assert missing == []
