"""Hostile files and faults: the files that once failed, and a minute of the campaign."""

import sys

import pytest
from fuzz import __main__ as fuzz
from fuzz import campaign, corpus

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it measures by Linux's /proc")


def test_files_that_once_failed_are_read_or_refused(tmp_path):
    files = sorted(file for file in corpus.CORPUS.glob("*/*") if file.is_file())
    cases = [(file.parent.name, str(file)) for file in files]
    assert len(cases) > 30
    tallies = {name: campaign.Tally(name) for name, _ in cases}
    for large in (False, True):  # a picture of 90 megapixels may take more than a small file
        part = [case for case in cases if (case[0] == "picture") == large]
        campaign.run(part, tmp_path / "kept", tmp_path, tallies, memory=500 if large else 50)
    failures = {name: dict(tally.failures) for name, tally in tallies.items() if tally.failures}
    assert not failures, "\n".join(campaign.table(tallies.values()))


def test_the_corpus_is_what_its_makers_write(tmp_path):
    made = corpus.files(tmp_path)
    stored = {str(file.relative_to(corpus.CORPUS)) for file in corpus.CORPUS.glob("*/*")}
    assert stored == set(made)


@pytest.mark.slow
def test_a_minute_of_the_campaign_finds_nothing(tmp_path, capsys):
    status = fuzz.main(["--seconds", "60", "--first", "0", "--keep", str(tmp_path / "kept")])
    assert status == 0, capsys.readouterr().out
