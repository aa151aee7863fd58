"""Split protocols of studies: assign each flow to training, validation or test.

``random_flow`` (the paper's), ``random_unique``, ``by_capture`` and ``by_time`` are those of datasets;
``capture_folds`` is cross-validation over whole captures; ``site:NAME`` trains on all other sites and tests on that
one, with the labels that both have; ``across`` leaves each site out of training once, and tests all of its devices;
``drift`` trains on the first days and tests on all later ones; ``devices_out`` leaves each device kind out of training
once, and tests the predictions for it. Add yours in `splits`.

Shape suffixes: N flows, S samples of a device's traffic (windows), L captures, C labels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from iotid import config
from iotid.arrow import one_chunk
from iotid.baselines import Samples
from iotid.dataset import LabelledFlows
from iotid.dataset.split_protocols import DATASET_SPLITS
from iotid.errors import SettingError
from iotid.labels.devices import UNLISTED

OF_DATASET = ("random_flow", "random_unique", "by_capture", "by_time")
FOLDS, SITE, ACROSS, DRIFT, DEVICES_OUT = "capture_folds", "site:", "across", "drift", "devices_out"
TRAIN, VALIDATION, TEST = range(len(DATASET_SPLITS))
LEFT_OUT = len(DATASET_SPLITS)  # of a kind that is left out of training
_DAY_US = 86_400_000_000


def splits(flows: LabelledFlows, protocol: str, settings: config.Evaluation) -> Iterator[NDArray[np.int8]]:
    """For each training run, (N,) the split of each flow: an index into DATASET_SPLITS, LEFT_OUT, or -1 for none.

    Raises:
        SettingError: there is no such protocol or site, ``drift`` has no later day, fewer than two labels are in both
            parts of ``site:NAME`` or ``drift``, there is only one device kind, or ``across`` has only one site, no kind
            that two sites have, or a site without which one label is left.
    """
    if protocol in OF_DATASET:
        yield flows.with_protocol(protocol).assign_splits()
    elif protocol == FOLDS:
        fold_N = flows.folds(settings.folds)
        yield from (_fold(fold_N, fold, settings.folds) for fold in range(settings.folds))
    elif protocol == DEVICES_OUT:
        yield from _left_out_kinds(flows, settings)
    elif protocol == ACROSS:
        yield from _each_site_left_out(flows)
    elif protocol == DRIFT:
        yield _later_days(flows, settings.drift_days)
    elif protocol.startswith(SITE):
        yield _other_site(flows, protocol.removeprefix(SITE))
    else:
        known = ", ".join((*OF_DATASET, FOLDS, ACROSS, DRIFT, DEVICES_OUT, SITE + "NAME"))
        raise SettingError(f"evaluation.protocols: {protocol!r} is not known; choose from {known}")


def number_of_runs(flows: LabelledFlows, protocol: str, settings: config.Evaluation) -> int:
    """How many training runs `splits` yields for a protocol that it knows."""
    if protocol == DEVICES_OUT:
        return min(settings.left_out_groups, sum(kind != UNLISTED for kind in kinds(flows)[0]))
    if protocol == ACROSS:
        return len(pc.unique(flows.flows["site"]))
    return settings.folds if protocol == FOLDS else 1


def days(flows: LabelledFlows) -> NDArray[np.int64]:
    """(N,) the day (UTC, since 1970) of each flow's first packet."""
    first_us: NDArray[np.int64] = pc.cast(flows.flows["first_seen"], pa.int64()).to_numpy()
    return first_us // _DAY_US


def parts_of_samples(
    samples: Samples, part_L: NDArray[np.int8] | None, protocol: str, settings: config.Dataset
) -> NDArray[np.int8]:
    """(S,) the split of each window, given ``part_L`` of each capture (-1: none of its flows is used).

    Without it (protocols that divide captures) windows are split like flows, for each label: at random, or by time.
    """
    if part_L is not None:
        return part_L[samples.capture]
    by = samples.start_s if protocol == "by_time" else np.random.default_rng(settings.seed).random(len(samples.label))
    order = np.lexsort((by, samples.label))
    label_S = samples.label[order]
    rank_S = np.arange(len(order)) - np.searchsorted(label_S, label_S)
    share_S = (rank_S + 0.5) / np.bincount(samples.label)[label_S]
    part_S = np.empty(len(order), np.int8)
    part_S[order] = np.searchsorted([settings.train, settings.train + settings.validation], share_S, side="right")
    return part_S


def kinds(flows: LabelledFlows) -> tuple[list[str], NDArray[np.int64]]:
    """Names of the device kinds, and the kind of each label (C,): a vendor and type, where known."""
    kind_of = flows.devices.device_kinds(flows.settings.label, flows.labels)
    names, which_C = np.unique([kind_of[label] for label in flows.labels], return_inverse=True)
    return names.tolist(), which_C.astype(np.int64)


def _fold(fold_N: NDArray[np.int64], fold: int, folds: int) -> NDArray[np.int8]:
    part_N = np.full(len(fold_N), TRAIN, np.int8)
    part_N[fold_N == (fold + 1) % folds] = VALIDATION
    part_N[fold_N == fold] = TEST
    return part_N


def _left_out_kinds(flows: LabelledFlows, settings: config.Evaluation) -> Iterator[NDArray[np.int8]]:
    """Leave out one random group of kinds after the other, and test a fold of captures of the other kinds, each time
    another. Unlisted devices have no kind, and are always in training."""
    names, kind_C = kinds(flows)
    drawn = [kind for kind in np.random.default_rng(settings.seed).permutation(len(names)) if names[kind] != UNLISTED]
    if len(drawn) < 2:
        raise SettingError(
            f"evaluation.protocols: {DEVICES_OUT} needs two kinds of devices to leave one out, the flows have {names}; "
            "devices of the same vendor and type are one kind"
        )
    fold_N = flows.folds(settings.folds)
    groups = min(settings.left_out_groups, len(drawn))
    for group in range(groups):
        part_N = _fold(fold_N, group % settings.folds, settings.folds)
        part_N[np.isin(kind_C, drawn[group::groups])[flows.label]] = LEFT_OUT
        learned = np.unique(flows.label[part_N == TRAIN])  # a label with one capture may be in the tested fold only
        part_N[(part_N != LEFT_OUT) & ~np.isin(flows.label, learned)] = -1
        yield part_N


def _other_site(flows: LabelledFlows, site: str) -> NDArray[np.int8]:
    """Test all flows of the site; of the others, a seeded share is for validation, the rest for training."""
    of_site_N = np.asarray(pc.equal(flows.flows["site"], site))
    if not of_site_N.any() or of_site_N.all():
        raise SettingError(
            f"evaluation.protocols: {SITE}{site} needs flows of {site} and of another site; name both with --site"
        )
    return _tested(
        flows,
        of_site_N,
        f"{SITE}{site} needs two labels or more that {site} and another site have",
        f"write labels in the same way in all device lists, name further sites with --site, or leave {SITE}{site} out",
    )


def _each_site_left_out(flows: LabelledFlows) -> Iterator[NDArray[np.int8]]:
    """Leave out one site after the other, sorted by name, and test all of its flows."""
    site_N = one_chunk(flows.flows["site"]).to_numpy(zero_copy_only=False)
    sites = np.unique(site_N).tolist()
    if len(sites) < 2:
        raise SettingError(
            f"evaluation.protocols: {ACROSS} needs flows of two sites or more, these are of {', '.join(sites)}; name "
            "each with --site"
        )
    names, kind_C = kinds(flows)
    sites_of_kind = [np.unique(site_N[kind_C[flows.label] == kind]) for kind in range(len(names))]
    if all(len(own) < 2 for own, name in zip(sites_of_kind, names, strict=True) if name != UNLISTED):
        raise SettingError(
            f"evaluation.protocols: {ACROSS} needs a kind (vendor and type) that two sites have, {', '.join(sites)} "
            "share none; write vendor and type of such devices in the same way in their device lists"
        )
    for site in sites:
        left = np.unique(flows.label[site_N != site])
        if len(left) < 2:
            raise SettingError(
                f"evaluation.protocols: {ACROSS} needs two labels or more to learn from, without {site} only "
                f"{flows.labels[left[0]]} is left; name a site with other devices, too, or leave {ACROSS} out"
            )
    yield from (_learn_others(flows, site_N == site) for site in sites)


def _later_days(flows: LabelledFlows, learned_days: int) -> NDArray[np.int8]:
    """Test all flows after the first ``learned_days`` days."""
    day_N = days(flows)
    distinct = np.unique(day_N)
    if len(distinct) <= learned_days:
        raise SettingError(
            f"evaluation.protocols: {DRIFT} needs days after the first evaluation.drift_days={learned_days}, the flows "
            f"have {len(distinct)}; give more dates or a smaller number"
        )
    return _tested(
        flows,
        day_N >= distinct[learned_days],
        f"{DRIFT} needs two labels or more in the first evaluation.drift_days={learned_days} days and after them",
        f"give more dates or another number, or leave {DRIFT} out",
    )


def _tested(flows: LabelledFlows, test_N: NDArray[np.bool_], rule: str, remedy: str) -> NDArray[np.int8]:
    """`_learn_others`, with the labels that both have; ``rule`` and ``remedy``: of the error if they are too few."""
    shared = np.intersect1d(flows.label[test_N], flows.label[~test_N])
    if len(shared) < 2:
        both = f"only {flows.labels[shared[0]]}" if len(shared) else "none"
        raise SettingError(f"evaluation.protocols: {rule}, both have {both}; {remedy}")
    part_N = _learn_others(flows, test_N)
    part_N[~np.isin(flows.label, shared)] = -1
    return part_N


def _learn_others(flows: LabelledFlows, test_N: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Test these flows; of the others, a seeded share is for validation, the rest for training."""
    part_N = flows.with_protocol("random_flow").assign_splits()
    part_N[part_N == TEST] = TRAIN
    part_N[test_N] = TEST
    return part_N
