from __future__ import annotations

from pathlib import Path

from graphalign.experiments.generalisation.store import Store


def test_a_measurement_is_found_by_an_equal_key(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("group/column", {"points": 3, "pairs": (0, 1)}, {"barrier": [0.5]})
    assert store.read("group/column", {"points": 3, "pairs": [0, 1]}) == {"barrier": [0.5]}
    assert store.read("group/column", {"points": 4, "pairs": [0, 1]}) is None
    assert store.read("group/other", {"points": 3, "pairs": [0, 1]}) is None


def test_names_hold_several_keys(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for points in (3, 4):
        store.write("group/column", {"points": points}, {"points": points})
    assert [store.read("group/column", {"points": points}) for points in (3, 4)] == [{"points": 3}, {"points": 4}]


def test_damaged_files_are_measured_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("column", 1, {"x": 1})
    next(tmp_path.glob("*.json")).write_text('{"key": 1, "fou')
    assert store.find("column", 1) is None


def test_a_file_of_another_key_does_not_count(tmp_path: Path) -> None:
    Store(tmp_path).write("column", {"seed": 1}, {"x": 1})
    file = next(tmp_path.glob("*.json"))
    file.write_text(file.read_text().replace('"seed": 1', '"seed": 2'))  # carried off under another name
    assert Store(tmp_path).read("column", {"seed": 1}) is None


def test_everything_again(tmp_path: Path) -> None:
    Store(tmp_path).write("column", 1, {"x": 1})
    assert Store(tmp_path).find("column", 1) == {"x": 1}
    assert Store(tmp_path, again=True).find("column", 1) is None
    assert Store(tmp_path, again=True).read("column", 1) == {"x": 1}
