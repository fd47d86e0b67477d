"""``python -m testbed`` and the ``testbed`` command."""

from __future__ import annotations

import errno
import gc
import os
import sys

#: Objects made between two searches for garbage. With Python's 700, a fifth of the time in which torch and transformers
#: are loaded goes into searching what they have just made, all of which stays.
OBJECTS_BETWEEN_SEARCHES = 50_000


def main() -> None:
    """Runs the command line; errors of the caller end it with a message and their exit code."""
    before = gc.get_threshold()
    gc.set_threshold(OBJECTS_BETWEEN_SEARCHES, *before[1:])
    try:
        code = _run()
    except BrokenPipeError:  # `testbed report … | head`: whoever read has had enough
        _silence()
        code = 0
    except KeyboardInterrupt:  # before a command began; commands end by themselves
        code = 130
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _silence()
        print(f"error: the output cannot be written: {error.strerror}.", file=sys.stderr)
        code = 1
    finally:
        gc.set_threshold(*before)
    sys.exit(code)


def _run() -> int | str | None:
    """The exit code; all output is written when it returns."""
    from testbed.cli import app
    from testbed.errors import TestbedError

    code: int | str | None = 0
    try:
        app()
    except TestbedError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):
            raise ended.__context__ from None
        code = ended.code
    if sys.stdout is not None:
        sys.stdout.flush()
    return code


def _silence() -> None:
    """Sends what is still to be written nowhere: else the interpreter would try at exit, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
