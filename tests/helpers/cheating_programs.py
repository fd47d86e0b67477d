"""Programs that want to pass hidden tests without being right, and the tests. Nobody can guess what these expect."""

from __future__ import annotations

from testbed.sandbox.grade import Tests

HIDDEN = Tests(
    """
    EXPECTED = {3: 'quetzal-58301', 4: 'okapi-90417'}
    def check(f):
        assert f(3) == 'quetzal-58301'
        assert f(4) == EXPECTED[4]
    """.replace("\n    ", "\n"),
    setup="SPARE = 'quetzal-58301'",
    entry_point="f",
)
RIGHT = "def f(x):\n    return {3: 'quetzal-58301', 4: 'okapi-90417'}[x]"


ATTACKS = {
    "empty": "",
    "no function of that name": "def g(x): return 'quetzal-58301'",
    "exit at import": "import os\nos._exit(0)",
    "exit in the function": "import os\ndef f(x): os._exit(0)",
    "sys.exit at import": "import sys\nsys.exit(0)",
    "sys.exit in the function": "import sys\ndef f(x): sys.exit(0)",
    "sys.exit with words": "import sys\ndef f(x): sys.exit('+')",
    "exit at the end": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): raise SystemExit",
    "killed by itself": "import os\ndef f(x): os.kill(os.getpid(), 9)",
    "prints passed": "print('passed')\nprint('+')\ndef f(x):\n    print('passed\\n+\\n')\n    return 'passed'",
    "prints passed and leaves": "import os\ndef f(x):\n    print('\\n+\\npassed', flush=True)\n    os._exit(0)",
    "prints a verdict by the nonce": """
        import os, sys
        def nonces():
            frame = sys._getframe()
            while frame:
                for constant in frame.f_code.co_consts:
                    if isinstance(constant, str) and len(constant) == 32:
                        yield constant
                frame = frame.f_back
        def f(x):
            for nonce in nonces():
                os.write(1, f"\\n{nonce} +\\n{nonce} +passed\\n".encode())
            os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
        """,
    "answers true by the nonce": """
        import os, sys
        def f(x):
            frame = sys._getframe()
            while frame:
                for constant in frame.f_code.co_consts:
                    if isinstance(constant, str) and len(constant) == 32:
                        os.write(1, f'\\n{constant} ["tuple","value",true]\\n'.encode())
                frame = frame.f_back
            os._exit(0)
        """,
    "answers everything with true": """
        import sys
        import __main__
        __main__.Program.serve = lambda self, question: '["tuple","value",true]'
        def f(x): return True
        """,
    "answers with a verdict": """
        import __main__
        __main__.Program.serve = lambda self, question: '+'
        def f(x): return True
        """,
    "answers with the answer to another question": """
        import __main__
        serve, seen = __main__.Program.serve, []
        def replay(self, question):
            seen.append(serve(self, question))
            return seen[0]
        __main__.Program.serve = replay
        def f(x): return f
        """,
    "answers with the question": """
        import __main__
        __main__.Program.serve = lambda self, question: question
        def f(x): return f
        """,
    "answers with objects that nobody sent": """
        import __main__
        __main__.Program.serve = lambda self, question: '["tuple","value",["Remote",12345]]'
        def f(x): return f
        """,
    "a name for everything": """
        import __main__
        def f(*args): return True
        more = ("EXPECTED", "SPARE", "check", "all", "AssertionError", "__builtins__")
        __main__.Program._names = lambda self, *names: dict.fromkeys((*names, *more), f)
        """,
    "defines check": "def check(f): pass\ndef f(x): return None",
    "defines the names of the tests": "SPARE = EXPECTED = {}\ncheck = examination = None\ndef f(x): return SPARE",
    "always equal": """
        class Yes:
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            def __hash__(self): return hash('quetzal-58301')
            def __bool__(self): return True
            def __contains__(self, other): return True
            __lt__ = __le__ = __gt__ = __ge__ = __req__ = __eq__
        def f(x): return Yes()
        """,
    "always equal int": "class I(int):\n    __eq__ = lambda *_: True\n    __hash__ = None\ndef f(x): return I(1)",
    "always equal str": "class S(str):\n    __eq__ = lambda *_: True\n    __hash__ = None\ndef f(x): return S('a')",
    "always equal list": "class L(list):\n    __eq__ = lambda *_: True\ndef f(x): return L()",
    "always equal by its metaclass": """
        class Meta(type):
            def __eq__(cls, other): return True
            __hash__ = type.__hash__
        class f(metaclass=Meta):
            def __new__(cls, x): return cls
        """,
    "claims the class of a text": """
        class Yes:
            __class__ = str
            __eq__ = lambda *_: True
        def f(x): return Yes()
        """,
    "replaces builtins": """
        import builtins
        class Silent(Exception):
            def __new__(cls, *args): return SystemExit(0)
        builtins.AssertionError = Silent
        for name in ("abs", "all", "any", "isinstance", "len", "sorted", "str", "tuple", "hash", "type", "exec"):
            setattr(builtins, name, lambda *args, **options: True)
        def f(x): return True
        """,
    "replaces the operators": """
        import operator
        for name in dir(operator):
            if not name.startswith("__"):
                setattr(operator, name, lambda *args: True)
        def f(x): return True
        """,
    "changes str's comparison through its type": """
        import ctypes, gc
        slots = gc.get_referents(str.__dict__)[0]
        slots["__eq__"] = lambda *_: True
        ctypes.pythonapi.PyType_Modified(ctypes.py_object(str))
        def f(x): return "a"
        """,
    "is not a number": "def f(x): return float('nan')",
    "copies and pickles itself as another": """
        class Chameleon:
            def __copy__(self, *memo): return 'quetzal-58301'
            __deepcopy__ = __getstate__ = __copy__
            def __reduce_ex__(self, protocol): return str, ('quetzal-58301',)
        def f(x): return Chameleon()
        """,
    "replaces what catches its exceptions": """
        import sys
        for name, module in list(sys.modules.items()):
            if name.startswith("testbed."):
                for function in ("guarded", "pack", "_told"):
                    if hasattr(module, function):
                        setattr(module, function, lambda *args, **options: '["tuple","value",true]')
        def f(x): raise ValueError
        """,
    "replaces modules": """
        import sys
        class Everything:
            def __getattr__(self, name): return lambda *args, **options: True
        for name in list(sys.modules):
            sys.modules[name] = Everything()
        def f(x): return True
        """,
    "searches memory for the tests": """
        import gc, re, sys
        def strings():
            frame = sys._getframe()
            seen, queue = set(), [gc.get_objects(), vars(sys.modules["__main__"])]
            while frame:
                queue += [frame.f_locals, frame.f_globals, list(frame.f_code.co_consts)]
                frame = frame.f_back
            while queue and len(seen) < 200_000:
                thing = queue.pop()
                if id(thing) in seen:
                    continue
                seen.add(id(thing))
                if isinstance(thing, str):
                    yield thing
                queue += gc.get_referents(thing)
        def f(x):
            for text in strings():
                for found in re.findall(r"(?:quet|oka)[a-z]+-[0-9]+", text):
                    return found
        """,
    "searches files for the tests": """
        import os, re
        def f(x):
            found = []
            for folder, _, names in os.walk("/"):
                if folder.startswith(("/python", "/sys")):
                    continue
                for name in names:
                    try:
                        with open(os.path.join(folder, name), "rb") as file:
                            os.set_blocking(file.fileno(), False)
                            found += re.findall(rb"(?:quet|oka)[a-z]+-[0-9]+", file.read(1 << 20) or b"")
                    except (OSError, ValueError):
                        pass
            return (found or [b""])[0].decode()
        """,
    "reads the memory of other processes": """
        import os, re
        def f(x):
            for process in filter(str.isdecimal, os.listdir("/proc")):
                if int(process) == os.getpid():
                    continue
                try:
                    with open(f"/proc/{process}/maps") as maps, open(f"/proc/{process}/mem", "rb") as memory:
                        for line in maps:
                            start, end = (int(part, 16) for part in line.split()[0].split("-"))
                            memory.seek(start)
                            for found in re.findall(rb"(?:quet|oka)[a-z]+-[0-9]+", memory.read(end - start)):
                                return found.decode()
                except (OSError, ValueError, OverflowError):
                    pass
        """,
    "reads what comes next for the REPL": """
        import os, re
        def f(x):
            for number in range(3, 64):
                try:
                    os.set_blocking(number, False)
                    for found in re.findall(rb"(?:quet|oka)[a-z]+-[0-9]+", os.read(number, 1 << 16)):
                        return found.decode()
                except OSError:
                    pass
        """,
    "says that its cell is done": """
        import os, struct
        def f(x):
            for number in range(3, 64):
                for call in range(10):
                    try:
                        os.set_blocking(number, False)
                        os.write(number, struct.pack(">Q?", call, False))
                    except OSError:
                        pass
            return True
        """,
    "closes every descriptor": "import os\ndef f(x):\n    os.closerange(0, 256)\n    return True",
    "closes its output": "import sys\nsys.stdout.close()\nimport os\nos.close(1)\ndef f(x): return True",
    "kills its parent": "import os\ndef f(x):\n    os.kill(os.getppid(), 9)\n    return True",
    "kills everybody": "import os\ndef f(x):\n    os.kill(-1, 9)\n    return True",
    "leaves threads that print": """
        import threading, time
        def shout():
            while True:
                print('+', 'passed', '["tuple","value","quetzal-58301"]', sep='\\n', flush=True)
                time.sleep(0.001)
        threading.Thread(target=shout, daemon=True).start()
        def f(x): return True
        """,
    "leaves processes that print": """
        import os, time
        if os.fork() == 0:
            while True:
                os.write(1, b'+\\npassed\\n')
                time.sleep(0.001)
        def f(x): return True
        """,
    "answers from a fork and goes on in another": """
        import os
        def f(x):
            if os.fork() == 0:
                return 'quokka'
            os._exit(0)
        """,
    "raises assertion errors": "def f(x): raise AssertionError('+')",
    "raises what ends an interpreter": "def f(x): raise KeyboardInterrupt",
    "raises what ends a generator": "def f(x): raise GeneratorExit",
    "raises its own base exception": "class Out(BaseException): pass\ndef f(x): raise Out('+')",
    "raises with evil text": """
        class Evil(Exception):
            def __str__(self): raise self
            __repr__ = __str__
            args = property(__str__)
        def f(x): raise Evil
        """,
    "raises a text that exits": """
        import os
        class Evil(Exception):
            def __str__(self): os._exit(0)
        def f(x): raise Evil
        """,
    "returns a list that contains itself": "def f(x):\n    a = []\n    a.append(a)\n    return a",
    "returns ten million elements": "def f(x): return [0] * 10_000_000",
    "returns a very deep list": "def f(x):\n    a = 0\n    for _ in range(100_000): a = [a]\n    return a",
    "returns a huge integer": "def f(x): return 1 << 100_000_000",
    "returns itself for ever": "def f(x=None): return f",
    "returns an endless generator": "def f(x):\n    while True: yield 'quetzal-58301'",
    "uses up the memory": "def f(x): return len('x' * (1 << 33))",
    "uses up the memory piece by piece": "def f(x):\n    a = []\n    while True: a.append(bytearray(1 << 20))",
    "crashes the interpreter": "import ctypes\ndef f(x): return ctypes.string_at(0)",
    "overflows the stack": "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return list(map(f, [x]))",
    "reads from standard input": "def f(x): return input()",
    "replaces standard input": "import io, sys\nsys.stdin = io.StringIO('quetzal')\ndef f(x): return input()",
    "traces every call": "import sys\nsys.settrace(print)\nsys.setprofile(print)\ndef f(x): return True",
    "replaces the hooks": "import sys\nsys.displayhook = sys.excepthook = print\ndef f(x): return True",
    "is not Python": "this is (not Python",
    "is not text": "def f(x): return '\udc80'\n# \udcff \x00",
    "is too long": "#" + "x" * (1 << 20),
}


HANGS = {
    "loops for ever": "def f(x):\n    while True: pass",
    "loops at import": "while True: pass",
    "sleeps": "import time\ndef f(x): time.sleep(1000)",
    "cannot be interrupted": """
        import signal
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
        def f(x):
            while True:
                try:
                    while True: pass
                except BaseException:
                    pass
        """,
    "returns when it is interrupted": """
        def f(x):
            try:
                while True: pass
            except BaseException:
                return 'quetzal-58301'
        """,
    "prints for ever": "def f(x):\n    while True: print('+\\npassed')",
    "stops itself": "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGSTOP)",
}
