"""What is built and shipped: a wheel with the profiles, the types and the licence inside, which works where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
UV = os.environ.get("UV") or shutil.which("uv")

pytestmark = pytest.mark.skipif(UV is None, reason="uv builds and installs the wheel")


def uv(*arguments: str | Path) -> None:
    """Run uv without a network: build and install with what is here."""
    command = [str(UV), "--offline", "--no-progress", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel was installed, without what it depends on."""
    folder = tmp_path_factory.mktemp("site")
    uv("pip", "install", "--no-deps", "--python", sys.executable, "--target", folder, next(built.glob("*.whl")))
    return folder


def test_the_wheel_holds_the_package_its_profiles_and_its_licence(built: Path) -> None:
    names = set(zipfile.ZipFile(next(built.glob("*.whl"))).namelist())
    profiles = {f"neurodeploy/hardware_profiles/{path.name}" for path in (ROOT / "hardware_profiles").glob("*.yaml")}
    profiles.add("neurodeploy/hardware_profiles/schema.json")
    assert len(profiles) >= 12
    profiles |= {f"neurodeploy/report/templates/page.{kind}" for kind in ("html.j2", "css", "js")}
    licence = "neurodeploy_snn-0.1.0.dist-info/licenses/LICENSE"
    assert profiles | {"neurodeploy/py.typed", "neurodeploy/__main__.py", licence} <= names
    assert not any(name.startswith(("tests/", "benchmarks/", "notebooks/", "hardware_profiles/")) for name in names)


def test_the_sdist_holds_what_is_needed_to_build_and_test(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert "hardware_profiles/schema.json" in names
    assert {"pyproject.toml", "LICENSE", "README.md", "hardware_profiles/loihi1.yaml", "tests/conftest.py"} <= names
    assert not any(name.startswith((".git/", ".venv/", ".ci/", "uv.lock")) for name in names)


def test_an_installed_wheel_finds_its_own_profiles(installed: Path, tmp_path: Path) -> None:
    program = (
        "import neurodeploy.hardware.loading as h; print(h.__file__); "
        "print(h.load_profile('loihi2').cores, *h.profile_paths().values())"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    module, found = done.stdout.splitlines()
    assert module == str(installed / "neurodeploy" / "hardware" / "loading.py")
    cores, *paths = found.split()
    assert cores == "128"
    assert {Path(path).parent for path in paths} == {installed / "neurodeploy" / "hardware_profiles"}


def test_an_installed_wheel_brings_its_command(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, installed / "bin" / "neurodeploy", "profiles"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "loihi2" in done.stdout
