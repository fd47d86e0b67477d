"""``python -m testbed`` and the ``testbed`` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line; errors of the caller end it with a message and their exit code."""
    from testbed.cli import app
    from testbed.errors import TestbedError

    try:
        app()
    except TestbedError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `testbed report … | head`
        sys.stderr.close()
        sys.exit(0)


if __name__ == "__main__":
    main()
