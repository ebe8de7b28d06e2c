import io
import math
import struct
from collections import ChainMap, Counter, OrderedDict, UserDict, defaultdict, deque, namedtuple
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.sandbox.wire import MAX_BYTES, MAX_DEPTH, RefusedValue, decode, encode, pack, unpack

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=2**200, max_value=2**210),
    st.floats(),
    st.complex_numbers(),
    st.text(),
    st.text(st.characters(categories=["Cs"])),  # lone surrogates
    st.binary(max_size=20),
    st.binary(max_size=20).map(bytearray),
    st.decimals(allow_nan=True),
    st.fractions(),
    st.builds(range, st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 3)),
)
HASHABLE = st.recursive(
    SCALARS.filter(lambda value: type(value) is not bytearray).filter(
        lambda value: not (isinstance(value, Decimal) and value.is_snan())  # has no hash
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(tuple), st.frozensets(inner, max_size=4)
    ),
    max_leaves=8,
)
VALUES = st.recursive(
    st.one_of(SCALARS, HASHABLE),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.lists(inner, max_size=4).map(deque),
        st.sets(HASHABLE, max_size=4),
        st.dictionaries(HASHABLE, inner, max_size=4),
        st.dictionaries(HASHABLE, inner, max_size=4).map(OrderedDict),
        st.dictionaries(HASHABLE, st.integers(), max_size=4).map(Counter),
        st.dictionaries(HASHABLE, inner, max_size=4).map(lambda d: defaultdict(list, d)),
    ),
    max_leaves=12,
)


def cross(value):
    """The value after the whole way: encoded, framed, read, decoded."""
    return decode(unpack(io.BytesIO(pack({"value": encode(value)})).read)["value"])


def shape(value):
    """The value with every type, sign of zero and nan made visible; sets in no order."""
    kind = type(value)
    if kind in (list, tuple, deque):
        return kind, [shape(item) for item in value]
    if kind in (set, frozenset):
        return kind, sorted((shape(item) for item in value), key=repr)
    if isinstance(value, dict):
        return kind, [(shape(key), shape(item)) for key, item in value.items()]
    return kind, repr(value)


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_values_arrive_as_they_were_with_their_types(value):
    assert shape(cross(value)) == shape(value)


def test_numbers_json_cannot_hold_arrive():
    assert math.isnan(cross(math.nan)) and cross([math.inf, -math.inf]) == [math.inf, -math.inf]
    assert repr(cross(-0.0)) == "-0.0" and type(cross(1.0)) is float and type(cross(True)) is bool
    assert cross(10**5000) == 10**5000  # more digits than Python's int() reads


class AlwaysEqual:
    def __eq__(self, other):
        return True


class Text(str):
    def __eq__(self, other):
        return True

    __hash__ = str.__hash__


class Number(IntEnum):
    ONE = 1


class Colour(Enum):
    RED = 1


def subclass(kind):
    """One that lies about what it is."""
    lies = {
        "__eq__": lambda self, other: True,
        "__iter__": lambda self: iter(()),
        "__len__": lambda self: 0,
    }
    return type("Sub", (kind,), {**lies, "__hash__": None})


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (AlwaysEqual(), "AlwaysEqual"),
        ([1, {"a": (Colour.RED,)}], "Colour"),
        (iter([1]), "list_iterator"),
        ({}.keys(), "dict_keys"),
        (len, "builtin_function_or_method"),
        (int, "type"),
        (NotImplemented, "NotImplementedType"),
    ],
)
def test_other_types_are_refused_by_name(value, name):
    with pytest.raises(RefusedValue, match=f"a value of type {name} cannot cross"):
        encode(value)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Text("a"), "a"),
        ([1, {"a": (Text("a"),)}], [1, {"a": ("a",)}]),
        ({Text("a"): 1}, {"a": 1}),
        (Number.ONE, 1),
        (namedtuple("Pair", "a b")(1, 2), (1, 2)),
        (subclass(list)([1]), [1]),
        (subclass(float)(1.5), 1.5),
        (subclass(complex)(1, 2), 1 + 2j),
        (subclass(bytes)(b"a"), b"a"),
        (subclass(bytearray)(b"a"), bytearray(b"a")),
        (subclass(set)([1]), {1}),
        (subclass(dict)(a=1), {"a": 1}),
        (UserDict(a=1), {"a": 1}),
        (ChainMap({"a": 1}, {"a": 2, "b": 3}), {"a": 1, "b": 3}),
        (MappingProxyType({"a": 1}), {"a": 1}),
        (subclass(Counter)("aab"), Counter("aab")),
        (subclass(OrderedDict)(a=1), OrderedDict(a=1)),
        (subclass(Decimal)("1.50"), Decimal("1.50")),
        (subclass(Fraction)(1, 3), Fraction(1, 3)),
    ],
)
def test_of_a_subclass_what_it_holds_arrives_as_the_plain_type(value, plain):
    assert shape(cross(value)) == shape(plain)


def test_a_changed_order_arrives():
    value = OrderedDict(a=1, b=2)
    value.move_to_end("a")
    assert list(cross(subclass(OrderedDict)(value))) == ["b", "a"]


def nested(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


def test_depth_has_a_limit_that_cycles_meet_too():
    assert cross(nested(MAX_DEPTH)) == nested(MAX_DEPTH)
    with pytest.raises(RefusedValue, match=f"nested more than {MAX_DEPTH} deep"):
        encode(nested(MAX_DEPTH + 1))
    cycle = []
    cycle.append(cycle)
    with pytest.raises(RefusedValue, match=f"nested more than {MAX_DEPTH} deep"):
        encode(cycle)
    data = 1
    for _ in range(MAX_DEPTH + 2):
        data = ["list", data]
    with pytest.raises(RefusedValue, match=f"nested more than {MAX_DEPTH} deep"):
        decode(data)


def wide_by_reference():
    value = [0] * 10
    for _ in range(12):
        value = [value] * 10  # 10**13 items, in 13 lists
    return value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("x" * (MAX_BYTES + 1), "larger than 4 MiB"),
        ([b"x" * (MAX_BYTES // 2)] * 3, "larger than 4 MiB"),
        ([0] * (MAX_BYTES + 1), "larger than 4 MiB"),
        (wide_by_reference(), "larger than 4 MiB"),
        (1 << (1 << 20), "an integer has more than 1048576 bits"),
    ],
    ids=["text", "bytes", "items", "references", "integer"],
)
def test_size_has_a_limit(value, message):
    with pytest.raises(RefusedValue, match=message):
        encode(value)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"list": []},
        [],
        [1, 2],
        [["list"]],
        ["object", 1],
        ["int", 5],
        ["int", "0x"],
        ["int", "f" * (1 << 19)],
        ["float", "1e5"],
        ["float", "nan", "nan"],
        ["Decimal", "one"],
        ["Decimal", 1],
        ["Fraction", 1],
        ["Fraction", 1, 0],
        ["Fraction", "1", 2],
        ["complex", "1"],
        ["complex", "1", None],
        ["bytes", "0"],
        ["bytes", 3],
        ["range", 0, 1, 0],
        ["range", 0],
        ["set", ["list"]],
        ["dict", 1],
        ["dict", ["list"], 1],
        ["__import__", "os"],
        ["list", {"a": 1}],
    ],
    ids=repr,
)
def test_data_that_encode_never_wrote_is_refused(data):
    with pytest.raises(RefusedValue, match="tag"):
        decode(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (struct.pack(">I", 1 << 31), "a message of 2147483648 bytes; 8388608 are the most"),
        (struct.pack(">I", 3) + b"{{{", "not JSON"),
        (struct.pack(">I", 2) + b"\xff\xff", "not JSON"),
        (struct.pack(">I", 11) + b'{"a": Infin', "not JSON"),
        (struct.pack(">I", 10) + b'{"a": NaN}', "not JSON"),
        (struct.pack(">I", 2) + b"[]", "not a JSON object"),
        (struct.pack(">I", 200_000) + b"[" * 200_000, "not JSON"),
        (struct.pack(">I", 9999) + b'{"a":' + b"9" * 9993 + b"}", "not JSON"),
    ],
)
def test_what_is_no_frame_is_refused(data, message):
    with pytest.raises(RefusedValue, match=message):
        unpack(io.BytesIO(data).read)


@pytest.mark.parametrize("data", [b"", b"\0", struct.pack(">I", 9) + b"{"])
def test_an_end_is_no_message(data):
    assert unpack(io.BytesIO(data).read) is None


def test_a_message_too_large_is_not_written():
    with pytest.raises(RefusedValue, match="a message is larger than 8 MiB"):
        pack({"value": "\u20ac" * (2 << 20)})
