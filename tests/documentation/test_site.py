"""The site builds, and no link in it leads nowhere."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import ROOT


def build(docs: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Builds the site into a folder; a warning is an error."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(folder / "cache"), str(docs), str(folder / "site")]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=folder, check=False)


def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    done = build(ROOT / "docs", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "index.html").is_file()


@pytest.mark.parametrize(
    ("link", "message"),
    [("nowhere.md", "nowhere.md"), ("limits.md#nothing", "nothing"), ("images/none.png", "none.png")],
    ids=["page", "heading", "file"],
)
def test_links_that_lead_nowhere_are_found(tmp_path: Path, link: str, message: str) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    shutil.copy(ROOT / "docs" / "conf.py", docs)
    (docs / "index.md").write_text(f"# Page\n\n[link]({link})\n\n```{{toctree}}\nlimits\n```\n", encoding="utf-8")
    (docs / "limits.md").write_text("# Limits\n\n## Something\n", encoding="utf-8")
    done = build(docs, tmp_path)
    assert done.returncode != 0
    assert message in done.stderr
