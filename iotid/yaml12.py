"""A YAML 1.2 reader for settings and device lists: one document, unique keys, core schema.

PyYAML reads YAML 1.1, in which 010 is 8, 1:30 is 90, ``no`` is false and 1e-3 is text; of equal keys it takes the last.
YAML 1.2 has no merge key: ``<<`` is an ordinary key, which no section knows. Only tags of the core schema are read.
Depth, number of values and the expansion of aliases are bounded.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml

from iotid.errors import short_repr, shorten

_MAX_DEPTH = 64
_MAX_VALUES = 1_000_000  # of a document; each takes some 600 bytes while it is read
_MAX_EXPANDED = 100_000  # values and characters that aliases add
_MAX_DIGITS = 100  # of an integer; Python refuses to print thousands
_MAX_ERROR_CHARACTERS = 200
_SURROGATE = re.compile("[\ud800-\udfff]")
_TAG = "tag:yaml.org,2002:"
_NULL = ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""])
# YAML 1.2.2, section 10.3.2: tag, pattern, characters that it may begin with
_CORE_SCHEMA = (
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
        self._depth = self._values = self._size = self._expanded = 0
        self._sizes: dict[int, int] = {}  # of complete nodes with an anchor

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        event, before = self.peek_event(), self._size
        self._depth += 1
        self._values += 1
        if self._depth > _MAX_DEPTH:
            raise _error_at(f"values are nested more than {_MAX_DEPTH} deep", event)
        if self._values > _MAX_VALUES:
            raise _error_at(f"there are more than {_MAX_VALUES:,} values", event)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                raise _error_at(f"alias {short_repr(event.anchor)} refers to a value that contains it", event)
            self._size += self._sizes[id(node)]
            self._expanded += self._sizes[id(node)]
            if self._expanded > _MAX_EXPANDED:
                raise _error_at(f"aliases expand to more than {_MAX_EXPANDED:,} values and characters", event)
            return node
        self._size += 1
        if isinstance(node, yaml.ScalarNode):
            self._size += len(node.value)
            if _SURROGATE.search(node.value):
                raise _error_at(f"{short_repr(node.value)} contains a lone surrogate", event)
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


class _CoreLoader(_Loader):
    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]


class _TextLoader(_Loader):
    """Reads every scalar but null as text: a MAC of twelve digits, or a device called 1e3, is not a number."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]


class _ValueLoader(_CoreLoader):
    """Refuses comments, which would truncate a value."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._whole = text

    def scan_to_next_token(self) -> None:
        start = self.index
        super().scan_to_next_token()
        if "#" in self._whole[start : self.index]:
            raise yaml.YAMLError("what comes after # would be cut off as a comment")


def _error_at(what: str, event: yaml.Event) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=what, problem_mark=event.start_mark)  # type: ignore[arg-type]


def _bool(loader: Any, node: Any) -> bool:
    text = loader.construct_scalar(node)
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{short_repr(text)} is neither true nor false")
    return bool(text.lower() == "true")


def _int(loader: Any, node: Any) -> int:
    text = loader.construct_scalar(node)
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"{short_repr(text)} is too large a number")
    return int(text, 0 if text[:2] in ("0o", "0x") else 10)


def _float(loader: Any, node: Any) -> float:
    text = loader.construct_scalar(node).lower()
    return float(text.replace(".", "", 1) if text.endswith((".inf", ".nan")) else text)


for _loader, _resolvers in ((_CoreLoader, _CORE_SCHEMA), (_TextLoader, (_NULL,))):
    for _name, _pattern, _begins in _resolvers:
        _loader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), _begins)
for _name, _construct in (("bool", _bool), ("int", _int), ("float", _float)):
    _Loader.add_constructor(_TAG + _name, _construct)


def load(text: str) -> Any:
    """Parse a document by the core schema.

    Raises:
        ValueError: it is not YAML, has several documents, or a key twice; the message has the line numbers.
    """
    return _load(_CoreLoader, text)


def load_text(text: str) -> Any:
    """Parse a document, with every scalar but null as text; raises what ``load`` raises."""
    return _load(_TextLoader, text)


def load_value(text: str) -> Any:
    """Parse all of ``text`` as one value; raises what ``load`` raises, and a ValueError at a comment."""
    value = _load(_ValueLoader, text)
    # an anchor, a tag or a document marker would be dropped from the text
    if isinstance(value, str) and text.strip()[:1] in ("&", "!", "-", "%") and value != text.strip():
        raise ValueError(f"YAML would read {short_repr(value)} alone of it")
    return value


def _load(kind: type[_Loader], text: str) -> Any:
    try:
        return kind(text).get_single_data()
    except yaml.MarkedYAMLError as fault:
        reasons = ((fault.context, fault.context_mark), (fault.problem, fault.problem_mark))
        parts = [
            f"{shorten(words, _MAX_ERROR_CHARACTERS)} in line {mark.line + 1}"
            if mark
            else shorten(words, _MAX_ERROR_CHARACTERS)
            for words, mark in reasons
            if words
        ]
        raise ValueError(", ".join(parts)) from None
    except (yaml.YAMLError, ValueError) as fault:
        raise ValueError(shorten(" ".join(str(fault).split()), _MAX_ERROR_CHARACTERS)) from None
