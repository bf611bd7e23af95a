"""What proxies say, read from the nearest to the farthest."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.ratelimit.keys.address import Networks, pack
from tokenpulse_mw.ratelimit.keys.forwarded import (
    client_behind,
    parse_address_list,
    parse_forwarded,
    parser_for,
)

# What a header can be made of that might mislead who reads it.
shards = st.sampled_from(
    [*'",;\\=:[] \t?', "for", "For=", "for=6.6.6.6", 'for="', '="', "[::1]", "10.0.0.9", "6.6.6.6"]
)
evil = st.binary(max_size=60) | st.lists(shards, max_size=40).map(
    lambda all_: "".join(all_).encode()
)


def told(hops: Iterator[bytes | None]) -> list[bytes | None]:
    """All hops, in the order in which they are read."""
    return list(hops)


def packed(*addresses: str) -> list[bytes | None]:
    """The same addresses as bytes."""
    return [pack(address) for address in addresses]


@pytest.mark.parametrize(
    ("lines", "hops"),
    [
        (["192.0.2.1"], ["192.0.2.1"]),
        (["192.0.2.1, 10.0.0.2"], ["10.0.0.2", "192.0.2.1"]),
        (["192.0.2.1", "10.0.0.2"], ["10.0.0.2", "192.0.2.1"]),
        (
            ["192.0.2.1:80,[2001:db8::1]:443 , 2001:db8::2"],
            ["2001:db8::2", "2001:db8::1", "192.0.2.1"],
        ),
        ([" , 192.0.2.1,\t,", ""], ["192.0.2.1"]),
        (["192.0.2.1, unknown"], ["-", "192.0.2.1"]),
        (['"192.0.2.1"'], ["-"]),
        ([""], []),
        ([], []),
    ],
)
def test_a_list_is_read_from_right_to_left(lines: list[str], hops: list[str]) -> None:
    """Lines are one list, empty elements are nothing, and garbage is told as such."""
    assert told(parse_address_list([line.encode() for line in lines])) == packed(*hops)


@pytest.mark.parametrize(
    ("element", "hop"),
    [
        ("for=192.0.2.43", "192.0.2.43"),
        ("For=192.0.2.43", "192.0.2.43"),
        (" FOR = 192.0.2.43 ", "192.0.2.43"),
        ("for=192.0.2.43:47011", "192.0.2.43"),
        ('for="192.0.2.43:47011"', "192.0.2.43"),
        ('for="192.0.2.43:_port"', "192.0.2.43"),
        ('for="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::17"),
        ('for="[2001:db8:cafe::17]"', "2001:db8:cafe::17"),
        ("for=[2001:db8:cafe::17]:4711", "2001:db8:cafe::17"),
        ("for=2001:db8:cafe::17", "2001:db8:cafe::17"),
        ('for="\\1\\9\\2.0.2.43"', "192.0.2.43"),
        ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
        ("proto=http; by=203.0.113.43 ;for=192.0.2.60;", "192.0.2.60"),
        (";;for=192.0.2.60;;host=", "192.0.2.60"),
        ('host="a,b;for=6.6.6.6";for=192.0.2.60', "192.0.2.60"),
        ('for=192.0.2.60;host="a\\",for=6.6.6.6,\\""', "192.0.2.60"),
        ('for=192.0.2.60;host="\\\\"', "192.0.2.60"),
        ("proto=https", "-"),
        ("for=unknown", "-"),
        ("for=_hidden", "-"),
        ("for=_hidden:_port", "-"),
        ('for="_SEVKISEK"', "-"),
        ("for=", "-"),
        ("for", "-"),
        ('for=""', "-"),
        ("192.0.2.43", "-"),
        ("for=192.0.2.1;for=192.0.2.2", "-"),
        ("for=192.0.2.1;For=192.0.2.1", "-"),
        ('for="192.0.2.1', "-"),
        ('for=192.0.2.1"', "-"),
        ('"for=192.0.2.1', "-"),
        ('for="192.0.2.1\\"', "-"),
        ('for=192.0.2.1;host="a"b', "-"),
        ('for=192.0.2.1;host=a"b"', "-"),
        ("for=192.0.2.1" + ";a=1" * 500, "-"),
    ],
)
def test_an_element_of_forwarded_tells_one_address(element: str, hop: str) -> None:
    """In every form of RFC 7239, and some that are about; what is not clear tells nothing."""
    assert told(parse_forwarded([element.encode()])) == packed(hop)


@pytest.mark.parametrize(
    ("lines", "hops"),
    [
        (["for=192.0.2.1, for=10.0.0.2"], ["10.0.0.2", "192.0.2.1"]),
        (["for=192.0.2.1,, ,", "for=10.0.0.2", ""], ["10.0.0.2", "192.0.2.1"]),
        (['for=192.0.2.1, for="_a,b";x="\\\\\\",", for=10.0.0.2'], ["10.0.0.2", "-", "192.0.2.1"]),
        (['for="6.6.6.6, for=192.0.2.1'], ["192.0.2.1", "-"]),
        (['x=", for=192.0.2.1, for="[::1]"'], ["::1", "192.0.2.1", "-"]),
        ([""], []),
        ([], []),
    ],
)
def test_forwarded_is_read_from_right_to_left(lines: list[str], hops: list[str]) -> None:
    """A comma in quotes parts nothing; a quote left open spoils only what is left of it."""
    assert told(parse_forwarded([line.encode() for line in lines])) == packed(*hops)


@pytest.mark.parametrize(
    ("header", "element"), [("x-forwarded-for", b"10.0.0.2"), ("forwarded", b"for=10.0.0.2")]
)
def test_work_is_bounded(header: str, element: bytes) -> None:
    """No more than 16 hops and 4,096 characters are looked at, however much there is."""
    read = parser_for(header)

    assert told(read([element] * 100)) == packed(*["10.0.0.2"] * 16)
    assert told(read([element + b"," + b" " * 5000])) == packed("-")
    assert told(read([element + b" " * 5000])) == packed("-")
    assert told(read([element, b" " * (4095 - len(element))])) == packed("10.0.0.2")


@pytest.mark.parametrize(
    ("header", "element"), [("x-forwarded-for", b"10.0.0.2"), ("forwarded", b"for=10.0.0.2")]
)
@pytest.mark.parametrize("cut", range(1, 8))
def test_an_address_that_is_cut_is_no_other_address(header: str, element: bytes, cut: int) -> None:
    """The end of "210.0.0.2" is not "10.0.0.2": an element that is not whole tells nothing."""
    line = element + b"," + element.rjust(4096 + cut - len(element) - 1)

    assert told(parser_for(header)([line])) == packed("10.0.0.2", "-")


@pytest.mark.parametrize("shard", [";", '"', '";', ",", "\\", '\\"', '"",', "for=1;", "=", '="'])
@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded"])
def test_what_is_all_of_one_kind_is_read_too(header: str, shard: str) -> None:
    """The worst that can be sent is garbage like any other."""
    hops = told(parser_for(header)([shard.encode() * 5000]))

    assert set(hops) <= {None}


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "x-real-ip"])
@given(lines=st.lists(evil, max_size=4))
def test_nothing_raises(header: str, lines: list[bytes]) -> None:
    """Whatever the bytes, each hop is an address or None, and there are 16 at most."""
    hops = told(parser_for(header)(lines))

    assert len(hops) <= 16
    assert {0 if hop is None else len(hop) for hop in hops} <= {0, 4, 16}


@given(left=evil, host=st.text(max_size=30), client=st.ip_addresses(), quoted=st.booleans())
def test_what_stands_left_of_an_element_does_not_change_it(
    left: bytes, host: str, client: object, quoted: bool
) -> None:
    """Also where that element quotes what the client says its host is."""
    address = f'"[{client}]:1"' if quoted or ":" in str(client) else str(client)
    escaped = host.replace("\\", "\\\\").replace('"', '\\"')
    element = f'for={address};host="{escaped}";proto=https'.encode("utf-8", "surrogatepass")

    assert next(parse_forwarded([left + b", " + element])) == pack(str(client))
    assert next(parse_forwarded([left, element])) == pack(str(client))


@pytest.mark.parametrize(
    ("hops", "found"),
    [
        ([], "10.0.0.1"),
        (["10.0.0.2"], "10.0.0.2"),
        (["10.0.0.2", "192.0.2.1", "6.6.6.6"], "192.0.2.1"),
        (["10.0.0.2", "-", "192.0.2.1"], "10.0.0.2"),
        (["-", "192.0.2.1"], "10.0.0.1"),
    ],
)
def test_the_client_is_the_nearest_that_is_no_proxy(hops: list[str], found: str) -> None:
    """Where a proxy says nothing of use, it is the last that is known."""
    proxies, peer = Networks(["10.0.0.0/8"]), bytes([10, 0, 0, 1])

    assert client_behind(peer, packed(*hops), proxies) == pack(found)


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded"])
def test_nothing_is_read_beyond_the_client(header: str) -> None:
    """Hops are read one by one, as far as they are asked for."""
    said = {"x-forwarded-for": b"6.6.6.6, 192.0.2.1", "forwarded": b"for=6.6.6.6, for=192.0.2.1"}
    hops = parser_for(header)([said[header]])

    assert client_behind(bytes([10, 0, 0, 1]), hops, Networks(["10.0.0.0/8"])) == pack("192.0.2.1")
    assert told(hops) == packed("6.6.6.6")
