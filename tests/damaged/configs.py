"""Bad specs, merge recipes and configurations of populations and of trainings, as YAML and JSON."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from graphalign.configuration import CONFIGS
from graphalign.converters.chain import chain_spec
from graphalign.spec_format import spec_to_dict

from .sound import state

Place = tuple[dict[Any, Any] | list[Any], Any]
WRONG: tuple[Any, ...] = (
    {}, [], "x", -1, 4.5, True, [[]], {"a": {"b": 1}}, 10**40, -(2**63), "\ud83e\udd84", "../../etc/passwd", "a" * 5000, float("inf"), float("nan"), ["x", 3], "${oc.env:HOME}", "???", b"\x00\x01",
)  # fmt: skip


@cache
def _spec() -> str:
    return json.dumps(spec_to_dict(chain_spec(state())))


def spec() -> dict[str, Any]:
    """The spec of the sound networks, as plain data."""
    return json.loads(_spec())  # type: ignore[no-any-return]


def recipe() -> dict[str, Any]:
    """A sound merge recipe for a.safetensors and b.safetensors beside it."""
    return {
        "models": [{"model": "a.safetensors", "parameters": {"weight": 0.5}}, {"model": "b.safetensors", "parameters": {"weight": 0.5}}],
        "merge_method": "linear", "base_model": "a.safetensors", "dtype": "float32", "parameters": {"normalize": True},
        "align": {"method": "weight", "settings": {"restarts": 1}, "seed": 0}, "repair": {"closed_form": False},
    }  # fmt: skip


def population() -> dict[str, Any]:
    """A sound configuration of the command zoo."""
    return yaml.safe_load((CONFIGS / "zoo" / "small.yaml").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def training() -> dict[str, Any]:
    """A sound configuration of the command train."""
    return yaml.safe_load((CONFIGS / "train" / "small.yaml").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def _places(content: Any) -> Iterator[Place]:
    """Every entry of every dict and list."""
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(entries):
        yield content, key
        yield from _places(value)


def _kind(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(type(value))
    return "number" if isinstance(value, (int, float)) else type(value).__name__


def _of_wrong_type(rng: random.Random, content: dict[str, Any]) -> str:
    """An entry replaced by a value of another kind."""
    owner, key = rng.choice(list(_places(content)))
    value = owner[key]
    never = [w for w in WRONG if isinstance(w, (dict, list, bytes)) or value is not None]  # where there is nothing, a number or a text may be right
    owner[key] = rng.choice([w for w in never if _kind(w) != _kind(value) and w not in ({}, [])])
    return f"{key} = {owner[key]!r:.60}"


def _unknown(rng: random.Random, content: dict[str, Any]) -> str:
    owners = [content, *(owner[key] for owner, key in _places(content) if isinstance(owner[key], dict) and key != "shapes" and key != "aliases")]
    key = rng.choice(("unknown", "__class__", "_target_", "size_", 3, "models2", ""))
    rng.choice(owners)[key] = rng.choice(WRONG)
    return f"{key!r} added"


def _huge(rng: random.Random, content: dict[str, Any]) -> str:
    numbers = [(owner, key) for owner, key in _places(content) if type(owner[key]) is int]
    owner, key = rng.choice(numbers)
    owner[key] = rng.choice((10**30, -(10**30), 10**400))
    return f"{key} = a huge number"


def _text(rng: random.Random, sound: str, as_json: bool) -> str | bytes:
    """A text that is no such file: broken, endless, nested, ambiguous."""
    deep, laughs = rng.choice((60, 3000, 100_000)), rng.choice((8, 12))
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n" + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, laughs))
    merges = "a0: &a0 {k: v}\n" + "".join(f"a{i}: &a{i} {{<<: [{','.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, laughs))
    lines = sound.splitlines()
    either: list[Callable[[], str | bytes]] = [
        lambda: "", lambda: "null", lambda: "[]", lambda: "3", lambda: '"text"', lambda: "[" * deep, lambda: '{"a":' * deep, lambda: sound.encode("utf-16"), lambda: b"\xff\xfe\x00", lambda: rng.randbytes(300),
        lambda: sound[: len(sound) // 2] + "\x00" + sound[len(sound) // 2 :], lambda: "[" * 40 + "]" * 40, lambda: "{" + sound, lambda: "- " * deep + "x" if deep < 100_000 else "]", lambda: bytes(100),
        lambda: '{"a": 1, "a": 2}', lambda: "[1, 2", lambda: "true", lambda: "1e999", lambda: "9" * 6000, lambda: "{}" * 3,
    ]  # fmt: skip
    only_yaml: list[Callable[[], str | bytes]] = [
        lambda: bomb, lambda: bomb + sound, lambda: merges, lambda: "&a [*a]", lambda: "a: &a\n  b: *a\n", lambda: "!!python/object/apply:os.system ['touch canary']", lambda: "!!python/name:os.system",
        lambda: "!!python/object/new:subprocess.Popen [['touch', 'canary']]", lambda: "a: !!binary |\n  x", lambda: "? [1, 2]\n: 3\n", lambda: "2001-99-99: 3", lambda: "a: 2001-99-99", lambda: "\t- a", lambda: "a: b: c",
        lambda: "%YAML 9.9\n---\na: 1\n", lambda: f"{sound}\n---\n{sound}", lambda: "\n".join(lines[: rng.randrange(1, len(lines))]) + "\n  - : [", lambda: "*unknown", lambda: "a: @b", lambda: f"{lines[0]}\n{sound}", lambda: "!!set {a, b}", lambda: "!include /etc/passwd",
    ]  # fmt: skip
    return rng.choice(either if as_json else either + only_yaml)()


def bad_config(seed: int, folder: Path) -> tuple[str, str, Path]:
    """Writes a bad configuration into a folder.

    Returns:
        What it should have been ("spec", "recipe", "population" or "training"), what is wrong with it, and its path.
    """
    rng = random.Random(seed)
    what = rng.choice(("spec", "spec", "recipe", "recipe", "population", "training"))
    content = copy.deepcopy({"spec": spec, "recipe": recipe, "population": population, "training": training}[what]())
    as_json = what == "spec" and rng.random() < 0.5
    path = folder / f"bad{'.json' if as_json else rng.choice(('.yaml', '.yml'))}"
    change = rng.choice((_of_wrong_type, _unknown, _huge, None))
    if change is None:
        sound = json.dumps(content) if as_json else yaml.safe_dump(content, sort_keys=False)
        text: str | bytes = _text(rng, sound, as_json)
        wrong = f"text {text[:60]!r}"
    else:
        wrong = change(rng, content)
        text = json.dumps(content, default=str) if as_json else yaml.safe_dump(content, sort_keys=False)
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return what, wrong, path
