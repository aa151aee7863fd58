"""Profiles of devices and groups, and how similar two are.

A profile has four views: the shares of a device's flows in which it sends a payload of each length (independent of the
server), of the pairs of consecutive payloads, of the flows' sequences of payloads, and of the ports in each role
(`iotid.census.behaviour`). In each view the shares sum to 1.

The similarity of two profiles in one view is the Bhattacharyya coefficient, sum(sqrt(p * q)): 0 with nothing in common,
1 if equal. (ByteIoT, Duan et al., TNSM 2021, uses the Hellinger distance of packet lengths, sqrt(1 - coefficient).) The
similarity of two profiles is the mean over the views that either of them has; groups that an earlier version stored are
compared by payloads alone.

Shape suffixes: N profiles, A and B two lists of profiles, T tokens (a type of value, a protocol and a value), V views,
E entries of a sparse matrix, L groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from iotid.arrow import one_chunk
from iotid.census.behaviour import MAX_VALUES, PAIR, PAYLOAD, ROLE, SEQUENCE, VALUE_BITS

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

VIEWS = (PAYLOAD, PAIR, SEQUENCE, ROLE)
NO_PAYLOAD = -1  # protocol number that stands for "no payload"
MOST_TOKENS = MAX_VALUES * (len(VIEWS) - 1)  # of a group, beside its payloads
_PROTOCOL_BITS = 9  # of -1 to 255
_DECIMALS = 6


@dataclass(frozen=True)
class Profiles:
    """N profiles over the same T tokens.

    Attributes:
        share: (N, T) shares, which sum to 1 in each view that a profile has.
        token: (T,) the tokens, sorted.
        is_full: (N,) whether all views were counted, not payloads alone, as in earlier versions.
    """

    share: csr_matrix
    token: NDArray[np.int64]
    is_full: NDArray[np.bool_]

    def __len__(self) -> int:
        return int(self.share.shape[0])

    def __getitem__(self, rows: Any) -> Profiles:
        return Profiles(self.share[rows], self.token, self.is_full[rows])

    def similarities(self, others: Profiles) -> NDArray[np.float64]:
        """(A, B) similarities of these profiles and others over the same tokens."""
        common_AB = (self._root @ others._root.T).toarray()
        (counted_AV, empty_AV), (counted_BV, empty_BV) = self._views, others._views
        views_AB = counted_AV @ counted_BV.T - empty_AV @ empty_BV.T
        return np.round(common_AB / np.maximum(views_AB, 1), _DECIMALS)

    def mean(self, weight_N: NDArray[np.float64] | None = None) -> Profiles:
        """One profile: the mean of all in each view, with these weights; of views that some lack, the mean of the
        others."""
        from scipy.sparse import csr_matrix

        weight_N = np.ones(len(self)) if weight_N is None else weight_N
        is_full_1 = np.array([bool(self.is_full.any())])
        return normalized(csr_matrix(weight_N[np.newaxis, :]) @ self.share, self.token, is_full_1)

    @cached_property
    def _root(self) -> csr_matrix:
        return self.share.sqrt()

    @cached_property
    def _views(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(N, V) 1 for a view that was counted, and 1 for one that was counted but is empty; else 0."""
        has_NV = (self.share @ _one_hot(self.token)).toarray() > 0
        counted_NV = self.is_full[:, np.newaxis] | (np.arange(len(VIEWS)) == 0)
        return counted_NV.astype(np.float64), (counted_NV & ~has_NV).astype(np.float64)


def normalized(
    amount_NT: csr_matrix, token_T: NDArray[np.int64], is_full_N: NDArray[np.bool_] | None = None
) -> Profiles:
    """Profiles of amounts that are in proportion to the shares in each view."""
    share_NT = amount_NT.astype(np.float64).tocsr()
    share_NT.sort_indices()  # otherwise sums would depend on the order of the rows
    total_NV = (share_NT @ _one_hot(token_T)).toarray()
    row_E = np.repeat(np.arange(share_NT.shape[0]), np.diff(share_NT.indptr))
    share_NT.data = share_NT.data / total_NV[row_E, view_of(token_T)[share_NT.indices]]
    return Profiles(share_NT, token_T, np.ones(share_NT.shape[0], np.bool_) if is_full_N is None else is_full_N)


def stacked(profiles: Sequence[Profiles]) -> Profiles:
    """Profiles over the same tokens, one list after the other."""
    from scipy.sparse import vstack

    is_full_N = np.concatenate([each.is_full for each in profiles])
    return Profiles(vstack([each.share for each in profiles]).tocsr(), profiles[0].token, is_full_N)


def counts(devices: pa.Array, values: pa.Table, token_T: NDArray[np.int64]) -> csr_matrix:
    """(N, T) flows in which each device shows each token; a device without payload shows NO_PAYLOAD in one.

    ``values``: rows of PAYLOADS_AND_PORTS; ``token_T``: at least `tokens_of` these rows, sorted.
    """
    from scipy.sparse import csr_matrix

    row_E, token_E, flows_E = _entries(devices, values)
    column_E = np.searchsorted(token_T, token_E)
    return csr_matrix((flows_E, (row_E, column_E)), shape=(len(devices), len(token_T)))


def tokens_of(devices: pa.Array, values: pa.Table, *groups: pa.Table) -> NDArray[np.int64]:
    """(T,) the tokens of devices (rows of PAYLOADS_AND_PORTS) and groups (GROUPS), sorted."""
    return np.unique(np.concatenate([_entries(devices, values)[1], *(_stored(table)[1] for table in groups)]))


def profiles_of(groups: pa.Table, token_T: NDArray[np.int64]) -> Profiles:
    """The profiles of L groups (GROUPS), of which these are the tokens, or more."""
    from scipy.sparse import csr_matrix

    row_E, token_E, share_E = _stored(groups)
    entries = (row_E, np.searchsorted(token_T, token_E))
    is_full_L = one_chunk(groups["token"]).is_valid().to_numpy(zero_copy_only=False)
    return normalized(csr_matrix((share_E, entries), shape=(len(groups), len(token_T))), token_T, is_full_L)


def to_columns(profile: Profiles) -> dict[str, list[Any] | None]:
    """The columns of GROUPS of one profile: in each view the commonest tokens, in order, with shares that sum to 1."""
    token_E, share_E = profile.token[profile.share.indices], profile.share.data
    order_E = np.argsort(token_E)
    token_E, share_E = token_E[order_E], share_E[order_E]
    views = np.searchsorted(view_of(token_E), np.arange(len(VIEWS) + 1))
    tokens, shares = [], []
    for view in range(len(VIEWS)):
        of_view = slice(views[view], views[view + 1])
        largest = np.sort(np.argsort(-np.round(share_E[of_view], _DECIMALS), kind="stable")[:MAX_VALUES])
        tokens.append(token_E[of_view][largest])
        shares.append(share_E[of_view][largest] / max(share_E[of_view][largest].sum(), np.finfo(float).tiny))
    is_full = bool(profile.is_full[0])
    return {
        "protocol": _protocol(tokens[0]).tolist(),
        "payload_length": (tokens[0] & ((1 << VALUE_BITS) - 1)).tolist(),
        "share": shares[0].tolist(),
        "token": np.concatenate(tokens[1:]).tolist() if is_full else None,
        "token_share": np.concatenate(shares[1:]).tolist() if is_full else None,
    }


def view_of(token: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index in VIEWS."""
    return token >> (VALUE_BITS + _PROTOCOL_BITS)


def _token(
    view: NDArray[np.int64] | int, protocol: NDArray[np.integer], value: NDArray[np.integer]
) -> NDArray[np.int64]:
    protocol_and_value = (protocol.astype(np.int64) + 1) << VALUE_BITS | value.astype(np.int64)
    return np.asarray(view, np.int64) << (VALUE_BITS + _PROTOCOL_BITS) | protocol_and_value


def _protocol(token: NDArray[np.int64]) -> NDArray[np.int64]:
    return (token >> VALUE_BITS & ((1 << _PROTOCOL_BITS) - 1)) - 1


def _one_hot(token_T: NDArray[np.int64]) -> csr_matrix:
    """(T, V) the view of each token."""
    from scipy.sparse import csr_matrix

    entries = (np.arange(len(token_T)), view_of(token_T))
    return csr_matrix((np.ones(len(token_T)), entries), shape=(len(token_T), len(VIEWS)))


def _entries(devices: pa.Array, values: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """(E,) device, token and flows."""
    view = pc.index_in(values["what"], value_set=pa.array(VIEWS))
    values = values.filter(pc.is_valid(view))
    view_E = one_chunk(view).drop_null().to_numpy().astype(np.int64)
    row_E = pc.index_in(values["device_id"], value_set=devices).to_numpy().astype(np.int64)
    token_E = _token(view_E, values["protocol"].to_numpy(), values["value"].to_numpy())
    silent = np.setdiff1d(np.arange(len(devices)), row_E[view_E == 0])
    nothing = np.repeat(_token(0, np.array([NO_PAYLOAD]), np.array([0])), len(silent))
    flows_E = np.concatenate([values["flows"].to_numpy(), np.ones(len(silent))])
    return np.concatenate([row_E, silent]), np.concatenate([token_E, nothing]), flows_E


def _stored(groups: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """(E,) group, token and share; groups of earlier versions have payloads alone."""
    protocol, length, share, token, token_share = (
        one_chunk(groups[name]) for name in ("protocol", "payload_length", "share", "token", "token_share")
    )
    payload_E = _token(0, protocol.flatten().to_numpy(), length.flatten().to_numpy())
    rows = [pc.list_parent_indices(each).to_numpy().astype(np.int64) for each in (share, token_share)]
    shares = [each.flatten().to_numpy() for each in (share, token_share)]
    return np.concatenate(rows), np.concatenate([payload_E, token.flatten().to_numpy()]), np.concatenate(shares)
