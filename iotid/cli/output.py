"""The lines that steps print about the partitions that they wrote, from the partitions' metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from iotid.partitions import Partition
from iotid.schemas.metadata import Census, Datasets, Flows, Network, Splits

if TYPE_CHECKING:
    from iotid.census.group_list import GroupLine
    from iotid.labels.grouped_devices import Outcome


def format_splits(splits: Partition[Splits]) -> Iterator[str]:
    for reason in splits.metadata["unreadable"].values():
        yield f"quarantine: {reason}"
    yield f"splits: {format_captures(splits.metadata)}, {splits.metadata['rows']:,} splits -> {splits.uri}"


def format_captures(metadata: Mapping[str, Any]) -> str:
    """Numbers of captures and of other files; ``metadata``: of a partition of splits."""
    text = f"{metadata['files'] - metadata['files_unplanned']:,} captures, {metadata['bytes']:,} bytes"
    notes = {
        "more in quarantine, not read": len(metadata["unreadable"]),
        "further names of the same captures": metadata["files_same"],
        "that begin with the packet of another, counted twice": metadata["files_alike"],
        "other files ignored": metadata["files_ignored"],
    }
    counted = format_counts(notes)
    return f"{text} ({counted})" if counted else text


def format_flows(flows: Partition[Flows]) -> Iterator[str]:
    from iotid.flows import QUARANTINE_FILE

    metadata = flows.metadata
    if metadata["unreadable"]:
        yield f"quarantine: {metadata['unreadable']:,} captures -> {flows.uri}/{QUARANTINE_FILE}"
    if metadata["overlapping"]:
        yield f"hint: {format_overlaps(flows)}"
    yield (
        f"flows: {metadata['rows']:,} flows of {metadata['packets'].get('flow', 0):,} packets; "
        f"left out: {format_left_out(flows) or 'none'} -> {flows.uri}"
    )


def format_overlaps(flows: Partition[Flows]) -> str:
    return f"{flows.metadata['overlapping']:,} captures contain packets of others, which are counted twice"


def format_left_out(flows: Partition[Flows]) -> str:
    """Numbers of packets that are in no flow, by reason."""
    return format_counts(
        {reason: count for reason, count in sorted(flows.metadata["packets"].items()) if reason != "flow"}
    )


def format_dataset(dataset: Partition[Datasets]) -> Iterator[str]:
    yield from dataset.metadata.get("coverage", ())
    yield f"dataset: {dataset.metadata['summary']} -> {dataset.uri}"


def format_census(census: Partition[Census], why_no_model: str = "") -> Iterator[str]:
    metadata = census.metadata
    if why_no_model:
        yield f"hint: {why_no_model}"
    version = metadata["model_version"]
    statuses = ", ".join(f"{count:,} {status}" for status, count in metadata["status"].items())
    marks = format_counts(metadata["marks"]) or "none"
    reasons = metadata["flows_without_device"] | {"other_protocol": metadata["flows_of_other_protocols"]}
    made = "without a model" if version is None else f"by model version {version}"
    yield (
        f"census: {metadata['devices']:,} devices ({statuses}) {made}; "
        f"marked: {marks}; flows left out: {format_counts(reasons) or 'none'} -> {census.uri}"
    )


def format_site(census: Partition[Census]) -> Iterator[str]:
    """One line for a site of many."""
    statuses = format_counts(census.metadata["status"]) or "none"
    yield f"  {census.key.site}: {census.metadata['devices']:,} devices: {statuses} -> {census.uri}"


def format_network(network: Partition[Network]) -> Iterator[str]:
    metadata = network.metadata
    if metadata["not_joined"]:
        yield (
            f"hint: unknown groups of {metadata['not_joined']:,} sites are not joined with the others, because their "
            "censuses have another key of pseudonyms than this step, or none (census.pseudonyms)"
        )
    states = format_counts(metadata["sites"])
    yield (
        f"network: {metadata['addresses']:,} addresses at {sum(metadata['sites'].values()):,} sites ({states}); "
        f"{metadata['groups']:,} unknown groups, {metadata['watched']:,} watched -> {network.uri}"
    )


def format_outcome(outcome: Outcome) -> str:
    """What is stored of a statement about a group."""
    statement = outcome.statement
    counts = ((outcome.devices, "device", "s"), (outcome.sites, "site", "s"), (outcome.censuses, "census", "es"))
    members = ", ".join(f"{count:,} {name}{ending if count != 1 else ''}" for count, name, ending in counts)
    if not outcome.is_new:
        return f"name: {statement.group} is {statement.title} already ({statement.said}): {members}; nothing changed"
    return f"name: {statement.group} is {statement.title} ({statement.said}): {members}"


def format_groups(lines: Sequence[GroupLine]) -> Iterator[str]:
    yield from map(str, lines)
    if not lines:
        yield "name: no census has a group"


def format_counts(numbers: Mapping[Any, int]) -> str:
    """The numbers that are not 0, on one line."""
    return ", ".join(f"{number:,} {name}" for name, number in numbers.items() if number)
