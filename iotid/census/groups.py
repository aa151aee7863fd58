"""Unknown devices by likeness, so that fifty units of one new thing are one line; pure functions on arrays.

No model is asked: one that never saw a thing has no say in whether two of them are alike. A device is what it sends:
the share of its flows in which it sends a payload of each length, by transport protocol. Payloads are the same whatever
the capture shows of headers, and over IPv4 and IPv6. How much two devices are alike is the Bhattacharyya coefficient of
their shares, sum(sqrt(p * q)): 0 where they have nothing in common, 1 where they are the same. ByteIoT (Duan et al.,
TNSM 2021) tells devices by the Hellinger distance of packet lengths, which is sqrt(1 - coefficient).

Groups are made by the leader algorithm (Hartigan 1975): a device that is like no leader yet becomes one, those that
sent most first, and then each device goes to the leader that it is most like. So nobody is in a group by a chain of
others. At most MOST_GROUPS devices become leaders, and as many groups are kept, so that a flood of made-up devices
costs time in proportion to their number; those that are then like no leader are one group, OTHERS. The groups of the
census before lead before all, each by the mean of its devices' shares, half of it as it was, half as tonight. So a
group keeps its name from night to night for as long as its kind goes on sending alike, also where every device of it
has another address. The name says nothing at another site, nor once the census has forgotten the last device of the
group.

With likeness 0.6, 104 device nights of 13 simulated kinds are 13 groups without a mistake, and 414 recordings of 31
devices (aalto) are 33: where two kinds share one, they are look-alikes of one vendor.

Shape suffixes: N devices, L leaders, T payloads (protocol and length) that any of them sends, R rows of what is shown.
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
SHOWN = pa.schema(
    [
        ("device_id", pa.string()),
        ("what", pa.string()),  # a payload that the device sends, or the server's port
        ("protocol", pa.int32()),
        ("value", pa.int32()),  # bytes of the payload, or number of the port
        ("flows", pa.int64()),  # flows of the device that show it
    ]
)
MOST_GROUPS = 4096  # new ones of a night, and ones that are kept; a night of 20,000 devices has some 650 unknown ones
OTHERS = "others"
MOST = 64  # payloads, and ports, that are looked at of a device, and payloads that are kept of a group
NO_GROUPS = GROUPS.arrow_schema().empty_table()
_NOTHING = -1  # the protocol of the one payload of a device that sends none
_SERVICES = 3
_EVERYBODYS = (53, 67, 68, 123)  # names, leases and time tell nothing, so they come last
_TRANSPORTS = {6: "TCP", 17: "UDP"}
_BLOCK = 256  # devices compared at once with all leaders
_DECIMALS = 6  # as in the vote


def group_devices(devices: pa.Array, shown: pa.Table, earlier: pa.Table, likeness: float) -> tuple[pa.Array, pa.Table]:
    """The group of each of N devices, and what makes the groups (GROUPS) but for OTHERS.

    Args:
        devices: ids of the unknown devices, in order.
        shown: rows of SHOWN of these devices, in any order; a device without payload may have none.
        earlier: the groups (GROUPS) of the census before; those without a device tonight are given back as they were,
            and new ones as long as there are no more than MOST_GROUPS.
        likeness: the least coefficient of a device and a leader.
    """
    from scipy.sparse import vstack

    if not len(devices):
        return pa.array([], pa.string()), earlier
    flows_NT, payload_T, before_LT = _counts(devices, shown.filter(pc.equal(shown["what"], PAYLOAD)), earlier)
    share_NT = _shares(flows_NT)
    order_N = np.argsort(-np.asarray(flows_NT.sum(axis=1)).ravel(), kind="stable")
    leaders = _leaders(share_NT.sqrt(), before_LT.sqrt(), order_N, likeness)
    leader_N, is_like_N = _most_like(share_NT.sqrt(), vstack([before_LT, share_NT[leaders]]).sqrt().tocsr(), likeness)
    names = _names(earlier["group"].to_pylist(), [(payload_T, flows_NT[place]) for place in leaders])
    group_N = pc.if_else(is_like_N, pa.array(names, pa.string()).take(pa.array(leader_N)), OTHERS)
    services = _services(shown.filter(pc.equal(shown["what"], PORT)), devices, group_N)
    share_LT = _means(share_NT[is_like_N], leader_N[is_like_N], before_LT, len(names))
    tonight = [
        {"group": names[leader], "services": services.get(names[leader], []), **_kept(share_LT[leader], payload_T)}
        for leader in np.unique(leader_N[is_like_N]).tolist()
        if leader < MOST_GROUPS
    ]
    absent = earlier.filter(pc.invert(pc.is_in(earlier["group"], value_set=group_N)))
    groups = pa.concat_tables([pa.Table.from_pylist(tonight, schema=GROUPS.arrow_schema()), absent])
    return group_N, groups.sort_by("group")


def check_groups(groups: pa.Table) -> pa.Table:
    """The groups (GROUPS) as given; raises a ValueError where `group_devices` cannot have made them."""
    protocol, length, share = (one_chunk(groups[name]) for name in ("protocol", "payload_length", "share"))
    sizes_L = pc.list_value_length(share)
    if not all(pc.list_value_length(each).equals(sizes_L) for each in (protocol, length)):
        raise ValueError("payloads and shares of a group differ in number")
    if len(groups) > MOST_GROUPS or pc.count_distinct(groups["group"]).as_py() != len(groups):
        raise ValueError(f"there must be at most {MOST_GROUPS} groups, of different names")
    share_E, length_E = share.flatten().to_numpy(), length.flatten().to_numpy()
    if not (np.isfinite(share_E) & (share_E >= 0) & (share_E <= 1 + 1e-6)).all() or (length_E < 0).any():
        raise ValueError("a share must be 0 to 1, and a payload's length not negative")
    return groups


def with_new(groups: pa.Table, others: pa.Table) -> pa.Table:
    """``groups`` and those of ``others`` that have another name, as long as there are no more than MOST_GROUPS."""
    is_new = pc.invert(pc.is_in(others["group"], value_set=one_chunk(groups["group"])))
    more = others.filter(is_new).slice(0, max(MOST_GROUPS - len(groups), 0))
    return pa.concat_tables([groups, more]).sort_by("group")


def _counts(devices: pa.Array, said: pa.Table, earlier: pa.Table) -> tuple[csr_matrix, NDArray[np.int64], csr_matrix]:
    """Flows (N, T) in which each device sends each payload, the payloads' codes (T,), and the groups' shares (L, T)."""
    from scipy.sparse import csr_matrix

    row_R = pc.index_in(said["device_id"], value_set=devices).to_numpy()
    silent = np.setdiff1d(np.arange(len(devices)), row_R)
    row_R = np.concatenate([row_R, silent]).astype(np.int64)
    nothing = np.full(len(silent), _code(np.array(_NOTHING), np.array(0)))
    code_R = np.concatenate([_code(said["protocol"].to_numpy(), said["value"].to_numpy()), nothing])
    flows_R = np.concatenate([said["flows"].to_numpy(), np.ones(len(silent), np.int64)])
    lists = {name: one_chunk(earlier[name]) for name in ("protocol", "payload_length", "share")}
    protocol, length, share = (values.flatten().to_numpy() for values in lists.values())
    code_E, row_E = _code(protocol, length), pc.list_parent_indices(lists["share"]).to_numpy()
    payload_T = np.unique(np.concatenate([code_R, code_E]))
    places_R, places_E = np.searchsorted(payload_T, code_R), np.searchsorted(payload_T, code_E)
    flows_NT = csr_matrix((flows_R.astype(np.float64), (row_R, places_R)), shape=(len(devices), len(payload_T)))
    before_LT = csr_matrix((share, (row_E, places_E)), shape=(len(earlier), len(payload_T)))
    for matrix in (flows_NT, before_LT):
        matrix.sort_indices()  # or else sums, and names, would depend on the order of the rows given
    return flows_NT, payload_T, before_LT


def _code(protocol: NDArray[np.integer], length: NDArray[np.integer]) -> NDArray[np.int64]:
    return protocol.astype(np.int64) << 32 | length.astype(np.int64)


def _shares(flows_NT: csr_matrix) -> csr_matrix:
    """(N, T) whose rows sum to 1."""
    from scipy.sparse import diags

    return (diags(1 / np.asarray(flows_NT.sum(axis=1)).ravel()) @ flows_NT).tocsr()


def _leaders(root_NT: csr_matrix, before_LT: csr_matrix, order_N: NDArray[np.int64], likeness: float) -> list[int]:
    """Rows that lead, beside those ``before``: going through the rows in order, each that is like no leader so far, as
    long as there are no more than MOST_GROUPS."""
    from scipy.sparse import vstack

    leaders: list[int] = []
    leading_LT = before_LT
    for start in range(0, len(order_N), _BLOCK):
        block = order_N[start : start + _BLOCK]
        block = block[_best(root_NT[block], leading_LT)[1] < likeness]
        alike_BB = _likeness(root_NT[block], root_NT[block]) >= likeness
        free_B = np.ones(len(block), np.bool_)
        for place in range(len(block)):
            if free_B[place]:
                leaders.append(int(block[place]))
                free_B &= ~alike_BB[place]
        if len(leaders) >= MOST_GROUPS:
            return leaders[:MOST_GROUPS]
        leading_LT = vstack([before_LT, root_NT[leaders]]).tocsr()
    return leaders


def _most_like(
    root_NT: csr_matrix, leading_LT: csr_matrix, likeness: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(N,) the leader that each row is most like, of equals the first, and whether it is like that one at all."""
    blocks = [_best(root_NT[at : at + _BLOCK], leading_LT) for at in range(0, root_NT.shape[0], _BLOCK)]
    leader_N, alike_N = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return leader_N, alike_N >= likeness


def _best(root_BT: csr_matrix, leading_LT: csr_matrix) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(B,) the first of the leaders that each row is most like, and how much: 0 where there are none."""
    if not leading_LT.shape[0]:
        return np.zeros(root_BT.shape[0], np.int64), np.zeros(root_BT.shape[0])
    alike_BL = _likeness(root_BT, leading_LT)
    return alike_BL.argmax(axis=1), alike_BL.max(axis=1)


def _likeness(a_BT: csr_matrix, b_LT: csr_matrix) -> NDArray[np.float64]:
    """(B, L) coefficients of rows of roots of shares."""
    return np.round((a_BT @ b_LT.T).toarray(), _DECIMALS)


def _names(before: list[str], leading: Iterable[tuple[NDArray[np.int64], csr_matrix]]) -> list[str]:
    """Those ``before`` and one for each new leader: a hash of what it sends, which tells nothing of its address."""
    names = dict.fromkeys(before)
    for payload_T, flows_1T in leading:
        content = np.stack([payload_T[flows_1T.indices], flows_1T.data.astype(np.int64)]).astype("<i8").tobytes()
        while (name := f"g{hashlib.sha256(content).hexdigest()[:10]}") in names:
            content = name.encode()
        names[name] = None
    return list(names)


def _means(share_NT: csr_matrix, leader_N: NDArray[np.int64], before_LT: csr_matrix, leaders: int) -> csr_matrix:
    """(L, T) the mean of each leader's devices' shares; where there was one before, half of it and half of that."""
    from scipy.sparse import csr_matrix, vstack

    weight_N = 1 / np.bincount(leader_N)[leader_N]
    weight_N[leader_N < before_LT.shape[0]] /= 2
    of_leader_LN = csr_matrix((weight_N, (leader_N, np.arange(len(leader_N)))), shape=(leaders, len(leader_N)))
    none_before_LT = csr_matrix((leaders - before_LT.shape[0], before_LT.shape[1]))
    return (of_leader_LN @ share_NT + vstack([before_LT / 2, none_before_LT])).tocsr()


def _kept(share_1T: csr_matrix, payload_T: NDArray[np.int64]) -> dict[str, list[float]]:
    """The commonest payloads of a group, in order of their codes, and shares that sum to 1."""
    share_1T.sort_indices()
    kept = np.sort(np.argsort(-np.round(share_1T.data, _DECIMALS), kind="stable")[:MOST])
    code, share = payload_T[share_1T.indices[kept]], share_1T.data[kept]
    columns = {"protocol": code >> 32, "payload_length": code & 0xFFFFFFFF, "share": share / share.sum()}
    return {name: values.tolist() for name, values in columns.items()}


def _services(ports: pa.Table, devices: pa.Array, group_N: pa.Array) -> dict[str, list[str]]:
    """Transport and port of most flows of each group, everybody's last."""
    of_device = pc.index_in(ports["device_id"], value_set=devices)
    grouped = ports.append_column("group", group_N.take(one_chunk(of_device)))
    counted = grouped.group_by(["group", "protocol", "value"]).aggregate([("flows", "sum")])
    is_everybodys = pc.is_in(counted["value"], value_set=pa.array(_EVERYBODYS, pa.int32()))
    order = [("group", "ascending"), ("last", "ascending"), ("flows_sum", "descending"), ("value", "ascending")]
    ranked = counted.append_column("last", is_everybodys.cast(pa.int8())).sort_by([*order, ("protocol", "ascending")])
    services: dict[str, list[str]] = {}
    for group, name in _pairs(ranked):
        if len(services.setdefault(group, [])) < _SERVICES:
            services[group].append(name)
    return services


def _pairs(ranked: pa.Table) -> Iterator[tuple[str, str]]:
    columns = (ranked[name].to_pylist() for name in ("group", "protocol", "value"))
    for group, protocol, port in zip(*columns, strict=True):
        yield group, f"{_TRANSPORTS.get(protocol, f'IP {protocol}')} {port}"
