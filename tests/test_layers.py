"""Layers: the imports that each part of the package may have."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import tokenpulse_mw

PACKAGE = Path(tokenpulse_mw.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

FEATURES = {"ratelimit", "metrics", "alerts", "dashboard", "health", "logs"}
ALONE = {"config", "filesystem", "lifespan", "outages", "secret", "validation"}  # import no feature
ALLOWED = {
    "usage": set[str](),
    "exchange": {"usage", "outages", "validation"},
    **{feature: {"exchange", "usage", "web"} | (ALONE - {"config"}) for feature in FEATURES},
    **{module: set[str]() for module in ALONE},
    "config": {"secret", "validation"},
    "web": {"outages", "secret"},
    "stack": FEATURES | ALONE | {"exchange", "usage", "web"},
    "monitoring": set[str](),  # files for other programs
    "check": set[str](),  # sends requests to a gateway
    "demo": {"__init__"},  # uses only public names
    "cli": {"__init__", "check", "demo", "monitoring", "stack"},
    "testing": {"stack", "validation"},
    "pytest_plugin": {"testing"},
    "__main__": {"cli"},
    "__init__": FEATURES | ALONE | {"exchange", "usage", "stack", "web"},
}


def parts_of(module: Path) -> tuple[str, ...]:
    """Return the path of a module below the package, in parts."""
    return module.relative_to(PACKAGE).with_suffix("").parts


def layer_of(module: Path) -> str:
    """Return the top-level folder or module that `module` belongs to."""
    return parts_of(module)[0]


def imports(module: Path) -> Iterator[tuple[str, ...]]:
    """Yield the names that `module` imports from the package, in parts."""
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parts_of(module)[: -node.level]
            target = (*base, *(node.module.split(".") if node.module else ())) or ("__init__",)
            for alias in node.names:
                yield (*target, alias.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None), *(alias.name for alias in node.names)]
            assert "tokenpulse_mw" not in names, f"{module}: use a relative import"


@pytest.mark.parametrize("module", MODULES, ids=lambda module: "/".join(parts_of(module)))
def test_module_imports_only_allowed_layers(module: Path) -> None:
    """Features share the exchange and do not import each other; only the stack imports all."""
    for target in imports(module):
        assert target[0] == layer_of(module) or target[0] in ALLOWED[layer_of(module)], target


@pytest.mark.parametrize("module", MODULES, ids=lambda module: "/".join(parts_of(module)))
def test_module_has_no_imports_for_types_only(module: Path) -> None:
    """`TYPE_CHECKING` is not used, since imports for types are dependencies, too."""
    assert "TYPE_CHECKING" not in module.read_text()


@pytest.mark.slow
def test_imports_have_no_cycle() -> None:
    """No module imports itself through other modules."""
    names = {parts_of(module): module for module in MODULES}

    def imports_of(name: tuple[str, ...]) -> set[tuple[str, ...]]:
        imported: set[tuple[str, ...]] = set()
        for target in imports(names[name]):
            parent = target[:-1]
            candidates = (target, parent, (*target, "__init__"), (*parent, "__init__"))
            own = [module for module in candidates if module in names and module != name]
            imported.update(own[:1])
        return imported

    visited: set[tuple[str, ...]] = set()

    def visit(name: tuple[str, ...], path: tuple[tuple[str, ...], ...]) -> None:
        assert name not in path, " -> ".join("/".join(module) for module in (*path, name))
        if name not in visited:
            for module in imports_of(name):
                visit(module, (*path, name))
            visited.add(name)

    for name in names:
        visit(name, ())
    assert len(visited) == len(MODULES)


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
