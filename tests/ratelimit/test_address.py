"""Addresses as packed bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.ratelimit.address import Networks, grouping, pack, pack_with_port


@pytest.mark.parametrize(
    ("text", "packed"),
    [
        ("192.0.2.1", bytes([192, 0, 2, 1])),
        ("::ffff:192.0.2.1", bytes([192, 0, 2, 1])),
        ("::FFFF:c000:201", bytes([192, 0, 2, 1])),
        ("2001:db8::1", bytes.fromhex("20010db8000000000000000000000001")),
        ("2001:DB8:0::0001", bytes.fromhex("20010db8000000000000000000000001")),
        ("fe80::1%eth0", bytes.fromhex("fe800000000000000000000000000001")),
        ("testclient", None),
        ("", None),
        ("192.0.2.1\0", None),
    ],
)
def test_one_address_is_one_key_however_it_is_written(text: str, packed: bytes | None) -> None:
    """Case, zeros, mapped IPv4 and zones do not make another client."""
    assert pack(text) == packed


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1:8080", "192.0.2.1"),
        (" 192.0.2.1 ", "192.0.2.1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
    ],
)
def test_ports_and_brackets_are_taken_off(text: str, address: str) -> None:
    """Proxies write them; they are not part of who the client is."""
    assert pack_with_port(text) == pack(address)


@given(text=st.text())
def test_no_text_raises(text: str) -> None:
    """What is no address is None, whatever it is."""
    packed = pack_with_port(text)

    assert packed is None or len(packed) in (4, 16)


@pytest.mark.parametrize(
    ("prefix", "one", "other", "same"),
    [
        (64, "2001:db8::1", "2001:db8::ffff", True),
        (64, "2001:db8::1", "2001:db8:0:1::1", False),
        (56, "2001:db8:0:1::1", "2001:db8:0:ff::1", True),
        (60, "2001:db8:0:1f::1", "2001:db8:0:10::1", True),
        (60, "2001:db8:0:1f::1", "2001:db8:0:2f::1", False),
        (128, "2001:db8::1", "2001:db8::2", False),
        (32, "192.0.2.1", "192.0.2.2", False),
        (32, "192.0.2.1", "c000:0201::1", False),
    ],
)
def test_ipv6_is_grouped_by_network(prefix: int, one: str, other: str, same: bool) -> None:
    """Addresses of one subscriber's network are one client; IPv4 is left whole."""
    group = grouping(prefix)
    first, second = pack(one), pack(other)

    assert first is not None
    assert second is not None
    assert (group(first) == group(second)) is same


@pytest.mark.parametrize("prefix", [15, 129, 64.0, "64"])
def test_prefixes_out_of_range_are_refused(prefix: int) -> None:
    """The error says what came and what is expected."""
    with pytest.raises(ValueError, match="ipv6_prefix must be a whole number from 16 to 128, got"):
        grouping(prefix)


def test_networks_hold_their_addresses() -> None:
    """Of both families, and single addresses."""
    networks = Networks(["10.0.0.0/8", "2001:db8::/32", "192.0.2.7", "::ffff:172.16.0.0/108"])

    def holds(text: str) -> bool:
        return (pack(text) or b"") in networks

    assert [holds(text) for text in ("10.1.2.3", "192.0.2.7", "2001:db8:1::1")] == [True] * 3
    assert [holds(text) for text in ("172.16.1.1", "::ffff:172.31.1.1")] == [True] * 2
    assert [holds(text) for text in ("11.1.2.3", "192.0.2.8", "2001:db9::1", "")] == [False] * 4
    assert not Networks([])


@pytest.mark.parametrize(
    ("cidrs", "said"),
    [
        (["10.0.0.1/8"], "trusted network '10.0.0.1/8' is not one: expected .* host bits set"),
        (["proxy"], "trusted network 'proxy' is not one"),
        ("10.0.0.0/8", "trusted must be a list of networks, got the single string '10.0.0.0/8'"),
    ],
)
def test_malformed_networks_are_refused(cidrs: list[str], said: str) -> None:
    """The error says what came, what is expected, and why it is not."""
    with pytest.raises(ValueError, match=said):
        Networks(cidrs)
