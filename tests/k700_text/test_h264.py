from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k700_text.media.decode.h264 import DecoderConfiguration, PictureKind, picture_kind

SEQUENCE_SET, PICTURE_SET = b"\x67dxyz", b"\x68ab"
# A unit's first byte: two bits of how much others need it, five of its kind.
IDR, REFERENCE, NON_REFERENCE, SUPPLEMENT, DELIMITER = b"\x65i", b"\x41p", b"\x01b", b"\x06s", b"\x09d"


def avcc(sequence_sets: list[bytes], picture_sets: list[bytes], length_bytes: int = 4) -> bytes:
    def counted(sets: list[bytes]) -> bytes:
        return b"".join(len(each).to_bytes(2, "big") + each for each in sets)

    head = bytes([1, 100, 0, 31, 0xFC | (length_bytes - 1), 0xE0 | len(sequence_sets)])
    return head + counted(sequence_sets) + bytes([len(picture_sets)]) + counted(picture_sets)


def packet(*units: bytes, length_bytes: int = 4) -> bytes:
    return b"".join(len(unit).to_bytes(length_bytes, "big") + unit for unit in units)


def configuration(length_bytes: int = 4) -> DecoderConfiguration:
    parsed = DecoderConfiguration.parse(avcc([SEQUENCE_SET], [PICTURE_SET, b"\x68cd"], length_bytes))
    assert isinstance(parsed, DecoderConfiguration)
    return parsed


@pytest.mark.parametrize("length_bytes", [1, 2, 4])
def test_configurations(length_bytes: int) -> None:
    parsed = configuration(length_bytes)
    assert parsed.length_bytes == length_bytes
    assert parsed.parameter_sets == {SEQUENCE_SET, PICTURE_SET, b"\x68cd"}
    # High profiles have some bytes more.
    assert DecoderConfiguration.parse(avcc([SEQUENCE_SET], [PICTURE_SET]) + b"\xfd\xf8\xf8\0") == DecoderConfiguration(
        length_bytes=4, parameter_sets=frozenset([SEQUENCE_SET, PICTURE_SET])
    )


def test_configurations_of_another_kind_have_a_reason() -> None:
    whole = avcc([SEQUENCE_SET], [PICTURE_SET])
    assert "lengths" in str(DecoderConfiguration.parse(b"\0\0\0\x01" + SEQUENCE_SET))
    assert "2 sequence" in str(DecoderConfiguration.parse(avcc([SEQUENCE_SET, SEQUENCE_SET], [PICTURE_SET])))
    for size in range(len(whole)):
        assert isinstance(DecoderConfiguration.parse(whole[:size]), str)


@pytest.mark.parametrize(
    ("units", "kind"),
    [
        ((IDR,), PictureKind(is_idr=True, is_droppable=False)),
        ((DELIMITER, SEQUENCE_SET, PICTURE_SET, SUPPLEMENT, IDR, IDR), PictureKind(is_idr=True, is_droppable=False)),
        ((REFERENCE,), PictureKind(is_idr=False, is_droppable=False)),
        ((NON_REFERENCE, NON_REFERENCE), PictureKind(is_idr=False, is_droppable=True)),
        # Two fields of a picture, one of which others refer to.
        ((REFERENCE, NON_REFERENCE), PictureKind(is_idr=False, is_droppable=False)),
    ],
)
def test_kinds_of_pictures(units: tuple[bytes, ...], kind: PictureKind) -> None:
    for length_bytes in (1, 2, 4):
        assert picture_kind(packet(*units, length_bytes=length_bytes), configuration(length_bytes)) == kind


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no picture"),
        (packet(SUPPLEMENT), "no picture"),
        (packet(IDR, REFERENCE), "mixes"),
        (packet(b"\x67other", IDR), "changes its parameter sets"),
        (packet(b"\x22a", REFERENCE), "units of type 2"),
        (packet(REFERENCE, b"\x0b"), "units of type 11"),
        (packet(REFERENCE)[:-1], "do not add up"),
        (packet(REFERENCE) + b"\0\0\0", "do not add up"),
        (packet(REFERENCE) + b"\0\0\0\0", "do not add up"),
    ],
)
def test_other_packets_have_a_reason(data: bytes, reason: str) -> None:
    assert reason in str(picture_kind(data, configuration()))


@given(st.binary(max_size=60), st.sampled_from([1, 2, 4]))
def test_any_bytes_have_an_answer(data: bytes, length_bytes: int) -> None:
    assert isinstance(picture_kind(data, configuration(length_bytes)), PictureKind | str)
    assert isinstance(DecoderConfiguration.parse(b"\x01" + data), DecoderConfiguration | str)
