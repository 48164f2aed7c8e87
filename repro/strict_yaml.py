"""YAML as people mean it: a key once, YAML 1.2's few words for true and false, and an end to what grows.

PyYAML reads YAML 1.1, where `on` and `yes` are true, `1:30` is 90 and the last of two equal keys wins. Here a
value is a text unless it looks like a JSON value, `1e-3` included. Anchors, aliases and merge keys work.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

# Far above what a person writes. Aliases of aliases grow by a power with every line, and every level of
# nesting takes a level of Python's stack.
_NODES = 200_000
_DEPTH = 50
_DIGITS = 100

_UNFINISHED = (0, 0)

_TAG = "tag:yaml.org,2002:"
_WORDS = {
    "null": "~|null|Null|NULL|",
    "bool": "true|True|TRUE|false|False|FALSE",
    # Not 010, which is 8 in YAML 1.1 and 10 in YAML 1.2.
    "int": r"[-+]?(0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*([eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+))|[-+]?\.(inf|Inf|INF)"
    r"|\.(nan|NaN|NAN)",
    "timestamp": r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?",
    "merge": "<<",
}


def load_strict(text: str) -> Any:
    """The content of a YAML document: mappings, lists, texts, numbers, booleans and null.

    Raises:
        yaml.YAMLError: it is not valid YAML, has a key twice or one that is no text, a tag, an alias inside
            of what it names, or is too large.
    """
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict = {}
    yaml_constructors = dict(yaml.SafeLoader.yaml_constructors)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _check(node, {})
        return node

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if getattr(event, "tag", None) is not None:
            raise _Refused(f"a tag, {event.tag!r}; write the value without it", event.start_mark)
        self._depth += 1
        if self._depth > _DEPTH:
            raise _Refused(f"nested more than {_DEPTH} levels deep", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def number(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > _DIGITS:
            raise _Refused(f"a number of {len(node.value)} digits", node.start_mark)
        return int(node.value, 0)

    def day(self, node: yaml.ScalarNode) -> str:
        # A text for some readers of YAML, a day for others, and for those perhaps one that there is not.
        raise _Refused(f"{node.value!r} looks like a day; write it in quotes", node.start_mark)


class _Refused(yaml.MarkedYAMLError):
    """Valid YAML that nobody means."""

    def __init__(self, problem: str, mark: yaml.Mark) -> None:
        super().__init__(problem=problem, problem_mark=mark)


for _name, _pattern in _WORDS.items():
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(f"(?:{_pattern})\\Z"), None)
_Loader.add_constructor(_TAG + "int", _Loader.number)
_Loader.add_constructor(_TAG + "timestamp", _Loader.day)


def _check(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Size and depth with every alias written out. A node is looked at once, however often it is named."""
    if id(node) in known:
        if known[id(node)] == _UNFINISHED:
            raise _Refused("an alias inside of what it names", node.start_mark)
        return known[id(node)]
    known[id(node)] = _UNFINISHED
    inner: list[tuple[int, int]] = []
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        inner = [_check(part, known) for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        inner = [_check(item, known) for item in node.value]
    else:
        _check_text(node)
    size = 1 + sum(size for size, _ in inner)
    depth = 1 + max((depth for _, depth in inner), default=0)
    if size > _NODES:
        raise _Refused(f"more than {_NODES:,} values, aliases written out", node.start_mark)
    if depth > _DEPTH:
        raise _Refused(f"nested more than {_DEPTH} levels deep, aliases written out", node.start_mark)
    known[id(node)] = size, depth
    return size, depth


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if key.tag not in (_TAG + "str", _TAG + "merge"):
            shown = key.value if isinstance(key, yaml.ScalarNode) else f"a {key.id}"
            raise _Refused(f"the key {shown!r} is no text; write it in quotes", key.start_mark)
        if key.value in seen:
            raise _Refused(f"the key {key.value!r} is given twice; keep one", key.start_mark)
        seen.add(key.value)


def _check_text(node: yaml.Node) -> None:
    try:
        node.value.encode()
    except UnicodeEncodeError as error:
        raise _Refused(f"half a character, {error.object[error.start]!r}", node.start_mark) from error
