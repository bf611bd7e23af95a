"""Kinds of keys: the words for them, and key functions whose keys are not secret."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from fastapi import Depends
from starlette.types import Scope

from tokenpulse_mw import Settings, TokenPulse, keys
from tokenpulse_mw.ratelimit.key_kinds import kind_of


def get_tenant() -> str:
    """Return a tenant, as a dependency."""
    return "acme"


class Reader:
    """Key function that is an object."""

    def __call__(self, scope: Scope) -> str:
        """Return a key."""
        return "key"


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (keys.client_address(), "client address"),
        (keys.client_address(trusted=["10.0.0.0/8"]), "client address"),
        (keys.header("X-API-Key"), "header x-api-key"),
        (keys.annotation("tenant"), "annotation tenant"),
        (keys.annotation("api_key"), "annotation api_key"),
        (keys.route(), "route"),
        (keys.model(), "model"),
        (keys.combine(keys.route(), keys.model()), "route, model"),
        (keys.readable(lambda scope: "a", name="project"), "project"),
        (keys.readable(lambda scope: "a"), "function"),
        (keys.combine(keys.route(), Reader()), "route, Reader"),
        (get_tenant, "get_tenant"),
        (Reader(), "Reader"),
        (lambda scope: "a", "function"),
    ],
    ids=range(14),
)
def test_kind_of_a_key_has_words(function: Any, text: str) -> None:
    """A function of the application has its name."""
    assert kind_of(function).text == text


def test_key_of_a_peer_without_an_address_has_a_label() -> None:
    """A unix socket has no address; bytes that are no address may be secret."""
    label = kind_of(keys.client_address()).label

    assert label("", lambda tenant: None) == "no address"
    assert label(b"\x01\x02", lambda tenant: None) == "client address …00bd"


@pytest.mark.parametrize(
    ("dependency", "text", "label"),
    [
        (get_tenant, "get_tenant", "get_tenant …"),
        (keys.readable(partial(get_tenant), name="project"), "project", "acme"),
    ],
)
def test_kind_of_a_limit_at_a_route_is_that_of_its_dependency(
    dependency: Any, text: str, label: str
) -> None:
    """The keys of a dependency are secret unless it is marked."""
    pulse = TokenPulse(settings=Settings(limit="9/minute"))
    kind = kind_of(pulse.limit("5/minute", key=Depends(dependency)).policy.key)

    assert kind.text == text
    assert kind.label("acme", lambda tenant: None).startswith(label)


def test_kind_of_a_limit_at_a_route_is_that_of_its_key() -> None:
    """The client's address is the default."""
    pulse = TokenPulse(settings=Settings(limit="9/minute"))

    limits = [pulse.limit("5/minute"), pulse.limit("6/minute", key=keys.header("x-api-key"))]

    texts = [kind_of(limit.policy.key).text for limit in limits]
    assert texts == ["client address", "header x-api-key"]


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("tenant", "function must be callable, got 'tenant'"),
        ("".join, "function must be a plain function, got .*: mark a function that calls it"),
    ],
)
def test_only_a_function_can_be_marked(function: Any, error: str) -> None:
    """The error says what to mark instead."""
    with pytest.raises(ValueError, match=error):
        keys.readable(function)
