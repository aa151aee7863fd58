"""Pseudonyms of MACs and addresses, and the key that makes them."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from iotid.census.groups import OTHERS
from iotid.census.pseudonyms import KEY_VARIABLE, Pseudonyms, crypto_pan, read_pseudonyms
from iotid.config import Census, load_settings
from iotid.errors import DataError, SettingError
from iotid.schemas import CENSUS, GROUPS

KEY = b"a key of these tests"
PSEUDONYMS = Pseudonyms(KEY)
PREFIXES = Pseudonyms(KEY, keep_prefixes=True)
MAC = "02:00:00:00:00:0a"

# key and answers of the sample trace in the authors' own Crypto-PAn 1.0
SAMPLE_KEY = bytes.fromhex("1522178d33a4cf80130a5b1649907d10d8988f837979652762574c2d2a842202")
SAMPLE = {
    "128.11.68.132": "135.242.180.132", "129.118.74.4": "134.136.186.123", "130.132.252.244": "133.68.164.234",
    "141.223.7.43": "141.167.8.160", "152.163.225.39": "151.140.114.167", "156.29.3.236": "147.225.12.42",
    "165.247.96.84": "162.9.99.234", "192.102.249.13": "252.138.62.131", "192.215.32.125": "252.43.47.189",
    "195.205.63.100": "255.186.223.5", "207.105.49.5": "241.118.205.138", "208.28.185.184": "227.39.94.90",
    "24.0.250.221": "100.15.198.226", "24.5.0.80": "100.9.15.210", "38.15.67.68": "64.3.66.187",
    "4.3.88.225": "124.60.155.63", "64.14.118.196": "0.255.183.58", "10.185.25.118": "117.161.29.118",
}  # fmt: skip
# the authors' has no IPv6: what other implementations answer under the same key
SAMPLE_V6 = {
    "::1": "78ff:f001:9fc0:20df:8380:b1f1:704:ed", "::ffff": "78ff:f001:9fc0:20df:8380:b1f1:704:f838",
    "2001:db8::1": "4401:2bc:603f:d91d:27f:ff8e:e6f1:dc1e", "2001:db8::2": "4401:2bc:603f:d91d:27f:ff8e:e6f1:dc1c",
}  # fmt: skip

v4 = st.ip_addresses(v=4)
v6 = st.ip_addresses(v=6)
pairs = st.one_of(
    st.tuples(v4, v4),
    st.tuples(v6, v6),
    st.tuples(v4, st.integers(0, 32)).map(lambda near: (near[0], _flipped(near[0], near[1], 32))),
    st.tuples(v6, st.integers(0, 128)).map(lambda near: (near[0], _flipped(near[0], near[1], 128))),
)
macs = st.binary(min_size=6, max_size=6).map(lambda mac: mac.hex(":"))


def _flipped(address: Any, bits: int, size: int) -> Any:
    """An address that has exactly so many first bits in common."""
    return type(address)(int(address) ^ (1 << (size - 1 - bits) if bits < size else 0))


def _common_bits(one: Any, other: Any) -> int:
    return int(one.max_prefixlen - (int(one) ^ int(other)).bit_length())


def _anonymous(addresses: list[str], key: bytes) -> list[str]:
    packed = [ipaddress.ip_address(address).packed for address in addresses]
    rows = np.frombuffer(b"".join(packed), np.uint8).reshape(len(packed), -1)
    return [str(ipaddress.ip_address(row.tobytes())) for row in crypto_pan(rows, key)]


def _reference(address: str, key: bytes) -> str:
    """Crypto-PAn one bit after another, as in the paper."""
    parsed = ipaddress.ip_address(address)
    size = parsed.max_prefixlen
    encryptor = Cipher(algorithms.AES(key[:16]), modes.ECB()).encryptor()
    pad = format(int.from_bytes(encryptor.update(key[16:]), "big"), "0128b")
    bits = format(int(parsed), f"0{size}b")
    renamed = ""
    for index in range(size):
        block = bits[:index] + pad[index:]
        renamed += str(int(bits[index]) ^ (encryptor.update(int(block, 2).to_bytes(16, "big"))[0] >> 7))
    return str(type(parsed)(int(renamed, 2)))


def of(*identifiers: str | None, pseudonyms: Pseudonyms = PSEUDONYMS) -> list[Any]:
    named: list[Any] = pseudonyms.of(pa.array(identifiers, pa.string())).to_pylist()
    return named


def test_crypto_pan__equals_the_authors_program_and_others_for_ipv6() -> None:
    assert _anonymous(list(SAMPLE), SAMPLE_KEY) == list(SAMPLE.values())
    assert _anonymous(list(SAMPLE_V6), SAMPLE_KEY) == list(SAMPLE_V6.values())


@given(st.one_of(v4, v6).map(str), st.binary(min_size=32, max_size=32))
def test_crypto_pan__equals_the_reference_under_any_key(address: str, key: bytes) -> None:
    assert _anonymous([address], key) == [_reference(address, key)]


def test_crypto_pan__more_addresses_than_one_chunk_and_none() -> None:
    addresses = [str(ipaddress.IPv4Address(7919 * number)) for number in range(4096 + 3)]
    renamed = _anonymous(addresses, SAMPLE_KEY)
    assert len(set(renamed)) == len(addresses)
    for index in (0, 4095, 4096, 4098):
        assert renamed[index] == _reference(addresses[index], SAMPLE_KEY)
    assert crypto_pan(np.empty((0, 16), np.uint8), SAMPLE_KEY).shape == (0, 16)


@given(pairs)
def test_of__kept_prefixes_share_as_many_first_bits_as_the_addresses(
    pair: tuple[Any, Any],
) -> None:
    renamed = [ipaddress.ip_address(text) for text in of(*map(str, pair), pseudonyms=PREFIXES)]
    assert [address.version for address in renamed] == [address.version for address in pair]
    assert _common_bits(*renamed) == _common_bits(*pair)


@given(st.lists(st.one_of(v4, v6).map(str), max_size=20))
def test_of__an_address_becomes_a_unique_local_network_of_its_own(addresses: list[str]) -> None:
    renamed = [ipaddress.ip_address(text) for text in of(*addresses)]
    assert all(name in ipaddress.ip_network("fd00::/8") and int(name) & (1 << 64) - 1 == 0 for name in renamed)
    assert len(set(renamed)) == len(set(addresses))


def _bits_guessed(known: dict[str, str], target: str) -> set[int]:
    """First 24 bits of an address, as a reader guesses them who knows other addresses' pseudonyms: those of the address
    whose pseudonym has most first bits in common with the target's."""
    shared = {
        address: _common_bits(ipaddress.ip_address(name), ipaddress.ip_address(target))
        for address, name in known.items()
    }
    best = max(shared.values())
    return {int(ipaddress.ip_address(address)) >> 8 for address, bits in shared.items() if bits == best}


@pytest.mark.parametrize(("pseudonyms", "recovered"), [(PREFIXES, True), (PSEUDONYMS, False)])
def test_of__254_chosen_addresses_reveal_a_prefix_only_if_kept(pseudonyms: Pseudonyms, recovered: bool) -> None:
    """The reader sends from one address of each of 254 networks, one of them the target's, and sees the census."""
    chosen = [f"10.20.{network}.1" for network in range(1, 255)]
    known = dict(zip(chosen, of(*chosen, pseudonyms=pseudonyms), strict=True))
    targets = [f"10.20.{network}.77" for network in range(1, 255)]
    guesses = [_bits_guessed(known, name) for name in of(*targets, pseudonyms=pseudonyms)]
    prefixes = [{int(ipaddress.ip_address(target)) >> 8} for target in targets]
    right = sum(guess == prefix for guess, prefix in zip(guesses, prefixes, strict=True))
    assert right == 254 if recovered else right <= 6, "by chance one in 254 guesses is right"


def test_pseudonyms__with_and_without_prefixes_differ_under_one_key() -> None:
    clear = (MAC, "10.0.0.1", "fe80::1")
    assert not set(of(*clear)) & set(of(*clear, pseudonyms=PREFIXES))
    assert PSEUDONYMS.fingerprint != PREFIXES.fingerprint
    assert PSEUDONYMS.digest("0123456789ab") != PREFIXES.digest("0123456789ab")


def test_pseudonyms__with_prefixes_equal_those_of_earlier_versions() -> None:
    assert PREFIXES.fingerprint == "fcb1141bcb41"
    assert of(MAC, "10.0.0.1", "fe80::1", pseudonyms=PREFIXES) == [
        "e6:0a:08:05:89:ce", "197.252.125.19", "7d73:c201:e076:e2ff:e0f0:613:f219:83d9",
    ]  # fmt: skip


@given(st.lists(macs, max_size=20))
def test_of__a_mac_of_any_case_becomes_a_local_unicast_mac(given_macs: list[str]) -> None:
    renamed = of(*given_macs)
    assert all(re.fullmatch(r"[0-9a-f][26ae](:[0-9a-f]{2}){5}", mac) for mac in renamed)
    assert len(set(renamed)) == len(set(given_macs))
    assert of(*map(str.upper, given_macs)) == renamed


def test_of__depends_on_the_key_and_keeps_rows_and_nulls() -> None:
    clear = [MAC, "10.0.0.1", None, "fe80::1", MAC, "10.0.0.2"]
    renamed = of(*clear)
    assert Pseudonyms(KEY).of(pa.chunked_array([clear[:2], clear[2:]], pa.string())).to_pylist() == renamed
    other = Pseudonyms(b"another key of these tests")
    assert not set(of(*clear, pseudonyms=other)) & set(renamed) - {None}
    assert other.fingerprint != PSEUDONYMS.fingerprint == Pseudonyms(KEY).fingerprint
    assert renamed[2] is None
    assert renamed[0] == renamed[4]
    assert not set(renamed) & set(clear) - {None}


def test_of__text_that_is_neither_is_not_passed_through() -> None:
    assert re.fullmatch(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", of("10.0.0.300")[0])
    assert of() == []


def test_rename__changes_identifiers_only_and_orders_each_devices_addresses() -> None:
    listed = [[f"10.0.0.{n}" for n in range(9)], [], ["10.0.0.3", "fe80::1"]]
    schema = pa.schema([CENSUS.arrow_schema().field(name) for name in ("device_id", "bytes", "addresses")])
    table = pa.table([["a", "b", "c"], [1, 2, 3], listed], schema=schema)
    renamed = PREFIXES.rename(pa.concat_tables([table.slice(0, 1), table.slice(1)]))
    assert renamed.schema.equals(schema)
    assert renamed["bytes"].to_pylist() == [1, 2, 3]
    assert renamed["device_id"].to_pylist() == of("a", "b", "c", pseudonyms=PREFIXES)
    in_turn = [of(*addresses, pseudonyms=PREFIXES) for addresses in listed]
    assert renamed["addresses"].to_pylist() == list(map(sorted, in_turn))
    assert in_turn[0] != sorted(in_turn[0]), "or else the order of the clear addresses would show"
    assert PREFIXES.rename(schema.empty_table()).num_rows == 0


def test_rename__without_prefixes_lists_only_the_identifiers_address() -> None:
    listed = [["10.0.0.1", "10.0.0.2"], [], ["10.0.0.3"], ["10.0.0.4", "fe80::1"]]
    schema = pa.schema([CENSUS.arrow_schema().field(name) for name in ("device_id", "addresses")])
    renamed = PSEUDONYMS.rename(pa.table([[MAC, "b", "10.0.0.3", "fe80::1"], listed], schema=schema))
    assert renamed["device_id"].to_pylist() == of(MAC, "b", "10.0.0.3", "fe80::1")
    assert renamed["addresses"].to_pylist() == [[], [], of("10.0.0.3"), of("fe80::1")]
    assert PSEUDONYMS.rename(schema.empty_table()).num_rows == 0


def test_rename_groups__new_groups_get_keyed_names_and_earlier_ones_keep_theirs() -> None:
    earlier = pa.Table.from_pylist([{"group_name": "gold"}], schema=GROUPS.arrow_schema())
    table = pa.table({"group_name": ["gnew", None, "gold", "gnew", OTHERS], "flows": [1, 2, 3, 4, 5]})
    new, none, old, again, others = PSEUDONYMS.rename_groups(table, earlier)["group_name"].to_pylist()
    assert re.fullmatch("g[0-9a-f]{10}", new)
    assert (none, old, again, others) == (None, "gold", new, OTHERS)
    assert PREFIXES.rename_groups(table, earlier)["group_name"].to_pylist()[0] != new
    assert PSEUDONYMS.rename_groups(GROUPS.arrow_schema().empty_table(), earlier).schema == GROUPS.arrow_schema()


def test_seal__is_decrypted_by_the_same_key_alone() -> None:
    sealed = PSEUDONYMS.seal(b"payload lengths")
    assert sealed == Pseudonyms(KEY).seal(b"payload lengths")
    assert b"payload" not in sealed
    assert PSEUDONYMS.unseal(sealed) == b"payload lengths"
    for other, content in ((PREFIXES, sealed), (PSEUDONYMS, sealed[:-1]), (PSEUDONYMS, b"PAR1")):
        with pytest.raises(DataError, match="groups of the earlier census are damaged"):
            other.unseal(content)


def test_rename__two_devices_of_one_pseudonym_are_an_error_not_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PSEUDONYMS, "_mac", lambda mac: MAC)
    table = pa.table({"device_id": ["a", "b"], "addresses": pa.array([[], []], pa.list_(pa.string()))})
    with pytest.raises(DataError, match="the same pseudonym"):
        PSEUDONYMS.rename(table)


def census_settings(**changed: Any) -> Census:
    return load_settings().census.model_copy(update={"pseudonyms": "opaque"} | changed)


def fingerprint(settings: Census) -> str:
    pseudonyms = read_pseudonyms(settings)
    assert pseudonyms is not None
    return pseudonyms.fingerprint


def test_read_pseudonyms__off_needs_and_reads_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY.decode())
    assert read_pseudonyms(load_settings().census) is None


def test_read_pseudonyms__environment_overrides_file_and_outer_space_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    file = tmp_path / "key"
    file.write_bytes(b"key that lies in a file\n")
    settings = census_settings(key_file=str(file))
    assert fingerprint(settings) == Pseudonyms(b"key that lies in a file").fingerprint
    monkeypatch.setenv(KEY_VARIABLE, f" {KEY.decode()}\n")
    assert fingerprint(settings) == PSEUDONYMS.fingerprint
    assert fingerprint(census_settings(key_file=None)) == PSEUDONYMS.fingerprint
    assert fingerprint(census_settings(pseudonyms="prefixes")) == PREFIXES.fingerprint


@pytest.mark.parametrize(
    ("environment", "content", "message"),
    [
        (None, None, r"census\.pseudonyms: is opaque, but there is no key; set IOTID_CENSUS_KEY, or census\.key_file"),
        ("", None, r"IOTID_CENSUS_KEY: a key has 16 bytes at least, got 0"),
        ("fifteen letters" + " " * 9, None, r"IOTID_CENSUS_KEY: a key has 16 bytes at least, got 15"),
        (None, b"fifteen letters\n", r"census\.key_file: a key has 16 bytes at least, got 15"),
    ],
)
def test_read_pseudonyms__no_key_and_a_short_one_are_refused_without_printing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: str | None, content: bytes | None, message: str
) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    if environment is not None:
        monkeypatch.setenv(KEY_VARIABLE, environment)
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    settings = census_settings(key_file=str(tmp_path / "key") if content else None)
    with pytest.raises(SettingError, match=message) as caught:
        read_pseudonyms(settings)
    assert "fifteen letters" not in str(caught.value)


@pytest.mark.parametrize("mistaken", ["the key itself, by mistake", "the key itself\0"])
def test_read_pseudonyms__an_unreadable_key_file_is_not_named(monkeypatch: pytest.MonkeyPatch, mistaken: str) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(SettingError, match=r"census\.key_file: cannot be read") as caught:
        read_pseudonyms(census_settings(key_file=mistaken))
    assert "itself" not in str(caught.value)
