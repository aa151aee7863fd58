"""Pseudonyms for MACs and addresses; the same key gives the same pseudonyms in every census.

A MAC becomes an unassigned MAC: 46 bits of an HMAC-SHA256, and the bits of a locally administered unicast address. In
the same way each IP address becomes a network of unique local addresses (RFC 4193), independently of others. Or
prefixes are kept: two addresses that share their first k bits have pseudonyms that share exactly their first k bits
(Crypto-PAn: J. Xu, J. Fan, M. Ammar, S. Moon, Prefix-Preserving IP Address Anonymization, ICNP 2002), so that subnets
can still be distinguished.

Kept prefixes protect less. Anyone who knows the address of one pseudonym knows how many first bits any other address
shares with it; anyone who can send from addresses of the site learns as many pairs as they choose, and from 254 of a
/24 also the last address and the prefix (T. Brekne, A. Årnes, A. Øslebø, Anonymization of IP Traffic Monitoring Data,
PET 2005). IPv6 addresses made from MACs (EUI-64) of one vendor share more bits.

Shape suffixes: D distinct identifiers, B bytes of an address, P its bits.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import socket
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from iotid import config
from iotid.arrow import one_chunk
from iotid.census.groups import OTHERS
from iotid.errors import DataError, SettingError
from iotid.inputs import read_file
from iotid.labels.owner import parse_addresses

KEY_VARIABLE = "IOTID_CENSUS_KEY"
_MIN_KEY_BYTES = 16
_MOST_KEY_BYTES = 1 << 16
_FAMILIES = ((4, socket.AF_INET, 4), (6, socket.AF_INET6, 16))  # IP version, address family, bytes
_CHUNK = 4096  # addresses encrypted in one call; each bit is an AES block, so this is 8 MB for IPv6


class Pseudonyms:
    """Pseudonyms of MACs, addresses, groups and settings under one key.

    Args:
        key: at least 16 bytes, which must be hard to guess.
        keep_prefixes: two pseudonyms of addresses share as many first bits as the addresses.
    """

    def __init__(self, key: bytes, *, keep_prefixes: bool = False) -> None:
        # scrypt (RFC 7914) slows down guessing a key that is a phrase; pseudonyms and fingerprint can confirm a guess
        salt = b"iotid census" if keep_prefixes else b"iotid census, opaque"
        root = hashlib.scrypt(key, salt=salt, n=2**14, r=8, p=1, dklen=32)
        self._mac_key = hmac.digest(root, b"mac", "sha256")
        self._address_key = hmac.digest(root, b"address", "sha256")
        self._digest_key = hmac.digest(root, b"word", "sha256")
        self._file_key = hmac.digest(root, b"file", "sha512")
        self._keep_prefixes = keep_prefixes
        self.fingerprint = hmac.digest(root, b"fingerprint", "sha256").hex()[:12]

    def rename(self, devices: pa.Table) -> pa.Table:
        """The table with pseudonyms for ``device_id`` and ``addresses`` (columns of CENSUS); addresses sorted by them.

        Without kept prefixes, only an address that is the ``device_id`` is listed, because the number of addresses
        would distinguish devices.

        Raises:
            DataError: two devices have the same pseudonym (for 100,000 devices and any key: one chance in 14,000).
        """
        names = self.of(devices["device_id"])
        if pc.count_distinct(names).as_py() < pc.count_distinct(devices["device_id"]).as_py():
            raise DataError("census: two devices have the same pseudonym under this key; take the census with another")
        listed = devices["addresses"].combine_chunks()
        row = pc.list_parent_indices(listed)
        pairs = pa.table({"row": row, "address": self.of(listed.flatten())})
        if not self._keep_prefixes:
            pairs = pairs.filter(pc.equal(pairs["address"], names.take(row)))
        in_order = pairs.sort_by([("row", "ascending"), ("address", "ascending")]).combine_chunks()
        offsets = np.searchsorted(in_order["row"].to_numpy(), np.arange(len(devices) + 1)).astype(np.int32)
        addresses = pa.ListArray.from_arrays(pa.array(offsets), one_chunk(in_order["address"])).cast(listed.type)
        for name, column in (("device_id", names), ("addresses", addresses)):
            index = devices.schema.get_field_index(name)
            devices = devices.set_column(index, devices.schema.field(index), column)
        return devices

    def rename_groups(self, table: pa.Table, earlier: pa.Table) -> pa.Table:
        """The table with pseudonyms for ``group``, except those of ``earlier`` (GROUPS), which are pseudonyms already.

        A group's name is a hash of its first device's payloads, which is the same in a clear census of the date. OTHERS
        is not a hash and stays.
        """
        group = table["group_name"]
        known = pc.is_in(group, value_set=pa.array([OTHERS, *earlier["group_name"].to_pylist()], pa.string()))
        names = [name and f"g{self.digest(name)[:10]}" for name in group.to_pylist()]
        index = table.schema.get_field_index("group_name")
        return table.set_column(
            index, table.schema.field(index), pc.if_else(known, group, pa.array(names, pa.string()))
        )

    def of(self, identifiers: pa.Array | pa.ChunkedArray) -> pa.Array:
        """The pseudonyms of MACs and addresses (text); each distinct one is computed once.

        Anything that is not an address is treated as a MAC, so no text is passed through. Null stays null.
        """
        encoded = identifiers.dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        texts = encoded.dictionary.to_pylist()
        version_D, value_D2 = parse_addresses(texts)
        bytes_D16 = value_D2.astype(">u8").view(np.uint8).reshape(-1, 16)
        names = [self._mac(text) if version == 0 else "" for text, version in zip(texts, version_D, strict=True)]
        for version, family, size in _FAMILIES:
            rows = np.flatnonzero(version_D == version)
            address_DB = bytes_D16[rows, 16 - size :]
            if self._keep_prefixes:
                renamed = [socket.inet_ntop(family, row.tobytes()) for row in crypto_pan(address_DB, self._address_key)]
            else:
                renamed = [self._network(row.tobytes()) for row in address_DB]
            for row, name in zip(rows, renamed, strict=True):
                names[row] = name
        return pa.array(names, pa.string()).take(encoded.indices)

    def digest(self, text: str) -> str:
        """Twelve hexadecimal digits of an HMAC; the input of a plain hash could be guessed."""
        return hmac.digest(self._digest_key, text.encode(), "sha256").hex()[:12]

    def seal(self, content: bytes) -> bytes:
        """Encrypt with the key (AES-SIV, RFC 5297); the same content gives the same bytes."""
        return AESSIV(self._file_key).encrypt(content, None)

    def unseal(self, sealed: bytes) -> bytes:
        """Decrypt what ``seal`` encrypted.

        Raises:
            DataError: these bytes were not made by ``seal`` with this key.
        """
        try:
            return AESSIV(self._file_key).decrypt(sealed, None)
        except InvalidTag:
            raise DataError(
                "census: the groups of the earlier census are damaged (the key is the same); take that census again"
            ) from None

    def _mac(self, mac: str) -> str:
        first, *rest = hmac.digest(self._mac_key, mac.lower().encode(), "sha256")[:6]
        return bytes([first & 0xFC | 0x02, *rest]).hex(":")  # IEEE 802: bit 0 is multicast, bit 1 locally administered

    def _network(self, address: bytes) -> str:
        """RFC 4193: an unassigned /64 network of unique local addresses."""
        return socket.inet_ntop(
            socket.AF_INET6, b"\xfd" + hmac.digest(self._address_key, address, "sha256")[:7] + bytes(8)
        )


def read_pseudonyms(settings: config.Census) -> Pseudonyms | None:
    """The pseudonyms of the settings; None if they are off.

    The key is the environment variable IOTID_CENSUS_KEY, otherwise the content of the file ``key_file``, without
    leading and trailing white space.

    Raises:
        SettingError: there is no key, it is too short, or its file cannot be read. No message contains the key, nor the
            value of ``key_file``, which may be the key itself by mistake.
    """
    if settings.pseudonyms == "off":
        return None
    given = os.environ.get(KEY_VARIABLE)
    if given is None and settings.key_file is None:
        raise SettingError(
            f"census.pseudonyms: is {settings.pseudonyms}, but there is no key; set {KEY_VARIABLE}, or census.key_file "
            "to a file that holds one, made once with: openssl rand -hex 32"
        )
    source = "census.key_file" if given is None else KEY_VARIABLE
    key = (_content(str(settings.key_file)) if given is None else os.fsencode(given)).strip()
    if len(key) < _MIN_KEY_BYTES:
        raise SettingError(
            f"{source}: a key has {_MIN_KEY_BYTES} bytes at least, got {len(key)}; make one with: openssl rand -hex 32"
        )
    return Pseudonyms(key, keep_prefixes=settings.pseudonyms == "prefixes")


def crypto_pan(address_DB: np.ndarray, key: bytes) -> np.ndarray:
    """uint8 (D, B) pseudonyms of addresses, uint8 (D, B) in network order, under a key of 32 bytes (Xu 2002).

    Bit i is XORed with the first bit of AES over a block of the i bits before it, padded. The key's first half is the
    AES key; its second half, encrypted, is the pad.
    """
    encryptor = Cipher(algorithms.AES(key[:16]), modes.ECB()).encryptor()
    pad_16 = np.frombuffer(encryptor.update(key[16:]), np.uint8)
    size = address_DB.shape[1]
    before_PB = np.packbits(np.tri(8 * size, 8 * size, -1, dtype=bool), axis=1)  # row i: the first i bits are set
    renamed_DB = np.empty_like(address_DB)
    for start in range(0, len(address_DB), _CHUNK):
        chunk_DB = address_DB[start : start + _CHUNK]
        block_DP16 = np.tile(pad_16, (len(chunk_DB), 8 * size, 1))
        block_DP16[..., :size] = chunk_DB[:, None] & before_PB | pad_16[:size] & ~before_PB
        encrypted = np.frombuffer(encryptor.update(block_DP16.tobytes()), np.uint8)
        flips_DB = np.packbits(encrypted.reshape(block_DP16.shape)[..., 0] >> 7, axis=1)
        renamed_DB[start : start + _CHUNK] = chunk_DB ^ flips_DB
    return renamed_DB


def _content(path: str) -> bytes:
    try:
        return read_file(Path(path).expanduser(), _MOST_KEY_BYTES)
    except (OSError, ValueError) as fault:
        reason = getattr(fault, "strerror", None) or "no path"
        raise SettingError(f"census.key_file: cannot be read ({reason}); name a file that holds the key") from None
