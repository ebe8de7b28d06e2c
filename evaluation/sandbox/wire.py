"""Values between judge and program: JSON with a tag on every type JSON does not have.

Only what is listed here crosses. Of a subclass, which could bring an `__eq__` of its own, what it
holds crosses, as a value of the listed type: a namedtuple as a tuple, an IntEnum's member as an
int. Anything else is refused, and so is what is too large or too deep. What arrives is rebuilt
from plain constructors; no code of the other side takes part. Stdlib alone.

JSON's null, true, false, strings, numbers stand for themselves; all else is `[tag, ...]`.
Frames are a length of 4 bytes, big-endian, and a JSON object.
"""

import json
import math
import struct
from collections import ChainMap, Counter, OrderedDict, UserDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import Any

MAX_BYTES = 4 << 20
MAX_DEPTH = 64
MAX_BITS = 1 << 20
SMALL = 1 << 53
HALVES = ("utf-8", "surrogatepass")

SEQUENCES: dict[type, str] = {
    list: "list",
    tuple: "tuple",
    set: "set",
    frozenset: "frozenset",
    deque: "deque",
}
MAPPINGS: dict[type, str] = {
    dict: "dict",
    Counter: "Counter",
    OrderedDict: "OrderedDict",
    defaultdict: "defaultdict",
    # Equal to a dict of the same items, and crossing as one.
    UserDict: "dict",
    ChainMap: "dict",
    MappingProxyType: "dict",
}
# Single values, each with what makes one of the very type of an object of a subclass.
SINGLES: dict[type, Callable[[Any], Any]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    complex: complex.__complex__,
    bytes: lambda value: bytes.__getitem__(value, slice(None)),
    bytearray: lambda value: bytearray.__getitem__(value, slice(None)),
    Decimal: Decimal,
    Fraction: lambda value: Fraction(value.numerator, value.denominator),
}
LISTED = frozenset((type(None), bool, range, *SINGLES, *SEQUENCES, *MAPPINGS))
SEQUENCE_TYPES = {tag: kind for kind, tag in SEQUENCES.items()}
# A default factory is code and stays behind; equality does not ask for it.
MAPPING_TYPES: dict[str, Callable[[dict], Any]] = {
    "dict": dict,
    "Counter": Counter,
    "OrderedDict": OrderedDict,
    "defaultdict": lambda items: defaultdict(None, items),
}


class RefusedValue(ValueError):
    """A value that may not cross, or a message that is none."""


def encode(value: Any) -> Any:
    """The value as what `json.dumps` writes.

    Raises: RefusedValue naming the type, or the limit that was passed.
    """
    return _Encoder().encode(value, 0)


class _Encoder:
    def __init__(self) -> None:
        self.left = MAX_BYTES

    def encode(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind not in LISTED:
            kind = _base(kind)
            value = SINGLES[kind](value) if kind in SINGLES else value
        self._spend(1 + len(value) if kind in (str, bytes, bytearray) else 1)
        if kind is str:
            return value if _is_text(value) else ["str", value.encode(*HALVES).hex()]
        if value is None or kind is bool:
            return value
        if kind is int:
            return value if -SMALL < value < SMALL else ["int", self._hex(value)]
        if kind is float:
            return value if math.isfinite(value) else ["float", repr(value)]
        if kind is complex:
            return ["complex", repr(value.real), repr(value.imag)]
        if kind is bytes or kind is bytearray:
            return [kind.__name__, value.hex()]
        if kind is range:
            return [
                "range",
                *(self.encode(n, depth) for n in (value.start, value.stop, value.step)),
            ]
        if kind is Decimal:
            return ["Decimal", self._text(str(value))]
        if kind is Fraction:
            parts = (value.numerator, value.denominator)
            return ["Fraction", *(self.encode(part, depth) for part in parts)]
        if depth >= MAX_DEPTH:
            raise RefusedValue(f"a value is nested more than {MAX_DEPTH} deep")
        if kind in SEQUENCES:
            items = kind.__iter__(value)  # type: ignore[attr-defined]
            return [SEQUENCES[kind], *(self.encode(item, depth + 1) for item in items)]
        pairs = kind.items(value)  # type: ignore[attr-defined]
        return [MAPPINGS[kind], *(self.encode(part, depth + 1) for pair in pairs for part in pair)]

    def _spend(self, amount: int) -> None:
        self.left -= amount
        if self.left < 0:
            raise RefusedValue(f"a value is larger than {MAX_BYTES >> 20} MiB")

    def _text(self, text: str) -> str:
        self._spend(len(text))
        return text

    def _hex(self, value: int) -> str:
        if value.bit_length() > MAX_BITS:
            raise RefusedValue(f"an integer has more than {MAX_BITS} bits")
        self._spend(value.bit_length() // 4)
        return hex(value)


def _base(kind: type) -> type:
    """The first of the types it derives from that crosses."""
    for base in kind.__mro__:
        if base in LISTED:
            return base
    raise RefusedValue(f"a value of type {kind.__name__} cannot cross")


def _is_text(value: str) -> bool:
    """False with half a surrogate pair in it: JSON would join two halves to one character."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def decode(data: Any, depth: int = 0) -> Any:
    """The value that `encode` was given, as a new object of exactly the listed type.

    Raises: RefusedValue when the data is nothing that `encode` returns.
    """
    if data is None or type(data) in (bool, str, int, float):
        return data
    if type(data) is not list or not data or type(data[0]) is not str:
        raise RefusedValue("a value has no tag")
    if depth > MAX_DEPTH:
        raise RefusedValue(f"a value is nested more than {MAX_DEPTH} deep")
    tag, *parts = data
    try:
        if tag in SEQUENCE_TYPES:
            return SEQUENCE_TYPES[tag]([decode(part, depth + 1) for part in parts])
        if tag in MAPPING_TYPES:
            flat = [decode(part, depth + 1) for part in parts]
            return MAPPING_TYPES[tag](dict(zip(flat[::2], flat[1::2], strict=True)))
        return _decode_single(tag, parts)
    except (TypeError, ValueError, ArithmeticError) as error:
        if isinstance(error, RefusedValue):
            raise
        raise RefusedValue(f"a malformed value with tag {tag[:20]!r}") from error


def _decode_single(tag: str, parts: list) -> Any:
    if tag == "range":
        start, stop, step = (decode(part) for part in parts)
        return range(start, stop, step)
    if tag == "complex":
        real, imaginary = parts
        return complex(float(real), float(imaginary))
    if tag == "Fraction":
        numerator, denominator = (decode(part) for part in parts)
        return Fraction(numerator, denominator)
    (text,) = parts
    if type(text) is not str:
        raise RefusedValue(f"a malformed value with tag {tag[:20]!r}")
    if tag == "int" and 4 * len(text) <= MAX_BITS + 16:
        return int(text, 16)
    if tag == "Decimal":
        return Decimal(text)
    if tag == "float" and text in ("nan", "inf", "-inf"):
        return float(text)
    if tag in ("bytes", "bytearray", "str"):
        raw = bytes.fromhex(text)
        if tag == "str":
            return raw.decode(*HALVES)
        return raw if tag == "bytes" else bytearray(raw)
    raise RefusedValue(f"no value has the tag {tag[:20]!r}")


def pack(message: dict) -> bytes:
    """The message as a frame.

    Raises: RefusedValue when it is larger than twice the limit of a value.
    """
    body = json.dumps(message, allow_nan=False, separators=(",", ":")).encode("ascii")
    if len(body) > 2 * MAX_BYTES:
        raise RefusedValue(f"a message is larger than {2 * MAX_BYTES >> 20} MiB")
    return struct.pack(">I", len(body)) + body


def unpack(read: Callable[[int], bytes]) -> dict | None:
    """The next message; None where the other side has ended.

    Args:
        read: returns up to that many bytes, none at the end.

    Raises: RefusedValue when what arrives is no frame.
    """
    head = _exactly(read, 4)
    if head is None:
        return None
    (size,) = struct.unpack(">I", head)
    if size > 2 * MAX_BYTES:
        raise RefusedValue(f"a message of {size} bytes; {2 * MAX_BYTES} are the most")
    body = _exactly(read, size)
    if body is None:
        return None
    try:
        message = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RefusedValue(f"a message is not JSON: {type(error).__name__}") from error
    if type(message) is not dict:
        raise RefusedValue("a message is not a JSON object")
    return message


def _exactly(read: Callable[[int], bytes], size: int) -> bytes | None:
    chunks = []
    while size:
        chunk = read(min(size, 1 << 20))
        if not chunk:
            return None
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
