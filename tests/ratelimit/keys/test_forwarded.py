"""Parsers of the headers in which proxies report the client."""

from __future__ import annotations

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

# Parts of headers that might mislead a parser.
shards = st.sampled_from(
    [*'",;\\=:[] \t?', "for", "For=", "for=6.6.6.6", 'for="', '="', "[::1]", "10.0.0.9", "6.6.6.6"]
)
evil = st.binary(max_size=60) | st.lists(shards, max_size=40).map(
    lambda parts: "".join(parts).encode()
)


def packed(*addresses: str) -> list[bytes | None]:
    """Return the packed addresses."""
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
def test_address_list_is_parsed_from_right_to_left(lines: list[str], hops: list[str]) -> None:
    """Lines are joined, empty elements are ignored, and invalid elements are None."""
    assert list(parse_address_list([line.encode() for line in lines])) == packed(*hops)


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
def test_element_of_forwarded_has_one_address_or_none(element: str, hop: str) -> None:
    """All forms of RFC 7239 and common deviations are parsed; ambiguous elements are None."""
    assert list(parse_forwarded([element.encode()])) == packed(hop)


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
def test_forwarded_is_parsed_from_right_to_left(lines: list[str], hops: list[str]) -> None:
    """A quoted comma does not separate; a stray quote invalidates only elements left of it."""
    assert list(parse_forwarded([line.encode() for line in lines])) == packed(*hops)


@pytest.mark.parametrize(
    ("header", "element"), [("x-forwarded-for", b"10.0.0.2"), ("forwarded", b"for=10.0.0.2")]
)
def test_hops_and_bytes_are_bounded(header: str, element: bytes) -> None:
    """At most 16 hops and 4,096 bytes are parsed."""
    parse = parser_for(header)

    assert list(parse([element] * 100)) == packed(*["10.0.0.2"] * 16)
    assert list(parse([element + b"," + b" " * 5000])) == packed("-")
    assert list(parse([element + b" " * 5000])) == packed("-")
    assert list(parse([element, b" " * (4095 - len(element))])) == packed("10.0.0.2")


@pytest.mark.parametrize(
    ("header", "element"), [("x-forwarded-for", b"10.0.0.2"), ("forwarded", b"for=10.0.0.2")]
)
@pytest.mark.parametrize("cut", range(1, 8))
def test_truncated_element_is_none(header: str, element: bytes, cut: int) -> None:
    """The end of "210.0.0.2" must not be parsed as "10.0.0.2"."""
    line = element + b"," + element.rjust(4096 + cut - len(element) - 1)

    assert list(parser_for(header)([line])) == packed("10.0.0.2", "-")


@pytest.mark.parametrize("shard", [";", '"', '";', ",", "\\", '\\"', '"",', "for=1;", "=", '="'])
@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded"])
def test_repeated_separators_have_no_address(header: str, shard: str) -> None:
    """Long sequences of separators and quotes result in None only."""
    hops = list(parser_for(header)([shard.encode() * 5000]))

    assert set(hops) <= {None}


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "x-real-ip"])
@given(lines=st.lists(evil, max_size=4))
def test_any_bytes_are_at_most_16_hops(header: str, lines: list[bytes]) -> None:
    """Each hop is an address or None."""
    hops = list(parser_for(header)(lines))

    assert len(hops) <= 16
    assert {0 if hop is None else len(hop) for hop in hops} <= {0, 4, 16}


@given(left=evil, host=st.text(max_size=30), client=st.ip_addresses(), quoted=st.booleans())
def test_content_left_of_an_element_does_not_change_it(
    left: bytes, host: str, client: object, quoted: bool
) -> None:
    """This holds also for an element that quotes the client's `Host`."""
    address = f'"[{client}]:1"' if quoted or ":" in str(client) else str(client)
    escaped = host.replace("\\", "\\\\").replace('"', '\\"')
    element = f'for={address};host="{escaped}";proto=https'.encode("utf-8", "surrogatepass")

    assert next(parse_forwarded([left + b", " + element])) == pack(str(client))
    assert next(parse_forwarded([left, element])) == pack(str(client))


@pytest.mark.parametrize(
    ("hops", "client"),
    [
        ([], "10.0.0.1"),
        (["10.0.0.2"], "10.0.0.2"),
        (["10.0.0.2", "192.0.2.1", "6.6.6.6"], "192.0.2.1"),
        (["10.0.0.2", "-", "192.0.2.1"], "10.0.0.2"),
        (["-", "192.0.2.1"], "10.0.0.1"),
    ],
)
def test_client_is_the_nearest_address_that_is_not_a_proxy(hops: list[str], client: str) -> None:
    """If a proxy reports no address, the client is the last known address."""
    proxies, peer = Networks(["10.0.0.0/8"]), bytes([10, 0, 0, 1])

    assert client_behind(peer, packed(*hops), proxies) == pack(client)


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded"])
def test_hops_beyond_the_client_are_not_parsed(header: str) -> None:
    """Parsers are generators, consumed only up to the client."""
    lines = {"x-forwarded-for": b"6.6.6.6, 192.0.2.1", "forwarded": b"for=6.6.6.6, for=192.0.2.1"}
    hops = parser_for(header)([lines[header]])

    assert client_behind(bytes([10, 0, 0, 1]), hops, Networks(["10.0.0.0/8"])) == pack("192.0.2.1")
    assert list(hops) == packed("6.6.6.6")
