"""IP addresses as packed bytes."""

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
        lambda groups: IPv6Address(":".join(f"{group:x}" for group in groups))
    ),
)


def unwrapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the client's address according to the standard library."""
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


def random_notation(address: IPv4Address | IPv6Address, dice: random.Random) -> str:
    """Return the address in a random notation."""
    if isinstance(address, IPv4Address):
        return dice.choice([f"{address}", f"{address}:{dice.randrange(65536)}", f" {address}\t"])
    groups = address.exploded.split(":")
    groups = [dice.choice([group, group.lstrip("0") or "0", group.upper()]) for group in groups]
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
def test_notations_of_one_address_have_the_same_key(text: str, packed: bytes | None) -> None:
    """Case, zeros, IPv4 in IPv6 and zones do not change the key."""
    assert pack(text) == packed


@given(address=st.one_of(v4, v6), dice=st.randoms(use_true_random=False))
def test_random_notation_has_the_same_key(
    address: IPv4Address | IPv6Address, dice: random.Random
) -> None:
    """Zero compression, case, dotted ends, brackets, ports and zones do not change the bytes."""
    text = random_notation(address, dice)

    assert pack_with_port(text) == unwrapped(address).packed, text


@given(client=v4, site=st.integers(0, 2**80 - 1))
def test_embedded_ipv4_address_is_the_ipv4_client(client: IPv4Address, site: int) -> None:
    """A mapped address, a NAT64 address and any address of a 6to4 site have the same key."""
    texts = [
        f"::ffff:{client}",
        f"64:ff9b::{client}",
        str(IPv6Address(0x2002 << 112 | int(client) << 80 | site)),
    ]

    assert {pack(text) for text in texts} == {client.packed}


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
def test_ports_and_brackets_are_removed(text: str, address: str) -> None:
    """The notations of proxies result in the address alone."""
    assert pack_with_port(text) == pack(address)


@given(text=st.text() | st.text(alphabet="0123456789abcdef.:[]%"))
def test_any_text_is_an_address_or_none(text: str) -> None:
    """Text that is not an address results in None instead of an error."""
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
    """IPv6 addresses of one network have the same key; IPv4 addresses are not grouped."""
    group = network_grouper(prefix)
    first, second = pack(one), pack(other)

    assert first is not None
    assert second is not None
    assert (group(first) == group(second)) is same


@given(prefix=st.integers(16, 128), one=st.binary(min_size=16, max_size=16), data=st.data())
def test_ipv6_group_depends_on_exactly_the_prefix(
    prefix: int, one: bytes, data: st.DataObject
) -> None:
    """Two addresses have the same key if and only if their first `ipv6_prefix` bits are equal."""
    group, number = network_grouper(prefix), int.from_bytes(one)
    flipped = data.draw(st.integers(0, 127), label="bit that differs, from the left")
    other = (number ^ 1 << 127 - flipped).to_bytes(16)

    assert (group(one) == group(other)) is (flipped >= prefix)


@given(prefix=st.integers(16, 128), client=st.binary(min_size=4, max_size=4), tail=st.binary())
def test_ipv4_is_never_an_ipv6_group(prefix: int, client: bytes, tail: bytes) -> None:
    """The key of an IPv4 address differs from the key of every IPv6 network."""
    group = network_grouper(prefix)

    assert group(client) == client
    assert group((client + tail + bytes(16))[:16]) != client


@given(prefix=st.integers(16, 128), address=st.one_of(v4, v6))
def test_format_key_returns_the_network_or_address(
    prefix: int, address: IPv4Address | IPv6Address
) -> None:
    """The key of an IPv6 client is formatted as its network, of IPv4 as its address."""
    client = unwrapped(address)
    network = ipaddress.ip_network((client, prefix if client.version == 6 else 32), strict=False)

    text = format_key(network_grouper(prefix)(client.packed))

    assert text == (str(client) if client.version == 4 else str(network))


@given(key=st.binary(max_size=24).filter(lambda key: len(key) != 4))
@example(b"")
@example(bytes(7) + b"::/@")
@example(bytes(2) + b"::/\x00")
@example(bytes(32) + b"::/\xff")
def test_format_key_of_other_bytes_is_none(key: bytes) -> None:
    """A hash is not formatted as a network."""
    assert format_key(key) is None


@pytest.mark.parametrize("prefix", [15, 129, 64.0, "64", True])
def test_invalid_prefix_is_rejected(prefix: int) -> None:
    """A prefix is an integer from 16 to 128."""
    with pytest.raises(ValueError, match="ipv6_prefix must be an integer from 16 to 128, got"):
        network_grouper(prefix)


def contains(networks: Networks, text: str) -> bool:
    """Return True if the address `text` is in `networks`."""
    return (pack(text) or b"") in networks


def test_networks_contain_their_addresses() -> None:
    """Networks of both families and single addresses can be mixed."""
    networks = Networks(["10.0.0.0/8", "2001:db8::/32", "192.0.2.7", "fe80::1%eth0"])

    inside = ["10.1.2.3", "::ffff:10.1.2.3", "2002:a00:1::1", "192.0.2.7", "2001:db8:1::1"]
    outside = ["11.1.2.3", "192.0.2.8", "2001:db9::1", ""]
    assert [contains(networks, text) for text in [*inside, "fe80::1%eth1"]] == [True] * 6
    assert [contains(networks, text) for text in outside] == [False] * 4
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
def test_embedded_ipv4_network_is_the_ipv4_network(network: str, means: str) -> None:
    """A mapped, NAT64 or 6to4 network contains the embedded IPv4 clients."""
    ipv4_network = ipaddress.ip_network(means)
    networks = Networks([network])

    assert ipv4_network[0].packed in networks
    assert ipv4_network[-1].packed in networks
    if ipv4_network.prefixlen:
        assert IPv4Address(int(ipv4_network[-1]) + 1).packed not in networks
        assert IPv4Address(int(ipv4_network[0]) - 1).packed not in networks


@pytest.mark.parametrize("network", ["::/0", "2000::/3", "2002::/15", "::/80", "64:ff9b::/95"])
@given(client=v4)
def test_wider_ipv6_network_contains_no_ipv4_client(network: str, client: IPv4Address) -> None:
    """An IPv4 client is only in IPv6 networks of embedded IPv4 addresses."""
    networks = Networks([network])
    texts = [f"{client}", f"::ffff:{client}", f"64:ff9b::{client}"]
    site = IPv6Address(0x2002 << 112 | int(client) << 80)

    assert not any(contains(networks, text) for text in [*texts, str(site)])


@given(
    near=st.one_of(v4, v6), prefix=st.integers(0, 128), flipped=st.integers(0, 128), any_=v4 | v6
)
def test_networks_agree_with_the_standard_library(
    near: IPv4Address | IPv6Address, prefix: int, flipped: int, any_: IPv4Address | IPv6Address
) -> None:
    """A network of native addresses contains the same addresses as `ipaddress` states."""
    home = unwrapped(near)
    network = ipaddress.ip_network((home, min(prefix, home.max_prefixlen)), strict=False)
    networks = Networks([str(network)])
    is_embedded = isinstance(network, IPv6Network) and isinstance(
        unwrapped(network.network_address), IPv4Address
    )

    for address in (home, type(home)(int(home) ^ (1 << flipped) % 2**home.max_prefixlen), any_):
        client = unwrapped(address)
        expected = client.version == network.version and client in network
        if not is_embedded:
            assert (client.packed in networks) is expected, (network, address)


@given(near=st.one_of(v4, v6), dice=st.randoms(use_true_random=False))
def test_single_address_contains_all_its_notations(
    near: IPv4Address | IPv6Address, dice: random.Random
) -> None:
    """A single trusted address is trusted in every notation."""
    assert (pack_with_port(random_notation(near, dice)) or b"") in Networks([str(near)])


def test_unix_contains_peers_without_an_address() -> None:
    """The word `unix` and networks of addresses are independent."""
    assert b"" in Networks(["10.0.0.0/8", "unix"])
    assert b"" not in Networks(["0.0.0.0/0", "::/0"])
    assert not contains(Networks(["unix"]), "0.0.0.0")
    assert not contains(Networks(["unix"]), "::")


@pytest.mark.parametrize(
    ("cidrs", "error"),
    [
        (["10.0.0.1/8"], "trusted must be .* networks .* got '10.0.0.1/8' .*host bits set"),
        (["proxy"], "trusted must be addresses or networks .* got 'proxy'"),
        ([10], "trusted must be addresses or networks .* got 10 "),
        ("10.0.0.0/8", "trusted must be a list of networks, .* got '10.0.0.0/8'"),
        ("unix", "trusted must be a list of networks, .* got 'unix'"),
    ],
)
def test_malformed_networks_are_rejected(cidrs: list[str], error: str) -> None:
    """The error states the expected value, the value it got and the reason."""
    with pytest.raises(ValueError, match=error):
        Networks(cidrs)
