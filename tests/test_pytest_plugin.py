"""Plugin of pytest, in this process and as an installed project has it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "testing.md").read_text()
RECIPES = "".join(re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in `folder`, with this package and its entry points installed."""
    entry_points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    installed = folder / "site" / "tokenpulse_mw-0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: tokenpulse-mw\nVersion: 0\n")
    lines = [
        line
        for group, plugins in entry_points.items()
        for line in (f"[{group}]", *(f"{name} = {module}" for name, module in plugins.items()))
    ]
    (installed / "entry_points.txt").write_text("\n".join(lines))
    path = os.pathsep.join([str(installed.parent), str(ROOT)])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["-n", "2"]], ids=["one process", "xdist"])
def test_recipes_of_the_documentation_pass(options: list[str], tmp_path: Path) -> None:
    """A project that has the package installed runs the recipes without any configuration."""
    (tmp_path / "test_gateway.py").write_text(RECIPES)

    run = python(tmp_path, "-m", "pytest", "-W", "error", *options, "test_gateway.py")

    assert run.returncode == 0, run.stdout + run.stderr
    assert f"{RECIPES.count('def test_') + 1} passed" in run.stdout  # one runs on two event loops


@pytest.mark.slow
def test_plugin_imports_no_part_of_the_package(tmp_path: Path) -> None:
    """A project that does not use the fixtures does not pay for them."""
    (tmp_path / "test_other.py").write_text(
        "import sys\n"
        "def test_modules():\n"
        "    ours = {name for name in sys.modules if name.startswith('tokenpulse_mw')}\n"
        "    assert ours == {'tokenpulse_mw', 'tokenpulse_mw.pytest_plugin'}\n"
    )

    run = python(tmp_path, "-m", "pytest", "test_other.py")

    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.slow
def test_package_does_not_import_pytest(tmp_path: Path) -> None:
    """An application does not need pytest, and neither do its tests."""
    run = python(
        tmp_path,
        "-c",
        "import sys; sys.modules['pytest'] = None\n"
        "import tokenpulse_mw, tokenpulse_mw.testing\n"
        "[getattr(tokenpulse_mw, name) for name in tokenpulse_mw.__all__]",
    )

    assert run.returncode == 0, run.stderr


def test_fixture_that_is_not_defined_fails_with_the_fix(request: pytest.FixtureRequest) -> None:
    """A project must define the fixture that returns its TokenPulse."""
    with pytest.raises(pytest.fail.Exception, match=r"must return the TokenPulse .* conftest\.py"):
        request.getfixturevalue("tokenpulse_clock")
