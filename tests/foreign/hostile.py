"""Hostile and damaged pickles, by name: bytes and a piece of the message that must refuse them.

Where one would do something if it were executed, it creates a file PWNED in the current directory.
"""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "pickles"
P4 = b"\x80\x04"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
LOAD = b"ctorch.storage\n_load_from_bytes\n"
SHELL = b"\x8c\x0btouch PWNED\x85R."


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def call(module: str, name: str, argument: bytes) -> bytes:
    return P4 + text(module) + text(name) + b"\x93" + argument + b"\x85R."


def storage(kind: str = "FloatStorage", count: int = 4, body: bytes | None = None, extra: bytes = b"") -> bytes:
    """torch's old stream of one storage, written by hand."""
    identity = (
        b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text("0") + text("cpu") + b"J"
        + struct.pack("<i", count) + b"Nt"
    )  # fmt: skip
    system = pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2)
    body = struct.pack("<q", count) + bytes(4 * count) if body is None else body
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + system
    return head + b"\x80\x02" + identity + b"Q" + extra + b"." + pickle.dumps(["0"], 2) + body


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def loaded(stream: bytes) -> bytes:
    return LOAD + b"B" + struct.pack("<I", len(stream)) + stream + b"\x85R"


def tensor(offset: int, shape: list[int], stride: list[int], stream: bytes | None = None) -> bytes:
    """Instructions that leave a tensor on the stack."""
    sizes = b"(" + b"".join(map(number, shape)) + b"t" + b"(" + b"".join(map(number, stride)) + b"t"
    return TENSOR + b"(" + loaded(stream or storage()) + number(offset) + sizes + b"\x89}tR"


def array(dtype: bytes, shape: tuple[int, ...], raw: bytes, state: bytes = b"N") -> bytes:
    """Instructions that leave a numpy array on the stack; ``dtype`` are instructions too."""
    head = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
    return (
        head + b"(K\x01(" + b"".join(map(number, shape)) + b"t" + dtype + b"\x89" + pickle.dumps(raw, 4)[2:-1] + b"tb"
    )


def numpy_type(code: str) -> bytes:
    return b"cnumpy\ndtype\n" + text(code) + b"\x89\x88\x87R"


def nested_lists(depth: int) -> bytes:
    return P4 + b"]" * depth + b"a" * (depth - 1) + b"."


def memo_chain(depth: int, last: bytes) -> bytes:
    """Each tuple holds the one before twice: 2**depth leaves for whoever walks it without a list of what was seen."""
    return P4 + b")\x940" + b"".join(b"h" + bytes([i]) + b"2\x86\x940" for i in range(depth)) + last


def colliding_integers(count: int) -> bytes:
    prime = 2**61 - 1  # Python hashes integers modulo this
    keys = b"".join(b"\x8a\x0b" + (prime * (i + 9)).to_bytes(11, "little") + b"N" for i in range(count))
    return P4 + b"}(" + keys + b"u."


CASES: dict[str, tuple[bytes, str]] = {
    # gadgets
    "os.system": (call("posix", "system", text("touch PWNED")), "posix.system"),
    "eval": (call("builtins", "eval", text("open('PWNED', 'w')")), "builtins.eval"),
    "exec under protocol 2": (b"\x80\x02c__builtin__\nexec\nX\x04\x00\x00\x00pass\x85R.", "__builtin__.exec"),
    "subprocess": (call("subprocess", "Popen", text("touch PWNED")), "subprocess.Popen"),
    "import": (call("builtins", "__import__", text("antigravity")), "builtins.__import__"),
    "operator.attrgetter": (call("operator", "attrgetter", text("system")), "operator.attrgetter"),
    "functools.partial": (call("functools", "partial", text("x")), "functools.partial"),
    "torch.load": (call("torch", "load", text("PWNED")), "torch.load"),
    "torch.storage of another name": (call("torch.storage", "_load_from_bytes.__globals__", b"N"), "__globals__"),
    "dotted name in an accepted module": (call("collections", "OrderedDict.__init__", b"N"), "OrderedDict.__init__"),
    "numpy.load": (call("numpy", "load", text("PWNED")), "numpy.load"),
    "numpy.ndarray called": (call("numpy", "ndarray", b"K\x01\x85"), "numpy.ndarray"),
    "runpy": (call("runpy", "_run_code", text("x")), "runpy._run_code"),
    "code object": (call("types", "CodeType", b"N"), "types.CodeType"),
    "global with line ends in its name": (call("os\nposix", "system\n", b"N"), "os\\nposix.system\\n"),
    "global in a storage": (P4 + loaded(P4 + text("posix") + text("system") + b"\x93" + SHELL) + b".", "posix.system"),
    "accepted global in a storage": (P4 + loaded(P4 + b"c_codecs\nencode\n."), "_codecs.encode"),
    "called string": (P4 + text("print") + b")R.", "a call of str"),
    "called bound method": (
        P4 + b"cbuiltins\ngetattr\n" + text("x") + text("upper") + b"\x86R)R.",
        "a call of Inert",
    ),
    "object of an accepted function": (P4 + b"c_codecs\nencode\n)\x81.", "may be mentioned, not used so"),
    # instructions
    "INST": (b"\x80\x02(X\x0b\x00\x00\x00touch PWNEDiposix\nsystem\n.", "opcode INST"),
    "OBJ": (b"\x80\x02(cposix\nsystem\nX\x0b\x00\x00\x00touch PWNEDo.", "posix.system"),
    "OBJ of an accepted class": (b"\x80\x02(ccollections\nOrderedDict\no.", "opcode OBJ"),
    "NEWOBJ_EX": (P4 + b"ccollections\nOrderedDict\n)}\x92.", "opcode NEWOBJ_EX"),
    "EXT1": (b"\x80\x02\x82\x01.", "opcode EXT1"),
    "EXT4": (b"\x80\x02\x84\x01\x00\x00\x00.", "opcode EXT4"),
    "PERSID": (b"\x80\x02Psomething\n.", "opcode PERSID"),
    "BINPERSID outside": (P4 + text("x") + b"Q.", "opcode BINPERSID"),
    "BINPERSID of another form": (P4 + loaded(storage(extra=b"Q")) + b".", "opcode BINPERSID"),
    "NEXT_BUFFER": (b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
    "unknown opcode": (P4 + b"\xff.", "0xff (unknown)"),
    "text opcode of protocol 0": (b"S'x'\n.", "opcode STRING"),
    "protocol 6": (b"\x80\x06N.", "protocol 6"),
    # bombs
    "deep lists": (nested_lists(500_000), "nested more than 200 deep"),
    "deep tuples": (P4 + b")" + b"\x85" * 100_000 + b".", "nested more than 200 deep"),
    "deep marks": (P4 + b"(" * 1_900_000 + b".", "more memory"),
    "shared lists, 250 levels": (memo_chain(250, b"h\xfa."), "nested more than 200 deep"),
    "shared tuple as a key": (memo_chain(100, b"}h\x64Ns."), "a key or set member of type tuple"),
    "claimed bytes": (P4 + b"\x8e" + struct.pack("<Q", 2**62) + b"x.", "are claimed"),
    "claimed text": (P4 + b"\x8d" + struct.pack("<Q", 2**40) + b"x.", "are claimed"),
    "claimed frame": (P4 + b"\x95" + struct.pack("<Q", 2**40) + b"N.", "are claimed"),
    "claimed bytearray": (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"N.", "are claimed"),
    "negative length": (b"\x80\x02T\xff\xff\xff\xffx.", "a length of -1"),
    "huge integer": (P4 + b"\x8b" + struct.pack("<I", 10_000_000) + bytes(10_000_000) + b".", "an integer of"),
    "long integer line": (b"\x80\x02I" + b"9" * 900 + b"\n.", "24 digits"),
    "endless line": (b"\x80\x02c" + b"a" * 10_000_000, "without end"),
    "memo number": (P4 + b"Nr\xff\xff\xff\x7f.", "memo number"),
    "endless instructions": (P4 + b"N0" * 1_500_000 + b"N.", "more than 2000000 instructions"),
    "empty sets": (P4 + b"(" + b"\x8f" * 1_900_000 + b"l.", "more memory"),
    "text encoded again and again": (
        P4
        + b"c_codecs\nencode\n\x940X"
        + struct.pack("<I", 1_000_000)
        + b"a" * 1_000_000
        + b"\x940("
        + b"h\x00h\x01"
        + text("latin1")
        + b"\x86R"
        + (b"h\x00h\x01\x8c\x06latin1\x86R" * 10_000)
        + b"t.",
        "more memory",
    ),
    "set made again and again": (
        P4 + b"cbuiltins\nset\n\x940](" + b"K\x01" * 100_000 + b"e\x940(" + b"h\x00h\x01\x85R" * 100_000 + b"t.",
        "more memory",
    ),
    "colliding keys": (colliding_integers(100_000), "a key or set member of type int"),
    # tensors and arrays
    "stride leaves the storage": (P4 + tensor(0, [2, 2], [3, 1]) + b".", "leave its storage"),
    "offset leaves the storage": (P4 + tensor(4, [1], [1]) + b".", "leave its storage"),
    "negative offset": (P4 + tensor(-1, [2], [1]) + b".", "offset, size or stride is -1"),
    "negative stride": (P4 + tensor(3, [2], [-1]) + b".", "offset, size or stride is -1"),
    "size that overflows": (P4 + tensor(0, [2**62, 2**62], [1, 1]) + b".", "offset, size or stride"),
    "empty with an offset far away": (P4 + tensor(2**40, [0], [1]) + b".", "leave its storage"),
    "expanded to a terabyte": (P4 + tensor(0, [2**38], [0]) + b".", "more memory"),
    "strides missing": (P4 + tensor(0, [2, 2], [1]) + b".", "one length"),
    "seventeen dimensions": (P4 + tensor(0, [1] * 17, [0] * 17) + b".", "dimensions"),
    "tensor of text": (P4 + TENSOR + b"(" + text("x") + b"K\x00K\x01\x85K\x01\x85\x89}tR.", "without a storage"),
    "claimed storage": (P4 + loaded(storage(count=2**31 - 1, body=bytes(24))) + b".", "whose data says that it has 0"),
    "count and data differ": (
        P4 + loaded(storage(body=struct.pack("<q", 9) + bytes(16))) + b".",
        "whose data says that it has 9",
    ),
    "complex storage": (P4 + loaded(storage("ComplexFloatStorage")) + b".", "torch.ComplexFloatStorage"),
    "storage cut off": (P4 + loaded(storage()[:40]) + b".", "in the bytes of a storage"),
    "storage of another magic": (P4 + loaded(pickle.dumps(1, 2) * 5) + b".", "torch's old stream"),
    "array of objects": (P4 + array(numpy_type("O8"), (1,), bytes(8)) + b".", "numpy type 'O8'"),
    "numpy type named by a shared tuple": (memo_chain(100, b"cnumpy\ndtype\nh\x64\x85R."), "numpy type 'tuple'"),
    "byte order of a shared tuple": (
        memo_chain(100, numpy_type("f8") + b"(K\x03h\x64NNNK\x00K\x00K\x00tb."),
        "numpy byte order 'tuple'",
    ),
    "array of structures": (P4 + array(numpy_type("V8"), (1,), bytes(8)) + b".", "numpy type 'V8'"),
    "array larger than its bytes": (P4 + array(numpy_type("f8"), (2**40,), bytes(8)) + b".", "with 8 bytes"),
    "array whose bytes are objects": (P4 + array(numpy_type("f8"), (1,), b"") + b".", "with 0 bytes"),
    "array without state": (
        P4 + b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR.",
        "state",
    ),
    # damage
    "empty file": (b"", "cut off"),
    "no pickle": (b"\x89PNG\r\n\x1a\n" + bytes(100), "opcode"),
    "a zip": (b"PK\x03\x04" + bytes(100), "opcode PERSID"),
    "text of no encoding": (P4 + b"\x8c\x02\xff\xfe.", "opcode SHORT_BINUNICODE"),
    "missing values": (P4 + b"R.", "opcode REDUCE"),
    "no mark": (P4 + b"e.", "opcode APPENDS"),
    "a key without a value": (P4 + b"}(K\x01u.", "a key without a value"),
    "memo never set": (P4 + b"h\x05.", "memo number 5 was never set"),
    "values left": (P4 + b"NN.", "leaves values behind"),
    "bytes after the end": (P4 + b"N.N", "follow its end"),
    "cut in the middle": ((GOLDEN / "edm_like.pkl").read_bytes()[:4000], ""),
    "the project's os.system": ((GOLDEN / "hostile_os_system.pkl").read_bytes(), "posix.system"),
    "the project's eval": ((GOLDEN / "hostile_builtins_eval.pkl").read_bytes(), "builtins.eval"),
    "the project's nested stream": ((GOLDEN / "hostile_nested_in_storage.pkl").read_bytes(), "posix.system"),
}
