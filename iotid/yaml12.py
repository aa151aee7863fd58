"""YAML as people type it into settings and device lists: one document, no key twice, scalars by YAML 1.2.

PyYAML reads YAML 1.1, to which 010 is 8, 1:30 is 90, ``no`` is false and 1e-3 is text; of equal keys it takes the last.
Version 1.2 has no merge key: ``<<`` is a key like others, and one that no section knows. Of its tags those of the core
schema are read. Depth, number of values and the expansion of aliases are bounded.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml

from iotid.errors import short_repr, shorten

_DEEPEST = 64  # values within one another
_MOST_VALUES = 1_000_000  # of a document; each takes some 600 bytes while it is read
_MOST_REPEATED = 100_000  # values, and characters of text, after aliases are expanded
_MOST_DIGITS = 100  # of an integer; Python refuses to print those of thousands
_MOST_CHARACTERS = 200  # characters of an error
_SURROGATE = re.compile("[\ud800-\udfff]")
_TAG = "tag:yaml.org,2002:"
_NULL = ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""])
# YAML 1.2.2, section 10.3.2, with the characters that each may begin with
_CORE = (
    _NULL,
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)


class _Loader(yaml.SafeLoader):
    yaml_constructors: ClassVar[dict[Any, Any]] = {
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.removeprefix(_TAG) in ("null", "str", "seq", "map")
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._values = self._size = self._repeated = 0
        self._sizes: dict[int, int] = {}  # of nodes with an anchor that are whole

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        event, before = self.peek_event(), self._size
        self._depth += 1
        self._values += 1
        if self._depth > _DEEPEST:
            raise _refused(f"values are nested more than {_DEEPEST} deep", event)
        if self._values > _MOST_VALUES:
            raise _refused(f"there are more than {_MOST_VALUES:,} values", event)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                raise _refused(f"alias {short_repr(event.anchor)} refers to a value that contains it", event)
            self._size += self._sizes[id(node)]
            self._repeated += self._sizes[id(node)]
            if self._repeated > _MOST_REPEATED:
                raise _refused(f"aliases expand to more than {_MOST_REPEATED:,} values and characters", event)
            return node
        self._size += 1
        if isinstance(node, yaml.ScalarNode):
            self._size += len(node.value)
            if _SURROGATE.search(node.value):
                raise _refused(f"{short_repr(node.value)} holds half of a character", event)
        if event.anchor is not None:
            self._sizes[id(node)] = self._size - before
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], yaml.Mark] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in first:
                    at = first[key.tag, key.value]
                    raise yaml.MarkedYAMLError(
                        f"key {short_repr(key.value)}", at, "the same key once more", key.start_mark
                    )
                first[key.tag, key.value] = key.start_mark
        return node


class _Core(_Loader):
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]


class _Text(_Loader):
    """Every scalar but null stays text: a MAC of twelve digits, or a device called 1e3, is no number."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]


class _Whole(_Core):
    """Refuses comments, which cut off what comes after them."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._whole = text

    def scan_to_next_token(self) -> None:
        start = self.index
        super().scan_to_next_token()
        if "#" in self._whole[start : self.index]:
            raise yaml.YAMLError("what comes after # would be cut off as a comment")


def _refused(what: str, event: yaml.Event) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=event.start_mark)  # type: ignore[arg-type]


def _bool(loader: Any, node: Any) -> bool:
    text = loader.construct_scalar(node)
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{short_repr(text)} is neither true nor false")
    return bool(text.lower() == "true")


def _int(loader: Any, node: Any) -> int:
    text = loader.construct_scalar(node)
    if len(text) > _MOST_DIGITS:
        raise ValueError(f"{short_repr(text)} is too large a number")
    return int(text, 0 if text[:2] in ("0o", "0x") else 10)


def _float(loader: Any, node: Any) -> float:
    text = loader.construct_scalar(node).lower()
    return float(text.replace(".", "", 1) if text.endswith((".inf", ".nan")) else text)


for _of, _resolvers in ((_Core, _CORE), (_Text, (_NULL,))):
    for _name, _pattern, _begins in _resolvers:
        _of.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), _begins)
for _name, _construct in (("bool", _bool), ("int", _int), ("float", _float)):
    _Loader.add_constructor(_TAG + _name, _construct)


def load(text: str) -> Any:
    """What the document ``text`` holds, by the core schema.

    Raises:
        ValueError: it is not YAML, holds several documents, or a key twice; with the lines of both, in one line.
    """
    return _load(_Core, text)


def load_text(text: str) -> Any:
    """What the document ``text`` holds, where every scalar but null is text; raises what ``load`` raises."""
    return _load(_Text, text)


def load_value(text: str) -> Any:
    """The value ``text``, of which every character counts; raises what ``load`` raises, and at a comment."""
    value = _load(_Whole, text)
    # an anchor, a tag or the mark of a document would not be part of the text
    if isinstance(value, str) and text.strip()[:1] in ("&", "!", "-", "%") and value != text.strip():
        raise ValueError(f"YAML would read {short_repr(value)} alone of it")
    return value


def _load(kind: type[_Loader], text: str) -> Any:
    try:
        return kind(text).get_single_data()
    except yaml.MarkedYAMLError as fault:
        reasons = ((fault.context, fault.context_mark), (fault.problem, fault.problem_mark))
        parts = [
            f"{shorten(words, _MOST_CHARACTERS)} in line {mark.line + 1}" if mark else shorten(words, _MOST_CHARACTERS)
            for words, mark in reasons
            if words
        ]
        raise ValueError(", ".join(parts)) from None
    except (yaml.YAMLError, ValueError) as fault:
        raise ValueError(shorten(" ".join(str(fault).split()), _MOST_CHARACTERS)) from None
