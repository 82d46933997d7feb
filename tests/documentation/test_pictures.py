"""The pictures of the documentation are drawn by its command."""

from pathlib import Path

import pytest

from graphalign.documentation.__main__ import main
from tests.pages import ROOT, pages


def test_the_command_draws_every_picture_of_the_concepts(tmp_path: Path) -> None:
    main(["pictures", "--docs", str(tmp_path)])
    drawn = {path.name: path.read_bytes() for path in (tmp_path / "images").iterdir()}
    shown = [name for name in drawn if f"images/{name})" in (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")]
    assert set(shown) == set(drawn) == {"barrier.png", "layers.png", "neuron_graph.png", "pass.png", "symmetry.png"}
    for name, content in drawn.items():
        assert content.startswith(b"\x89PNG")
        assert (ROOT / "docs" / "images" / name).is_file()


def test_figures_are_drawn_again_from_their_results(tmp_path: Path) -> None:
    (tmp_path / "results").symlink_to(ROOT / "docs" / "results")
    main(["figures", "--docs", str(tmp_path)])
    drawn = {path.name for path in (tmp_path / "images").iterdir()}
    concepts = {"barrier.png", "layers.png", "neuron_graph.png", "pass.png", "symmetry.png"}
    assert drawn | concepts | {"demo.png"} == {path.name for path in (ROOT / "docs" / "images").iterdir()}
    assert all((tmp_path / "images" / name).read_bytes().startswith(b"\x89PNG") for name in drawn)


def test_results_that_are_missing_or_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["figures", "--docs", str(tmp_path)])
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "federated.json").write_text("{")
    with pytest.raises(SystemExit):
        main(["figures", "--docs", str(tmp_path)])
    assert "federated.json: found no JSON" in capsys.readouterr().err


def test_every_picture_is_shown_on_a_page() -> None:
    text = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in pages())
    text += "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "results").glob("*.md"))
    for path in (ROOT / "docs" / "images").iterdir():
        assert path.name in text, f"{path.name} is on no page"
