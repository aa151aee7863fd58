"""Reads a stored census or a network's totals, and writes them for another system; needs no Spark."""

from __future__ import annotations

import errno
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from iotid.census.export import netbox
from iotid.census.export.prometheus import census_metrics, network_metrics
from iotid.census.export.rows import csv_lines, json_lines, with_keys
from iotid.census.network.stored import stored_totals as stored_network_totals
from iotid.census.stored import stored_rows, stored_totals
from iotid.census.totals import totals_of
from iotid.errors import InputError
from iotid.messages import one_line
from iotid.partitions import PartitionKey

if TYPE_CHECKING:
    from iotid.partitions import Store

_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Request:
    """What to export: a site's census, or a network's totals.

    ``output``: a file, which is replaced whole; for ``netbox`` a folder, in which earlier files of the same names are
    replaced or removed; None: standard output. ``netbox_devices``: NetBox's export of its devices.
    """

    capture_date: str
    format: str
    site: str | None = None
    network: str | None = None
    output: str | None = None
    netbox_devices: str | None = None

    def check(self) -> None:
        """Raise an InputError if options contradict each other."""
        if (self.site is None) == (self.network is None):
            raise InputError("--site: name a site, or a network with --network, and not both")
        if self.network is not None and self.format != "prometheus":
            raise InputError(f"--network: its totals are for --format prometheus, got {self.format}")
        if self.netbox_devices is not None and self.format != "netbox":
            raise InputError(f"--netbox-devices: is for --format netbox, got {self.format}; leave it out")
        if self.output is None and self.format == "netbox":
            raise InputError("--output: --format netbox writes several files; name a folder for them")


def export(store: Store, request: Request) -> Counter[str]:
    """Write what is requested.

    Returns:
        Numbers of what was written and left out.

    Raises:
        AbsentError: there is no such census.
        InputError: options contradict each other; the output cannot be written; the census has pseudonyms, which
            NetBox cannot use; ``netbox_devices`` is no such file.
        DataError: the stored table is damaged.
    """
    request.check()
    return _export_network(store, request) if request.network is not None else _export_census(store, request)


def _export_census(store: Store, request: Request) -> Counter[str]:
    site, capture_date = str(request.site), request.capture_date
    existing = [] if request.netbox_devices is None else netbox.read_netbox_devices(request.netbox_devices)
    partition = store.open("census", PartitionKey.of_date(site, capture_date))
    census = stored_rows(partition)
    if request.format == "netbox":
        if partition.metadata["key_fingerprint"]:
            raise InputError("--format: netbox needs MACs, and this census has pseudonyms; export one without them")
        made = netbox.propose(census.to_pylist(), site, capture_date, existing)
        _write_folder(made.texts(), Path(str(request.output)))
        return made.counts
    texts: Iterable[str]
    if request.format == "prometheus":
        totals = stored_totals(store, partition)
        totals = totals_of(census) if totals is None else totals
        texts = census_metrics(census, totals, partition.metadata, partition.key)
    else:
        rows = with_keys(census, site, capture_date)
        texts = csv_lines(rows) if request.format == "csv" else json_lines(rows)
    _write(texts, request.output)
    return Counter({"rows": len(census)})


def _export_network(store: Store, request: Request) -> Counter[str]:
    name, capture_date = str(request.network), request.capture_date
    network = store.open("network", PartitionKey.of_network(name, capture_date))
    totals = stored_network_totals(network, of_sites=True)
    _write(network_metrics(totals, name, capture_date), request.output)
    return Counter({"totals": len(totals)})


def _write_folder(texts: Mapping[str, str], folder: Path) -> None:
    """Write NetBox's files; an earlier file that has no rows now would be imported again, and is removed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in netbox.FILES:
            if name not in texts:
                (folder / name).unlink(missing_ok=True)
    except OSError as fault:
        raise _unwritable(folder, fault) from None
    for name, text in texts.items():
        _write([text], str(folder / name))


def _write(texts: Iterable[str], output: str | None) -> None:
    """To the file, which is replaced in one step once it is complete, or to standard output."""
    if output is None:
        for text in texts:
            sys.stdout.write(_for_terminal(text) if sys.stdout.isatty() else text)
        return
    path = Path(output)
    made = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="", dir=path.parent, prefix=f".{path.name[:64]}.", delete=False
        ) as file:
            made = Path(file.name)
            file.writelines(texts)
            file.flush()
            os.fsync(file.fileno())
        made.chmod(0o666 & ~_umask())  # a temporary file is private, whatever storage.umask says
        made.replace(path)
    except OSError as fault:
        if made is not None:
            made.unlink(missing_ok=True)
        raise _unwritable(path, fault) from None


def _unwritable(path: Path, fault: OSError) -> Exception:
    if fault.errno in _FULL:  # reported elsewhere, with another remedy
        return fault
    return InputError(f"--output: {path}: {fault.strerror or fault}; name a path that can be written")


def _for_terminal(text: str) -> str:
    """Without control characters, which a terminal would obey."""
    return "".join(f"{one_line(line)}\n" for line in text.splitlines())


def _umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
