"""Groups unknown devices by the lengths of their payloads, so that fifty devices of one new model are one line.

Pure functions on arrays, without the trained model, which has not learned these devices. A device is described by the
share of its flows in which it sends a payload of each length, by transport protocol: a measure that is independent of
headers and of the IP version. The similarity of two devices is the Bhattacharyya coefficient of their shares,
sum(sqrt(p * q)): 0 with nothing in common, 1 if equal. (ByteIoT, Duan et al., TNSM 2021, uses the Hellinger distance of
packet lengths, sqrt(1 - coefficient).)

The leader algorithm (Hartigan 1975): in order of flows, a device that is similar to no leader becomes one; then each
device joins its most similar leader. So no device joins a group through a chain of others. At most MAX_GROUPS devices
become leaders, and as many groups are stored, so that a flood of forged devices costs time in proportion to their
number; devices similar to no leader then form one group, OTHERS. The first leaders are the groups of the earlier
census, each represented by a mean of shares: half the stored mean, half that of its current devices. So a group keeps
its name from census to census while its devices send similar payloads, even if all their addresses change. The name
has no meaning at another site, nor after the census has removed the group's last device.

With a similarity of 0.6, 104 recordings of 13 simulated kinds form 13 groups without a mistake, and 414 recordings of
31 devices (aalto) form 33; where two kinds share a group, they are similar models of one vendor.

Shape suffixes: N devices, L leaders, T payloads (protocol and length) that any of them sends, R rows of
PAYLOADS_AND_PORTS.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from iotid.arrow import one_chunk
from iotid.schemas import GROUPS

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

PAYLOAD, PORT = "payload", "port"
PAYLOADS_AND_PORTS = pa.schema(
    [
        ("device_id", pa.string()),
        ("what", pa.string()),  # PAYLOAD, which the device sends, or PORT of the server
        ("protocol", pa.int32()),
        ("value", pa.int32()),  # length of the payload in bytes, or the port
        ("flows", pa.int64()),  # flows of the device with this value
    ]
)
MAX_GROUPS = 4096  # new and stored; a census of 20,000 devices has some 650 unknown ones
OTHERS = "others"
MAX_VALUES = 64  # payloads and ports counted for each device, and payloads stored for each group
NO_GROUPS = GROUPS.arrow_schema().empty_table()
_NO_PAYLOAD = -1  # protocol number that stands for "no payload"
_SERVICES = 3
_COMMON_PORTS = (53, 67, 68, 123)  # DNS, DHCP and NTP, which all devices use
_TRANSPORTS = {6: "TCP", 17: "UDP"}
_BLOCK = 256  # devices compared with all leaders in one product
_DECIMALS = 6  # as in the vote


def group_devices(
    devices: pa.Array, values: pa.Table, earlier: pa.Table, min_similarity: float
) -> tuple[pa.Array, pa.Table]:
    """The group of each of N devices, and the groups (GROUPS) without OTHERS.

    Args:
        devices: ids of the unknown devices, in order.
        values: rows of PAYLOADS_AND_PORTS of these devices, in any order; a device without payload may have none.
        earlier: the groups (GROUPS) of the earlier census; those without a current device are returned unchanged.
        min_similarity: least similarity of a device and its leader.
    """
    from scipy.sparse import vstack

    if not len(devices):
        return pa.array([], pa.string()), earlier
    flows_NT, payload_T, before_LT = _counts(devices, values.filter(pc.equal(values["what"], PAYLOAD)), earlier)
    share_NT = _shares(flows_NT)
    order_N = np.argsort(-np.asarray(flows_NT.sum(axis=1)).ravel(), kind="stable")
    leaders = _leaders(share_NT.sqrt(), before_LT.sqrt(), order_N, min_similarity)
    leader_N, is_similar_N = _most_similar(
        share_NT.sqrt(), vstack([before_LT, share_NT[leaders]]).sqrt().tocsr(), min_similarity
    )
    names = _names(earlier["group"].to_pylist(), [(payload_T, flows_NT[row]) for row in leaders])
    group_N = pc.if_else(is_similar_N, pa.array(names, pa.string()).take(pa.array(leader_N)), OTHERS)
    services = _services(values.filter(pc.equal(values["what"], PORT)), devices, group_N)
    share_LT = _means(share_NT[is_similar_N], leader_N[is_similar_N], before_LT, len(names))
    present = [
        {"group": names[leader], "services": services.get(names[leader], []), **_stored(share_LT[leader], payload_T)}
        for leader in np.unique(leader_N[is_similar_N]).tolist()
        if leader < MAX_GROUPS
    ]
    absent = earlier.filter(pc.invert(pc.is_in(earlier["group"], value_set=group_N)))
    groups = pa.concat_tables([pa.Table.from_pylist(present, schema=GROUPS.arrow_schema()), absent])
    return group_N, groups.sort_by("group")


def check_groups(groups: pa.Table) -> pa.Table:
    """Return the groups (GROUPS); raise a ValueError if `group_devices` cannot have made them."""
    protocol, length, share = (one_chunk(groups[name]) for name in ("protocol", "payload_length", "share"))
    sizes_L = pc.list_value_length(share)
    if not all(pc.list_value_length(each).equals(sizes_L) for each in (protocol, length)):
        raise ValueError("payloads and shares of a group must be equal in number")
    if len(groups) > MAX_GROUPS or pc.count_distinct(groups["group"]).as_py() != len(groups):
        raise ValueError(f"there must be at most {MAX_GROUPS} groups, of different names")
    share_E, length_E = share.flatten().to_numpy(), length.flatten().to_numpy()
    if not (np.isfinite(share_E) & (share_E >= 0) & (share_E <= 1 + 1e-6)).all() or (length_E < 0).any():
        raise ValueError("a share must be 0 to 1, and the length of a payload must not be negative")
    return groups


def similarities(groups_a: pa.Table, groups_b: pa.Table) -> NDArray[np.float64]:
    """(A, B) similarities of the profiles of two tables of groups (GROUPS), 0 to 1, as of a device and a leader."""
    (a_AT, b_BT), _ = _profiles(groups_a, groups_b)
    return _similarities(a_AT.sqrt(), b_BT.sqrt())


def with_new_groups(groups: pa.Table, others: pa.Table) -> pa.Table:
    """``groups``, and those of ``others`` with other names, up to MAX_GROUPS."""
    is_new = pc.invert(pc.is_in(others["group"], value_set=one_chunk(groups["group"])))
    more = others.filter(is_new).slice(0, max(MAX_GROUPS - len(groups), 0))
    return pa.concat_tables([groups, more]).sort_by("group")


def _profiles(*tables: pa.Table) -> tuple[list[csr_matrix], NDArray[np.int64]]:
    """(L, T) shares of each table's groups (GROUPS), and the codes (T,) of all their payloads."""
    from scipy.sparse import csr_matrix

    columns = [[one_chunk(table[name]) for name in ("protocol", "payload_length", "share")] for table in tables]
    codes = [_code(protocol.flatten().to_numpy(), length.flatten().to_numpy()) for protocol, length, _ in columns]
    payload_T = np.unique(np.concatenate(codes))
    profiles = []
    for table, code_E, (_, _, share) in zip(tables, codes, columns, strict=True):
        entries = (pc.list_parent_indices(share).to_numpy(), np.searchsorted(payload_T, code_E))
        shape = (len(table), len(payload_T))
        profiles.append(csr_matrix((share.flatten().to_numpy(), entries), shape=shape))
        profiles[-1].sort_indices()
    return profiles, payload_T


def _counts(
    devices: pa.Array, payloads: pa.Table, earlier: pa.Table
) -> tuple[csr_matrix, NDArray[np.int64], csr_matrix]:
    """Flows (N, T) in which each device sends each payload, the payloads' codes (T,), and the groups' shares (L, T)."""
    from scipy.sparse import csr_matrix

    row_R = pc.index_in(payloads["device_id"], value_set=devices).to_numpy()
    silent = np.setdiff1d(np.arange(len(devices)), row_R)
    row_R = np.concatenate([row_R, silent]).astype(np.int64)
    nothing = np.full(len(silent), _code(np.array(_NO_PAYLOAD), np.array(0)))
    code_R = np.concatenate([_code(payloads["protocol"].to_numpy(), payloads["value"].to_numpy()), nothing])
    flows_R = np.concatenate([payloads["flows"].to_numpy(), np.ones(len(silent), np.int64)])
    lists = {name: one_chunk(earlier[name]) for name in ("protocol", "payload_length", "share")}
    protocol, length, share = (values.flatten().to_numpy() for values in lists.values())
    code_E, row_E = _code(protocol, length), pc.list_parent_indices(lists["share"]).to_numpy()
    payload_T = np.unique(np.concatenate([code_R, code_E]))
    column_R, column_E = np.searchsorted(payload_T, code_R), np.searchsorted(payload_T, code_E)
    flows_NT = csr_matrix((flows_R.astype(np.float64), (row_R, column_R)), shape=(len(devices), len(payload_T)))
    before_LT = csr_matrix((share, (row_E, column_E)), shape=(len(earlier), len(payload_T)))
    for matrix in (flows_NT, before_LT):
        matrix.sort_indices()  # otherwise sums and names would depend on the order of the rows
    return flows_NT, payload_T, before_LT


def _code(protocol: NDArray[np.integer], length: NDArray[np.integer]) -> NDArray[np.int64]:
    return protocol.astype(np.int64) << 32 | length.astype(np.int64)


def _shares(flows_NT: csr_matrix) -> csr_matrix:
    """(N, T) with rows that sum to 1."""
    from scipy.sparse import diags

    return (diags(1 / np.asarray(flows_NT.sum(axis=1)).ravel()) @ flows_NT).tocsr()


def _leaders(
    root_NT: csr_matrix, before_LT: csr_matrix, order_N: NDArray[np.int64], min_similarity: float
) -> list[int]:
    """Rows that become leaders beside the earlier groups (``before_LT``): in order, each that is similar to no leader
    so far, up to MAX_GROUPS."""
    from scipy.sparse import vstack

    leaders: list[int] = []
    leading_LT = before_LT
    for start in range(0, len(order_N), _BLOCK):
        block = order_N[start : start + _BLOCK]
        block = block[_best(root_NT[block], leading_LT)[1] < min_similarity]
        similar_BB = _similarities(root_NT[block], root_NT[block]) >= min_similarity
        free_B = np.ones(len(block), np.bool_)
        for row in range(len(block)):
            if free_B[row]:
                leaders.append(int(block[row]))
                free_B &= ~similar_BB[row]
        if len(leaders) >= MAX_GROUPS:
            return leaders[:MAX_GROUPS]
        leading_LT = vstack([before_LT, root_NT[leaders]]).tocsr()
    return leaders


def _most_similar(
    root_NT: csr_matrix, leading_LT: csr_matrix, min_similarity: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(N,) the most similar leader of each row, the first of equal ones, and whether it is similar enough."""
    blocks = [_best(root_NT[at : at + _BLOCK], leading_LT) for at in range(0, root_NT.shape[0], _BLOCK)]
    leader_N, similarity_N = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return leader_N, similarity_N >= min_similarity


def _best(root_BT: csr_matrix, leading_LT: csr_matrix) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(B,) the most similar leader of each row, the first of equal ones, and the similarity; 0 without leaders."""
    if not leading_LT.shape[0]:
        return np.zeros(root_BT.shape[0], np.int64), np.zeros(root_BT.shape[0])
    similarity_BL = _similarities(root_BT, leading_LT)
    return similarity_BL.argmax(axis=1), similarity_BL.max(axis=1)


def _similarities(a_BT: csr_matrix, b_LT: csr_matrix) -> NDArray[np.float64]:
    """(B, L) similarities, from the square roots of shares."""
    return np.round((a_BT @ b_LT.T).toarray(), _DECIMALS)


def _names(before: list[str], leading: Iterable[tuple[NDArray[np.int64], csr_matrix]]) -> list[str]:
    """Names ``before`` and one for each new leader: a hash of its payloads, which reveals no address."""
    names = dict.fromkeys(before)
    for payload_T, flows_1T in leading:
        content = np.stack([payload_T[flows_1T.indices], flows_1T.data.astype(np.int64)]).astype("<i8").tobytes()
        while (name := f"g{hashlib.sha256(content).hexdigest()[:10]}") in names:
            content = name.encode()
        names[name] = None
    return list(names)


def _means(share_NT: csr_matrix, leader_N: NDArray[np.int64], before_LT: csr_matrix, leaders: int) -> csr_matrix:
    """(L, T) mean shares of each leader's devices; for an earlier group, half the earlier mean and half this one."""
    from scipy.sparse import csr_matrix, vstack

    weight_N = 1 / np.bincount(leader_N)[leader_N]
    weight_N[leader_N < before_LT.shape[0]] /= 2
    of_leader_LN = csr_matrix((weight_N, (leader_N, np.arange(len(leader_N)))), shape=(leaders, len(leader_N)))
    none_before_LT = csr_matrix((leaders - before_LT.shape[0], before_LT.shape[1]))
    return (of_leader_LN @ share_NT + vstack([before_LT / 2, none_before_LT])).tocsr()


def _stored(share_1T: csr_matrix, payload_T: NDArray[np.int64]) -> dict[str, list[float]]:
    """The commonest payloads of a group, in order of their codes, with shares that sum to 1."""
    share_1T.sort_indices()
    kept = np.sort(np.argsort(-np.round(share_1T.data, _DECIMALS), kind="stable")[:MAX_VALUES])
    code, share = payload_T[share_1T.indices[kept]], share_1T.data[kept]
    columns = {"protocol": code >> 32, "payload_length": code & 0xFFFFFFFF, "share": share / share.sum()}
    return {name: values.tolist() for name, values in columns.items()}


def _services(ports: pa.Table, devices: pa.Array, group_N: pa.Array) -> dict[str, list[str]]:
    """The ports of each group with most flows, as "TCP 443"; ports that all devices use come last."""
    of_device = pc.index_in(ports["device_id"], value_set=devices)
    grouped = ports.append_column("group", group_N.take(one_chunk(of_device)))
    counted = grouped.group_by(["group", "protocol", "value"]).aggregate([("flows", "sum")])
    is_common = pc.is_in(counted["value"], value_set=pa.array(_COMMON_PORTS, pa.int32()))
    order = [("group", "ascending"), ("last", "ascending"), ("flows_sum", "descending"), ("value", "ascending")]
    ranked = counted.append_column("last", is_common.cast(pa.int8())).sort_by([*order, ("protocol", "ascending")])
    services: dict[str, list[str]] = {}
    for group, name in _named_ports(ranked):
        if len(services.setdefault(group, [])) < _SERVICES:
            services[group].append(name)
    return services


def _named_ports(ranked: pa.Table) -> Iterator[tuple[str, str]]:
    columns = (ranked[name].to_pylist() for name in ("group", "protocol", "value"))
    for group, protocol, port in zip(*columns, strict=True):
        yield group, f"{_TRANSPORTS.get(protocol, f'IP {protocol}')} {port}"
