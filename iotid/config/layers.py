"""Settings files and overrides, merged over conf/base.yaml; errors that name the setting, the value and the remedy."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from iotid import yaml12
from iotid.config.folders import conf_dir
from iotid.config.sections import CREDENTIALS_ERROR, S, Settings, unknown_choice
from iotid.errors import SettingError, short_repr, shorten
from iotid.inputs import read_file
from iotid.messages import NO_CREDENTIALS, holds_credentials, names_secret, redacted_location

DEFAULT_LAYERS = ("base.yaml", "promotion.yaml", "watchlist.yaml")
_log = logging.getLogger(__name__)
_MAX_BYTES = 1 << 20  # of a file of settings
_MAX_LISTED = 10  # that one error lists
_RENAMED = {  # settings renamed since version 0.1; the former names are accepted for one version
    "census.likeness": "min_similarity",
    "evaluation.further_baselines": "packet_baselines",
    "model.memory": "sequence_counts",
}


def load_settings(files: Iterable[str | Path] = (), overrides: Iterable[str] = ()) -> Settings:
    """Settings from the defaults, then ``files`` in order, then ``section.key=value`` overrides.

    A file is a path, or the bare name of one in ``conf/`` (``local.yaml``). Relative storage roots become absolute, so
    that no later step depends on the current folder.

    Raises:
        SettingError: a file is missing or not YAML; a key is unknown; a value has the wrong type or range.
    """
    for argument, values in (("files", files), ("overrides", overrides)):
        if isinstance(values, str | bytes | Path | Mapping):
            example = "['local.yaml']" if argument == "files" else "['training.epochs=10']"
            raise SettingError(f"{argument}: must be a list, got {short_repr(values)}; pass {example}")
    merged: dict[str, Any] = {}
    for name in DEFAULT_LAYERS:
        _merge(merged, _read_yaml(conf_dir() / name))
    for given in map(Path, files):
        shipped = conf_dir() / given
        layer = _read_yaml(shipped if shipped.is_file() and not given.exists() else given)
        _merge(merged, _apply_renames(layer, f"--config {given}"))
    for override in overrides:
        _merge(merged, _apply_renames(_parse_override(override), f"--set {shorten(override)}"))
    try:
        settings = Settings.model_validate(_with_tuples(merged), strict=True)  # true is not a number, 8 not text
    except ValidationError as fault:
        raise SettingError(_error_text(fault)) from None
    root = settings.storage.root
    if "://" not in root:
        root = str(Path(root).expanduser().resolve())
    return settings.model_copy(update={"storage": with_values(settings.storage, root=root)})


def with_values(section: S, **values: Any) -> S:
    """A copy of the section with other values, validated.

    Raises:
        SettingError: a value has the wrong type or range.
    """
    return make_section(type(section), {**dict(section), **values})


def make_section(kind: type[S], values: Mapping[str, Any]) -> S:
    """The section with these values, validated.

    Raises:
        SettingError: a value is missing, or has the wrong type or range.
    """
    name = kind.__name__.lower()
    values = {_RENAMED.get(f"{name}.{key}", key): value for key, value in values.items()}
    try:
        return kind.model_validate(_with_tuples(values), strict=True)
    except ValidationError as fault:
        raise SettingError(_error_text(fault, (name,))) from None


def settings_hash(*sections: BaseModel, extra: Mapping[str, Any] | None = None) -> str:
    """Twelve hexadecimal digits that identify the settings, and the inputs in ``extra``, of a result."""
    parts: list[Any] = [{type(section).__name__: section.model_dump(mode="json")} for section in sections]
    parts.append(dict(extra or {}))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _apply_renames(layer: dict[str, Any], source: str) -> dict[str, Any]:
    """The layer with renamed settings under their present names."""
    renamed = dict(layer)
    for old, new in _RENAMED.items():
        section, _, key = old.partition(".")
        values = renamed.get(section)
        if isinstance(values, Mapping) and key in values and new not in values:
            _log.warning(
                "%s: %s is now %s.%s; the next version will not accept the old name", source, old, section, new
            )
            renamed[section] = {new if name == key else name: value for name, value in values.items()}
    return renamed


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml12.load(read_file(path, _MAX_BYTES).decode())
    except OSError as fault:
        raise SettingError(f"--config {path}: cannot be read ({fault.strerror}); give a YAML file") from None
    except ValueError as fault:
        raise SettingError(f"--config {path}: is not valid YAML ({fault}); correct the file") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingError(
            f"--config {path}: must contain sections (name: {{key: value}}), got {type(content).__name__}"
        )
    return content


def _parse_override(text: str) -> dict[str, Any]:
    name, equals, value = text.partition("=")
    section, dot, key = name.partition(".")
    if not (equals and dot and section and key):
        raise SettingError(f"--set {shorten(text)}: must read section.key=value, as in training.epochs=10")
    if name == "spark.conf" and names_secret(value):
        raise SettingError(
            "--set spark.conf: names a secret, which the list of processes would show; set it in a file for --config"
        )
    if holds_credentials(value):
        raise SettingError(f"--set {shorten(name)}: {NO_CREDENTIALS}, got {shorten(redacted_location(value))}")
    try:
        return {section: {key: yaml12.load_value(value)}}
    except ValueError as fault:
        quoted = shorten(shlex.quote(f"{name}={json.dumps(value, ensure_ascii=False)}"))
        raise SettingError(
            f"--set {shorten(text)}: the value is not valid YAML ({fault}); quote it: --set {quoted}"
        ) from None


def _with_tuples(value: Any) -> Any:
    """The same value with tuples in place of lists, which sections need to be frozen."""
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for section, values in layer.items():
        if isinstance(values, Mapping) and isinstance(into.get(section), dict):
            into[section].update(values)
        else:
            into[section] = dict(values) if isinstance(values, Mapping) else values


def _error_text(fault: ValidationError, within: tuple[str, ...] = ()) -> str:
    lines = []
    errors = fault.errors()[:_MAX_LISTED]
    for error in errors:
        path = [shorten(str(part)) for part in (*within, *error["loc"])]
        if error["type"] == CREDENTIALS_ERROR:
            name = ".".join([*path, error["ctx"]["path"]])
            lines.append(f"{name}: {error['msg']}, got {error['ctx']['got']}")
            continue
        name = ".".join(path)
        if error["type"] == "extra_forbidden":
            close = difflib.get_close_matches(path[-1], _sibling_keys(path), n=1)
            hint = f"did you mean {'.'.join([*path[:-1], close[0]])}?" if close else "conf/base.yaml lists all settings"
            lines.append(f"{name}: unknown setting; {hint}")
        elif error["type"] != "too_short" or all(len(other["loc"]) <= len(path) for other in errors):
            # a list whose only item is wrong is also too short: the item's error is enough
            reason, remedy = _REASON_AND_REMEDY.get(error["type"], (error["msg"], "see conf/base.yaml"))
            if error["type"] == "literal_error" and path[-1].isdigit():
                reason, remedy = unknown_choice(error["input"], re.findall("'([^']*)'", error["ctx"]["expected"]))
            reason, got = reason.removeprefix("Value error, "), short_repr(error["input"])
            is_secret = names_secret(name) or name == "census.key_file"
            got_text = "" if isinstance(error["input"], dict) or is_secret or got in reason else f", got {got}"
            lines.append(f"{name}: {reason}{got_text}; {remedy}")
    more = fault.error_count() - len(errors)
    return " | ".join([*lines, *[f"and {more:,} more errors"] * (more > 0)])


_REASON_AND_REMEDY = {  # for pydantic errors without a remedy
    "string_type": ("Input should be a valid string", "put text in quotes"),
    "tuple_type": ("must be a list", "write it as [a, b]"),
}


def _sibling_keys(path: list[str]) -> list[str]:
    if len(path) == 1:
        return list(Settings.model_fields)
    if len(path) > 2:
        return []
    section = Settings.model_fields[path[0]].annotation
    return list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []
