"""The pages' code runs, their commands are understood, and their links lead somewhere."""

import contextlib
import io
import re
import shlex
from pathlib import Path
from unittest import mock

import pytest

from accelnn import functions, predict
from accelnn.bench import cases
from accelnn.cli import bench, train_options

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("[a-z]*/**/README.md"), *ROOT.glob("docs/*.md")]
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
COMMANDS = sorted(
    {
        line.split("  #")[0].split("accelnn ", 1)[1]
        for page in PAGES
        for line in page.read_text().splitlines()
        if re.match(r"\$ (\w+=\w+ )?accelnn ", line)
    }
)
EXAMPLE = re.compile(r"```python\n(.*?)```\n\n```\n(.*?)```", re.DOTALL)
PARSERS = {
    "train": train_options.parse,
    "bench": bench.parse,
    "predict": lambda arguments: predict._parser().parse_args(arguments),
    "info": lambda arguments: arguments,
}


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.name)
def test_the_example_prints_what_stands_below_it(page):
    [(code, printed)] = EXAMPLE.findall(page.read_text())
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(code, {})
    history, accuracy = output.getvalue().splitlines()
    expected, expected_accuracy = printed.splitlines()
    assert history.split(" cost ")[0] == expected.split(" cost ")[0]
    numbers = [float(n) for n in re.findall(r"\d+\.\d+", history)]
    assert numbers == pytest.approx([float(n) for n in re.findall(r"\d+\.\d+", expected)], rel=0.05)
    assert float(accuracy) == pytest.approx(float(expected_accuracy), abs=0.02)


@pytest.mark.parametrize(
    "page",
    [
        "CONTRIBUTING.md",
        "docs/library.md",
        "docs/out-of-core.md",
        "docs/resuming.md",
        "docs/tables.md",
    ],
)
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    """CONTRIBUTING.md adds an activation, an optimizer and an implementation from outside."""
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL))
    with mock.patch.dict(functions.ACTIVATIONS), mock.patch.dict(cases.IMPLEMENTATIONS):
        exec(code, {"__name__": page})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_code_of_the_estimators_page_runs(tmp_path, monkeypatch, capsys):
    for package in ("sklearn.callback", "torch", "onnx", "onnxruntime"):
        pytest.importorskip(package)
    test_the_code_of_a_page_runs("docs/estimators.md", tmp_path, monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    cancer, wine, digits, diabetes = lines[:4]
    assert min(float(line.split()[-1]) for line in (cancer, wine, digits)) > 0.95
    assert float(diabetes) > 0.25
    absolute, squared = (line for line in lines if "_error " in line)
    assert float(absolute.split()[-1]) > 0.9
    assert float(squared.split()[-1]) < 0


def test_every_command_is_understood():
    assert COMMANDS
    for command in COMMANDS:
        name, *arguments = shlex.split(command)
        try:
            PARSERS[name](arguments)
        except SystemExit:
            pytest.fail(f"accelnn {command}")


def test_links_lead_somewhere_and_nothing_is_left_to_fill_in():
    for page in PAGES:
        text = page.read_text()
        assert "@@" not in text, page
        for link in re.findall(r"\]\(([^)#]+)", text):
            assert link.startswith("https://") or (page.parent / link).exists(), (page, link)
