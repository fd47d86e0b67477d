"""Builds the sandbox's image from the Python that runs this, and prints its name, whose tag is its digest.

    python scripts/sandbox_image.py [--package numpy --package sympy] [--tar FILE | --list]

Without an option it goes to the docker engine (DOCKER_HOST, else the default socket), which then need not be given it
at the first use. The same Python, libraries and packages give the same digest on every machine. Older images are listed
by `docker image ls capability-testbed/python`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from testbed.errors import TestbedError
from testbed.sandbox import image
from testbed.sandbox.docker_engine import Engine
from testbed.sandbox.root import PythonRoot, python_root


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--package", action="append", default=[], metavar="NAME", help="show an installed package too")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--tar", type=Path, metavar="FILE", help="write a tar for `docker import` instead")
    where.add_argument("--list", action="store_true", help="print what is in it instead")
    options = parser.parse_args()
    try:
        deliver(python_root(tuple(options.package)), options)
    except TestbedError as error:
        print(f"sandbox_image: {error}", file=sys.stderr)
        return 2
    return 0


def deliver(root: PythonRoot, options: argparse.Namespace) -> None:
    if options.list:
        for entry in image.entries(root):
            print(f"{entry.kind:6} {entry.inside}{f' -> {entry.target}' if entry.target else ''}")
        return
    if options.tar:
        with options.tar.open("wb") as file:
            image.write_tar(root, file)
    else:
        Engine(root).connect()
    print(image.tag(root))


if __name__ == "__main__":
    sys.exit(main())
