"""The page "how this compares" is what the results files say."""

import json
import shutil
from pathlib import Path

import pytest

from graphalign.documentation.comparison import PARTS, comparison_page
from graphalign.errors import InvalidInput
from tests.pages import ROOT

DOCS = ROOT / "docs"


def test_the_page_is_up_to_date() -> None:
    assert (DOCS / "compare.md").read_text(encoding="utf-8") == comparison_page(DOCS), "run: python -m graphalign.documentation compare"


def test_figures_come_from_the_results(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    results = json.loads((DOCS / "results" / "bench_methods.json").read_text(encoding="utf-8"))
    results["families"][0]["recovered"] = 0.12345
    (folder / "bench_methods.json").write_text(json.dumps(results), encoding="utf-8")
    page = comparison_page(tmp_path)
    assert "12.3 |" in page
    assert page != comparison_page(DOCS)


def test_results_that_are_not_there_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    shutil.copy(DOCS / "results" / "bench_methods.json", tmp_path / "results")
    page = comparison_page(tmp_path)
    there = {part.name for part in PARTS if f"## {part.title}" in page}
    assert there == {"bench_methods"}


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"results: found none of ood\.json.*--docs"):
        comparison_page(tmp_path)
