"""Wheel and sdist: complete, described, and usable in a fresh virtual environment."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from tests.packaging.commands import output

MEGABYTE = 1_000_000


@pytest.mark.slow
def test_the_descriptions_are_valid(distributions: Path) -> None:
    files = sorted(distributions.iterdir())
    assert [file.suffix for file in files] == [".whl", ".gz"]
    output(sys.executable, "-m", "twine", "check", "--strict", *files, cwd=distributions)


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package_and_no_other(distributions: Path, source: Path) -> None:
    """Recipes, published tables and templates included."""
    (wheel,) = distributions.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = source / "src" / "segdistill"
    expected = {f"segdistill/{file.relative_to(package).as_posix()}" for file in package.rglob("*.*")}
    assert names == expected
    assert any(name.endswith(".yaml") for name in names)


@pytest.mark.slow
def test_the_sdist_can_be_tested(distributions: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for name in (
        "LICENSE",
        "CHANGELOG.md",
        "CITATION.cff",
        "constraints.txt",
        "Makefile",
        "tests/conftest.py",
        "tests/packaging/test_build.py",
        "docs/get-started.md",
        "benchmarks/common.py",
    ):
        assert name in names, name
    assert not [name for name in names if name.startswith((".git/", "build/")) or "__pycache__" in name]


@pytest.mark.slow
def test_the_base_starts_and_has_no_torch(base: Path, tmp_path: Path) -> None:
    import segdistill

    version = output(base / "segdistill", "--version", cwd=tmp_path)
    assert segdistill.__version__ in version
    assert "lightbtseg/busi" in output(base / "segdistill", "list", "recipes", cwd=tmp_path)
    code = (
        "import importlib.util, segdistill; from importlib.metadata import version;"
        "assert importlib.util.find_spec('torch') is None;"
        "assert version('segdistill') == segdistill.__version__; print(segdistill.__file__)"
    )
    assert str(base.parent) in output(base / "python", "-c", code, cwd=tmp_path)


@pytest.mark.slow
def test_the_base_is_small(base: Path) -> None:
    """At most 250 MB, without what every venv has: pip and setuptools."""
    packages = Path(
        output(base / "python", "-c", "import numpy; print(numpy.__path__[0])", cwd=base).strip()
    ).parent
    size = sum(
        file.stat().st_size
        for file in packages.rglob("*")
        if file.is_file()
        and file.suffix != ".pyc"
        and file.relative_to(packages).parts[0] not in ("pip", "setuptools", "pkg_resources")
    )
    assert size <= 250 * MEGABYTE, f"{size / MEGABYTE:.0f} MB"
