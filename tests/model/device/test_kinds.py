"""Which classes are one kind."""

from __future__ import annotations

from iotid.model.device import NO_KIND, kinds_of

_KNOWN = {
    "camera": {"vendor": "Acme", "type": "camera"}, "bell": {"vendor": "Acme", "type": "camera"},
    "plug": {"vendor": "Volt", "type": "plug"}, "lamp": {"vendor": "Acme", "type": ""}, "scale": {"vendor": "Volt"},
}  # fmt: skip


def test_kinds_of__one_vendor_and_type_is_one_kind_and_names_are_sorted() -> None:
    kinds, kind_C = kinds_of(("camera", "plug", "lamp", "bell", "scale"), _KNOWN)
    assert kinds == ["Acme camera", "Volt plug", "lamp", "scale"]  # without vendor and type a class is its own kind
    assert kind_C.tolist() == [0, 1, 2, 0, 3]


def test_kinds_of__the_class_of_unlisted_devices_has_no_kind() -> None:
    kinds, kind_C = kinds_of(("plug", "unknown", "bell"), _KNOWN)
    assert kinds == ["Acme camera", "Volt plug"]
    assert kind_C.tolist() == [1, NO_KIND, 0]


def test_kinds_of__of_an_undescribed_label_is_the_label() -> None:
    kinds, kind_C = kinds_of(("radio", "oven"), {})
    assert (kinds, kind_C.tolist()) == (["oven", "radio"], [1, 0])
    assert kinds_of((), {})[0] == []
