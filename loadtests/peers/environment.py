"""Makes the environment of a peer: its own server's packages, over the service's networks.

``python -m loadtests.peers.environment litserve`` (or ``bentoml``, or ``mlserver``). What a peer
needs beside what the service has is pinned in ``NAME.txt`` and put into a virtual environment of
its own, which sees the service's packages behind its own: both then run the same torch and
onnxruntime, and differ in what serves. Nothing of it is a dependency of the service.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("litserve", "bentoml", "mlserver")


def folder_of(name: str) -> Path:
    """Where a peer's environment lies."""
    return ROOT / ".peers" / name


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment."""
    return folder_of(name) / "bin" / "python"


def is_installed(name: str) -> bool:
    """Whether the environment was made to its end."""
    return (folder_of(name) / "made").exists()


def make(name: str) -> None:
    """Make, or make anew, the environment of a peer.

    Raises:
        subprocess.CalledProcessError: pip failed, and has said why.
    """
    folder = folder_of(name)
    venv.create(folder, clear=True, with_pip=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    (packages / "service.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    requirements = Path(__file__).with_name(f"{name}.txt")
    command = [
        str(python_of(name)), "-m", "pip", "install", "--disable-pip-version-check", "--quiet",
        "--no-deps", "--ignore-installed", "-r", str(requirements),
    ]  # fmt: skip
    subprocess.run(command, check=True)  # noqa: S603 - pip, on a file of ours
    (folder / "made").touch()


def main() -> None:
    """Make the environments that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(NAMES), help=", ".join(NAMES))
    for name in parser.parse_args().names:
        make(name)
        print(f"{name}: {folder_of(name)}")


if __name__ == "__main__":
    main()
