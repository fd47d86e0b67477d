"""``python -m testbed`` and the ``testbed`` command."""

from __future__ import annotations

import atexit
import errno
import gc
import os
import sys
from typing import NoReturn

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
        code = _told(error)
    finally:
        gc.set_threshold(*before)
    _leave(code)


def _leave(code: int | str | None) -> NoReturn:
    """Ends the process, also where an agent or a tool left behind what does not end."""
    threads = sys.modules.get("testbed.threads")
    if threads is None or not threads.left_behind():
        sys.exit(code)
    if isinstance(code, str):
        print(code, file=sys.stderr)
    atexit._run_exitfuncs()  # as the interpreter would, which first waits for all threads
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _run() -> int | str | None:
    """The exit code; all output is written when it returns."""
    from testbed.cli import app
    from testbed.errors import TestbedError

    code: int | str | None = 0
    try:
        app()
    except TestbedError as error:
        from testbed.report.unseen import visible  # a server, a file or a model may have had a say in it

        print(f"error: {visible(str(error))}", file=sys.stderr)
        code = error.exit_code
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):
            raise ended.__context__ from None
        code = ended.code
    if sys.stdout is not None:
        sys.stdout.flush()
    return code


def _told(error: OSError) -> int:
    """Tells what is no bug of ours, and its exit code; raises all else."""
    if error.errno == errno.ENAMETOOLONG:  # of a store, an experiment or a file: nobody looks at one before it is used
        from testbed.report.unseen import visible

        told = visible(repr(error.filename))
        print(f"error: the name {told} is too long for a file; give a shorter one.", file=sys.stderr)
        return 2
    if error.errno != errno.ENOSPC:
        raise error
    _silence()
    print(f"error: the output cannot be written: {error.strerror}.", file=sys.stderr)
    return 1


def _silence() -> None:
    """Sends what is still to be written nowhere: else the interpreter would try at exit, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
