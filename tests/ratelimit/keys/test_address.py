"""Addresses as packed bytes."""

from __future__ import annotations

import ipaddress
import random
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tokenpulse_mw.ratelimit.keys.address import (
    Networks,
    format_key,
    network_grouper,
    pack,
    pack_with_port,
)

NAT64 = IPv6Network("64:ff9b::/96")

v4 = st.integers(0, 2**32 - 1).map(IPv4Address)
wrapped = v4.flatmap(
    lambda inner: st.sampled_from(
        [
            IPv6Address(0xFFFF << 32 | int(inner)),
            IPv6Address(int(NAT64[0]) | int(inner)),
            IPv6Address(0x2002 << 112 | int(inner) << 80 | 0xBEEF),
        ]
    )
)
v6 = st.one_of(
    wrapped,
    st.integers(0, 2**128 - 1).map(IPv6Address),
    st.lists(st.sampled_from([0, 1, 0xDB8, 0x2001, 0xFFFF]), min_size=8, max_size=8).map(
        lambda groups: IPv6Address(":".join(f"{each:x}" for each in groups))
    ),
)


def unwrapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The address of a client, told by the standard library."""
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


def spelled(address: IPv4Address | IPv6Address, dice: random.Random) -> str:
    """One of the many ways to write an address."""
    if isinstance(address, IPv4Address):
        return dice.choice([f"{address}", f"{address}:{dice.randrange(65536)}", f" {address}\t"])
    groups = address.exploded.split(":")
    groups = [dice.choice([each, each.lstrip("0") or "0", each.upper()]) for each in groups]
    tail = [str(IPv4Address(int(address) & 0xFFFF_FFFF))] if dice.random() < 0.3 else groups[6:]
    text = ":".join(groups[:6] + tail)
    zeros = [number for number in range(6) if not int(groups[number], 16)]
    if zeros and dice.random() < 0.7:
        first = last = dice.choice(zeros)
        while last + 1 in zeros and dice.random() < 0.8:
            last += 1
        text = f"{':'.join(groups[:first])}::{':'.join(groups[last + 1 : 6] + tail)}"
    text += dice.choice(["", "", "%eth0"])
    return dice.choice([text, f"[{text}]", f"[{text}]:{dice.randrange(65536)}", f" {text} "])


@pytest.mark.parametrize(
    ("text", "packed"),
    [
        ("192.0.2.1", bytes([192, 0, 2, 1])),
        ("::ffff:192.0.2.1", bytes([192, 0, 2, 1])),
        ("::FFFF:c000:201", bytes([192, 0, 2, 1])),
        ("64:ff9b::192.0.2.1", bytes([192, 0, 2, 1])),
        ("64:FF9B:0::c000:201", bytes([192, 0, 2, 1])),
        ("64:ff9b:1::c000:201", bytes.fromhex("0064ff9b0001000000000000c0000201")),
        ("2002:c000:201::1", bytes([192, 0, 2, 1])),
        ("2002:c000:201:ffff::2", bytes([192, 0, 2, 1])),
        ("2001:db8::1", bytes.fromhex("20010db8000000000000000000000001")),
        ("2001:DB8:0::0001", bytes.fromhex("20010db8000000000000000000000001")),
        ("fe80::1%eth0", bytes.fromhex("fe800000000000000000000000000001")),
        ("32.2.192.0", bytes([32, 2, 192, 0])),
        ("testclient", None),
        ("", None),
        (":", None),
        ("192.0.2.1\0", None),
        ("2001:db8::\0", None),
    ],
)
def test_one_address_is_one_key_however_it_is_written(text: str, packed: bytes | None) -> None:
    """Case, zeros, IPv4 in IPv6 and zones do not make another client."""
    assert pack(text) == packed


@given(address=st.one_of(v4, v6), dice=st.randoms(use_true_random=False))
def test_every_spelling_is_the_same_client(
    address: IPv4Address | IPv6Address, dice: random.Random
) -> None:
    """Zero compression, case, dotted ends, brackets, ports and zones: always the same bytes."""
    text = spelled(address, dice)

    assert pack_with_port(text) == unwrapped(address).packed, text


@given(client=v4, site=st.integers(0, 2**80 - 1))
def test_an_ipv4_client_is_itself_whichever_way_it_came(client: IPv4Address, site: int) -> None:
    """Mapped, by NAT64, or from anywhere in its 6to4 site, it is one client."""
    ways = [
        f"::ffff:{client}",
        f"64:ff9b::{client}",
        str(IPv6Address(0x2002 << 112 | int(client) << 80 | site)),
    ]

    assert {pack(way) for way in ways} == {client.packed}


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1:8080", "192.0.2.1"),
        (" 192.0.2.1 ", "192.0.2.1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[::ffff:192.0.2.1]:443", "192.0.2.1"),
    ],
)
def test_ports_and_brackets_are_taken_off(text: str, address: str) -> None:
    """Proxies write them; they are not part of who the client is."""
    assert pack_with_port(text) == pack(address)


@given(text=st.text() | st.text(alphabet="0123456789abcdef.:[]%"))
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
        (24, "32.1.13.47", "2001:db8::1", False),
    ],
)
def test_ipv6_is_grouped_by_network(prefix: int, one: str, other: str, same: bool) -> None:
    """Addresses of one subscriber's network are one client; IPv4 is left whole."""
    group = network_grouper(prefix)
    first, second = pack(one), pack(other)

    assert first is not None
    assert second is not None
    assert (group(first) == group(second)) is same


@given(prefix=st.integers(16, 128), one=st.binary(min_size=16, max_size=16), data=st.data())
def test_two_ipv6_clients_are_one_just_if_their_prefixes_agree(
    prefix: int, one: bytes, data: st.DataObject
) -> None:
    """The first `ipv6_prefix` bits decide, and no other bit does."""
    group, number = network_grouper(prefix), int.from_bytes(one)
    flipped = data.draw(st.integers(0, 127), label="bit that differs, from the left")
    other = (number ^ 1 << 127 - flipped).to_bytes(16)

    assert (group(one) == group(other)) is (flipped >= prefix)


@given(prefix=st.integers(16, 128), client=st.binary(min_size=4, max_size=4), tail=st.binary())
def test_ipv4_is_never_an_ipv6_group(prefix: int, client: bytes, tail: bytes) -> None:
    """However short the prefix, and whatever the bytes that both begin with."""
    group = network_grouper(prefix)

    assert group(client) == client
    assert group((client + tail + bytes(16))[:16]) != client


@given(prefix=st.integers(16, 128), address=st.one_of(v4, v6))
def test_a_group_can_be_written_as_people_know_it(
    prefix: int, address: IPv4Address | IPv6Address
) -> None:
    """As the network that its clients are in; an IPv4 client is its address."""
    client = unwrapped(address)
    network = ipaddress.ip_network((client, prefix if client.version == 6 else 32), strict=False)

    shown = format_key(network_grouper(prefix)(client.packed))

    assert shown == (str(client) if client.version == 4 else str(network))


@given(key=st.binary(max_size=24).filter(lambda key: len(key) != 4))
@example(b"")
@example(bytes(7) + b"::/@")
@example(bytes(2) + b"::/\x00")
@example(bytes(32) + b"::/\xff")
def test_what_is_no_address_is_not_written_as_one(key: bytes) -> None:
    """A hash has no mark, or no room for its prefix."""
    assert format_key(key) is None


@pytest.mark.parametrize("prefix", [15, 129, 64.0, "64", True])
def test_prefixes_out_of_range_are_refused(prefix: int) -> None:
    """The error says what came and what is expected."""
    with pytest.raises(ValueError, match="ipv6_prefix must be a whole number from 16 to 128, got"):
        network_grouper(prefix)


def holds(networks: Networks, text: str) -> bool:
    """Whether a client at `text` is in `networks`."""
    return (pack(text) or b"") in networks


def test_networks_hold_their_addresses() -> None:
    """Of both families, and single addresses."""
    networks = Networks(["10.0.0.0/8", "2001:db8::/32", "192.0.2.7", "fe80::1%eth0"])

    inside = ["10.1.2.3", "::ffff:10.1.2.3", "2002:a00:1::1", "192.0.2.7", "2001:db8:1::1"]
    outside = ["11.1.2.3", "192.0.2.8", "2001:db9::1", ""]
    assert [holds(networks, text) for text in [*inside, "fe80::1%eth1"]] == [True] * 6
    assert [holds(networks, text) for text in outside] == [False] * 4
    assert networks
    assert not Networks([])


@pytest.mark.parametrize(
    ("network", "means"),
    [
        ("::ffff:172.16.0.0/108", "172.16.0.0/12"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("64:ff9b::a00:0/104", "10.0.0.0/8"),
        ("64:ff9b::192.0.2.7", "192.0.2.7/32"),
        ("2002:a00::/24", "10.0.0.0/8"),
        ("2002:c000:207::/48", "192.0.2.7/32"),
        ("2002:c000:207:1::/64", "192.0.2.7/32"),
        ("2002:c000:207::5", "192.0.2.7/32"),
        ("32.2.0.0/16", "32.2.0.0/16"),
    ],
)
def test_ipv4_in_ipv6_clothes_is_the_ipv4_network(network: str, means: str) -> None:
    """Written mapped, as NAT64 or as 6to4, a network holds the clients that it stands for."""
    meant = ipaddress.ip_network(means)
    networks = Networks([network])

    assert meant[0].packed in networks
    assert meant[-1].packed in networks
    if meant.prefixlen:
        assert IPv4Address(int(meant[-1]) + 1).packed not in networks
        assert IPv4Address(int(meant[0]) - 1).packed not in networks


@pytest.mark.parametrize("network", ["::/0", "2000::/3", "2002::/15", "::/80", "64:ff9b::/95"])
@given(client=v4)
def test_no_wider_ipv6_network_trusts_an_ipv4_client(network: str, client: IPv4Address) -> None:
    """An IPv4 client is in an IPv6 network only where the operator has written its very form."""
    networks = Networks([network])
    ways = [f"{client}", f"::ffff:{client}", f"64:ff9b::{client}"]
    site = IPv6Address(0x2002 << 112 | int(client) << 80)

    assert not any(holds(networks, way) for way in [*ways, str(site)])


@given(
    near=st.one_of(v4, v6), prefix=st.integers(0, 128), flipped=st.integers(0, 128), any_=v4 | v6
)
def test_networks_agree_with_the_standard_library(
    near: IPv4Address | IPv6Address, prefix: int, flipped: int, any_: IPv4Address | IPv6Address
) -> None:
    """A native network holds just its native addresses, and always the one it was made from."""
    home = unwrapped(near)
    network = ipaddress.ip_network((home, min(prefix, home.max_prefixlen)), strict=False)
    networks = Networks([str(network)])
    wraps = isinstance(network, IPv6Network) and isinstance(
        unwrapped(network.network_address), IPv4Address
    )

    for address in (home, type(home)(int(home) ^ (1 << flipped) % 2**home.max_prefixlen), any_):
        client = unwrapped(address)
        expected = client.version == network.version and client in network
        if not wraps:
            assert (client.packed in networks) is expected, (network, address)


@given(near=st.one_of(v4, v6), dice=st.randoms(use_true_random=False))
def test_an_address_that_is_trusted_is_trusted_however_it_is_written(
    near: IPv4Address | IPv6Address, dice: random.Random
) -> None:
    """What names a single proxy holds it, whichever way it comes."""
    assert (pack_with_port(spelled(near, dice)) or b"") in Networks([str(near)])


def test_unix_holds_the_peers_without_an_address() -> None:
    """The word is a network of its own, beside the others."""
    assert b"" in Networks(["10.0.0.0/8", "unix"])
    assert b"" not in Networks(["0.0.0.0/0", "::/0"])
    assert not holds(Networks(["unix"]), "0.0.0.0")
    assert not holds(Networks(["unix"]), "::")


@pytest.mark.parametrize(
    ("cidrs", "said"),
    [
        (["10.0.0.1/8"], "trusted network '10.0.0.1/8' is invalid: expected .* host bits set"),
        (["proxy"], "trusted network 'proxy' is invalid"),
        ([10], "trusted network 10 is invalid"),
        ("10.0.0.0/8", "trusted must be a list of networks, got the single string '10.0.0.0/8'"),
        ("unix", "trusted must be a list of networks, got the single string 'unix'"),
    ],
)
def test_malformed_networks_are_refused(cidrs: list[str], said: str) -> None:
    """The error says what came, what is expected, and why it is not."""
    with pytest.raises(ValueError, match=said):
        Networks(cidrs)
