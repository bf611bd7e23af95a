"""The walls of the house: which part may import which."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tokenpulse_mw

PACKAGE = Path(tokenpulse_mw.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

FEATURES = {"ratelimit", "metrics", "alerts", "health", "logs"}
ALONE = {"config", "lifespan", "outages", "secret", "validation"}  # they import no feature
ALLOWED = {
    "usage": set[str](),
    "exchange": {"usage", "outages"},
    **{
        feature: {"exchange", "usage", "web", "lifespan", "outages", "secret", "validation"}
        for feature in FEATURES
    },
    **{module: set[str]() for module in ALONE},
    "config": {"secret", "validation"},
    "web": {"outages", "secret"},
    "stack": FEATURES | ALONE | {"exchange", "web"},
    "monitoring": set[str](),  # files for other programs
    "check": set[str](),  # it sends requests to a gateway
    "demo": {"__init__"},  # it is a user of the library, and has only its public names
    "cli": {"__init__", "check", "demo", "monitoring"},
    "__main__": {"cli"},
    "__init__": FEATURES | ALONE | {"exchange", "usage", "stack", "web"},
}


def place(module: Path) -> tuple[str, ...]:
    """A module's name in parts, below the package."""
    return module.relative_to(PACKAGE).with_suffix("").parts


def room(module: Path) -> str:
    """The top-level folder or module that `module` belongs to."""
    return place(module)[0]


def imports(module: Path) -> Iterator[tuple[str, ...]]:
    """What `module` imports of ours, in parts below the package."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = place(module)[: -node.level]
            target = (*base, *(node.module.split(".") if node.module else ())) or ("__init__",)
            for alias in node.names:
                yield (*target, alias.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None), *(alias.name for alias in node.names)]
            assert "tokenpulse_mw" not in names, f"{module} imports ours by its full name"


@pytest.mark.parametrize("module", MODULES, ids=lambda module: "/".join(place(module)))
def test_a_part_imports_only_what_it_may(module: Path) -> None:
    """No feature knows another; what they share is the exchange; only the stack knows all."""
    for target in imports(module):
        assert target[0] == room(module) or target[0] in ALLOWED[room(module)], target


@pytest.mark.parametrize("module", MODULES, ids=lambda module: "/".join(place(module)))
def test_no_import_hides_from_these_walls(module: Path) -> None:
    """An import for types alone is an import as well."""
    assert "TYPE_CHECKING" not in module.read_text()


@pytest.mark.slow
def test_no_import_circle() -> None:
    """Every module can be understood from those below it."""
    names = {place(module): module for module in MODULES}

    def below(name: tuple[str, ...]) -> set[tuple[str, ...]]:
        found: set[tuple[str, ...]] = set()
        for target in imports(names[name]):
            parent = target[:-1]
            candidates = (target, parent, (*target, "__init__"), (*parent, "__init__"))
            found.update([each for each in candidates if each in names and each != name][:1])
        return found

    done: set[tuple[str, ...]] = set()

    def visit(name: tuple[str, ...], path: tuple[tuple[str, ...], ...]) -> None:
        assert name not in path, " -> ".join("/".join(each) for each in (*path, name))
        if name not in done:
            for each in below(name):
                visit(each, (*path, name))
            done.add(name)

    for name in names:
        visit(name, ())
    assert len(done) == len(MODULES)


def test_public_names_exist_and_have_docstrings() -> None:
    """Each name of `__all__` can be imported."""
    for name in tokenpulse_mw.__all__:
        assert getattr(tokenpulse_mw, name).__doc__, name
    assert set(tokenpulse_mw.__all__) < set(dir(tokenpulse_mw))
    with pytest.raises(AttributeError, match="has no attribute 'Limitter'"):
        tokenpulse_mw.Limitter  # type: ignore[attr-defined]  # noqa: B018


def test_types_of_the_public_names_are_complete() -> None:
    """The stub has each public name, from the module that it is imported from."""
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    typed = {
        alias.name: node.module
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert typed == tokenpulse_mw._MODULES  # type: ignore[attr-defined]
