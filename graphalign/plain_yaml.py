"""YAML without what makes small files large or ambiguous: references, deep nesting, keys that occur twice."""

from __future__ import annotations

from typing import Any

import yaml

DEEPEST = 50


def load_plain(text: str) -> Any:
    """The content of a YAML document as plain dicts, lists, numbers and texts.

    Raises:
        yaml.YAMLError: no YAML, an alias (of which a few lines can stand for gigabytes), nesting deeper than 50, or a key that is there
            twice; with the place as `problem_mark`.
    """
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise _refused(f"found the alias *{event.anchor}, expected the entry written out", event)
        if depth > DEEPEST:
            raise _refused(f"found entries nested deeper than {DEEPEST}", event)
    node = yaml.compose(text, yaml.SafeLoader)
    _check_keys(node)
    return yaml.safe_load(text)


def _check_keys(node: yaml.Node | None) -> None:
    children = node.value if isinstance(node, yaml.CollectionNode) else []
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) < len(keys):
            raise _refused(f"found the key {next(key for key in keys if keys.count(key) > 1)!r} twice, expected it once", node)
        children = [part for pair in node.value for part in pair]
    for child in children:
        _check_keys(child)


def _refused(problem: str, place: Any) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)
