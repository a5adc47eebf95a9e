"""An interpreter for pickle's instructions that knows no code: protocols 2 to 5, from scratch.

What the instructions mean and how long their arguments are is Python's documentation in ``pickletools``. Text instructions of
protocols 0 and 1, extension codes, persistent ids (but in torch's streams), ``INST``, ``OBJ``, ``NEWOBJ_EX`` and out-of-band
buffers are refused.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import Any

from sida.errors import Refused
from sida.foreign.accepted import NEW, SLOT_BYTES, Call, DType, PendingArray, array_of, check_key
from sida.foreign.limits import DEPTH, ELEMENTS, Budget
from sida.foreign.stand_ins import Global, Inert

VIEW_BYTES = 4096  # longer byte strings are views of the file, not copies
LINE_BYTES = 1000
OBJECT_BYTES = 64
STOP = ord(".")
CODES = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
LENGTHS = {  # bytes of an argument's length, and whether it is signed
    pickletools.TAKEN_FROM_ARGUMENT1: (1, False),
    pickletools.TAKEN_FROM_ARGUMENT4: (4, True),
    pickletools.TAKEN_FROM_ARGUMENT4U: (4, False),
    pickletools.TAKEN_FROM_ARGUMENT8U: (8, False),
}


class Machine:
    """Interpreter of one pickle from ``data[at:]``; afterwards ``at`` is the byte after its STOP.

    ``accepted``: the globals that the pickle may mention. ``persistent_load`` gives the value of a persistent id.
    """

    def __init__(
        self,
        data: memoryview,
        budget: Budget,
        accepted: Mapping[str, Call],
        persistent_load: Callable[[Any], Any] | None = None,
        at: int = 0,
    ) -> None:
        self.data, self.at, self.budget = data, at, budget
        self.accepted, self.persistent_load = accepted, persistent_load
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run_whole(self, end: str) -> Any:
        """Return the value of the only pickle in the data; ``end`` names its end in messages. Raises Refused as ``run``."""
        value = self.run()
        if self.at != len(self.data):
            raise Refused(f"{len(self.data) - self.at} bytes follow {end}")
        check_nesting(value)
        return value

    def run(self) -> Any:
        """Return the pickle's value. Raises Refused naming the instruction or global, without the file's name."""
        start, code = self.at, -1
        try:
            while code != STOP:
                start = self.at
                code = self.data[start]
                self.at = start + 1
                self.budget.spend()
                size, meaning = INSTRUCTIONS[code]
                meaning(self, self.argument(size))
            value = self.stack.pop()
            if self.stack or self.marked:
                raise ValueError("it leaves values behind: the file is damaged")
            return value
        except Refused:
            raise
        except (IndexError, KeyError, ValueError, TypeError, OverflowError, struct.error) as error:
            if start >= len(self.data):
                raise Refused(f"it ends at byte {start} without the opcode STOP: the file is cut off") from error
            reason = str(error) if isinstance(error, ValueError) else "values are missing or of the wrong kind"
            name = CODES[code].name if code in CODES else f"0x{code:02x} (unknown)"
            raise Refused(f"opcode {name} at byte {start}: {reason}") from error

    # -- the file

    def argument(self, size: int) -> memoryview:
        """Return the bytes of an instruction's argument; ``size`` as in pickletools: negative for one that says itself."""
        if size == pickletools.UP_TO_NEWLINE:
            return self.line()
        if size < 0:
            width, signed = LENGTHS[size]
            size = int.from_bytes(self.take(width), "little", signed=signed)
            if size < 0:
                raise ValueError(f"a length of {size}")
        return self.take(size)

    def take(self, size: int) -> memoryview:
        """Return the next ``size`` bytes, which must be there: a claimed length alone takes no memory."""
        self.check_there(size)
        self.at += size
        return self.data[self.at - size : self.at]

    def check_there(self, size: int) -> None:
        """Raise ValueError unless ``size`` more bytes follow."""
        if self.at + size > len(self.data):
            raise ValueError(f"{size} bytes are claimed, {len(self.data) - self.at} are there")

    def line(self) -> memoryview:
        """Return the bytes before the next line end."""
        length = bytes(self.data[self.at : self.at + LINE_BYTES]).find(b"\n")
        if length < 0:
            raise ValueError(f"a line without end within {LINE_BYTES} bytes")
        return self.take(length + 1)[:-1]

    # -- the stack

    def pop(self, count: int) -> list[Any]:
        """Take the topmost values."""
        items = self.stack[-count:]
        if len(items) < count:
            raise IndexError
        del self.stack[-count:]
        return items

    def mark(self) -> None:
        """Begin a new stack on top of this one."""
        self.budget.charge(OBJECT_BYTES)
        self.marked.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        """Take all values since the last mark."""
        items = self.stack
        self.stack = self.marked.pop()
        return items

    def push_tuple(self, items: list[Any]) -> None:
        """Put a tuple of the items on the stack."""
        self.budget.charge(OBJECT_BYTES)
        self.stack.append(tuple(items))

    def fill(self, kind: type, items: list[Any]) -> None:
        """Put the items into the list, set or dict (alternating keys and values) on top of the stack."""
        target = self.stack[-1]
        actual = type(target)
        if actual is not kind:
            raise ValueError(f"it fills a {kind.__name__}, and finds {actual.__name__}")
        if kind is list:
            target.extend(items)
            return
        self.budget.charge(SLOT_BYTES * len(items))
        if kind is set:
            target.update(map(check_key, items))
        elif len(items) % 2:
            raise ValueError("a key without a value")
        else:
            target.update(zip(map(check_key, items[::2]), items[1::2], strict=True))

    def remember(self, index: int) -> None:
        """Put the value on top of the stack into the memo too."""
        if index > ELEMENTS:
            raise ValueError(f"memo number {index}")
        self.budget.charge(SLOT_BYTES)
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        """Put a value of the memo on the stack."""
        if index not in self.memo:
            raise ValueError(f"memo number {index} was never set")
        value = self.memo[index]
        complete = value.array if isinstance(value, PendingArray) else None
        self.stack.append(value if complete is None else complete)

    # -- globals, and what stands for calling them

    def mention(self, module: Any, name: Any) -> None:
        """Put a global's name on the stack."""
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a global whose name is no text")
        dotted = f"{module}.{name}"
        if dotted not in self.accepted:
            printable = dotted[:120].encode("unicode_escape").decode()
            raise ValueError(f"global {printable} is not one that published networks or arrays need")
        self.stack.append(Global(dotted))

    def call(self, table: Mapping[str, Call]) -> None:
        """Replace a global and a tuple of arguments by the value of the call."""
        function, args = self.pop(2)
        if not isinstance(function, Global) or type(args) is not tuple:
            raise ValueError(f"a call of {type(function).__name__}, not of a global with a tuple of arguments")
        call = table.get(function.name)
        if call is None:
            raise ValueError(f"global {function.name} may be mentioned, not used so")
        self.budget.charge(2 * OBJECT_BYTES + 8 * len(args))  # a tuple of the memo is copied at each call
        try:
            self.stack.append(call(self.budget, *args))
        except (ValueError, TypeError, IndexError) as error:
            reason = error if isinstance(error, ValueError) else "not the arguments it takes"
            raise ValueError(f"global {function.name}: {reason}") from error

    def build(self) -> None:
        """Give the object on the stack its state."""
        target, state = self.pop(2)
        if isinstance(target, PendingArray):
            target.array = array_of(state, self.budget)
            target = target.array
        elif isinstance(target, DType):
            target.build(state)
        elif isinstance(target, Inert) and target.state is None:
            target.state = state
        elif type(target) is not dict:  # attributes of an OrderedDict or EasyDict: torch's version notes
            raise ValueError(f"a state for {type(target).__name__}")
        self.stack.append(target)

    def load_persistent(self) -> None:
        """Replace a persistent id by its value."""
        if self.persistent_load is None:
            raise ValueError("a persistent id outside of torch's own stream")
        self.stack.append(self.persistent_load(self.stack.pop()))


# -- instructions: what they make of their argument's bytes


Value = Callable[[memoryview, Budget], Any]
Meaning = Callable[[Machine, memoryview], object]  # what it returns is dropped


def _unsigned(raw: memoryview) -> int:
    return int.from_bytes(raw, "little")


def _signed(raw: memoryview, budget: Budget) -> int:
    if len(raw) > 255:
        raise ValueError(f"an integer of {len(raw)} bytes")
    return int.from_bytes(raw, "little", signed=True)


def _digits(raw: memoryview, budget: Budget) -> int:
    """Read text: Python 2 wrote integers of more than 32 bits so, under protocol 2 too."""
    if len(raw) > 24:
        raise ValueError("an integer of more than 24 digits")
    return int(bytes(raw))


def _bytes(raw: memoryview, budget: Budget) -> bytes | memoryview:
    if len(raw) > VIEW_BYTES:
        return raw
    budget.charge(len(raw))
    return bytes(raw)


def _text(raw: memoryview, budget: Budget) -> str:
    budget.charge(4 * len(raw))  # one rare character makes Python use four bytes for each
    return str(raw, "utf-8", "surrogatepass")


def _empty(kind: type) -> Value:
    def value(raw: memoryview, budget: Budget) -> Any:
        budget.charge(OBJECT_BYTES)
        return kind()

    return value


VALUES: dict[str, Value] = {
    "NONE": lambda raw, budget: None,
    "NEWTRUE": lambda raw, budget: True,
    "NEWFALSE": lambda raw, budget: False,
    "BININT1": lambda raw, budget: _unsigned(raw),
    "BININT2": lambda raw, budget: _unsigned(raw),
    "BINFLOAT": lambda raw, budget: struct.unpack(">d", raw)[0],
    "INT": _digits,
    "EMPTY_TUPLE": lambda raw, budget: (),
    "EMPTY_LIST": _empty(list),
    "EMPTY_DICT": _empty(dict),
    "EMPTY_SET": _empty(set),
    **dict.fromkeys(("BININT", "LONG1", "LONG4"), _signed),
    **dict.fromkeys(("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"), _text),
    **dict.fromkeys(("SHORT_BINSTRING", "BINSTRING"), _bytes),
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"), _bytes),
}


def _pushing(value: Value) -> Meaning:
    return lambda machine, raw: machine.stack.append(value(raw, machine.budget))


def _refuse(machine: Machine, raw: memoryview) -> None:
    raise ValueError("not an instruction that published networks or arrays need")


def _check_protocol(machine: Machine, raw: memoryview) -> None:
    if not 2 <= raw[0] <= 5:
        raise ValueError(f"protocol {raw[0]}; 2 to 5 are read")


def _pop(machine: Machine, raw: memoryview) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


MEANINGS: dict[str, Meaning] = {
    **{name: _pushing(value) for name, value in VALUES.items()},
    "PROTO": _check_protocol,
    "FRAME": lambda machine, raw: machine.check_there(_unsigned(raw)),
    "STOP": lambda machine, raw: None,
    "POP": _pop,
    "POP_MARK": lambda machine, raw: machine.pop_mark(),
    "DUP": lambda machine, raw: machine.stack.append(machine.stack[-1]),
    "MARK": lambda machine, raw: machine.mark(),
    "MEMOIZE": lambda machine, raw: machine.remember(len(machine.memo)),
    "BINPUT": lambda machine, raw: machine.remember(_unsigned(raw)),
    "LONG_BINPUT": lambda machine, raw: machine.remember(_unsigned(raw)),
    "BINGET": lambda machine, raw: machine.recall(_unsigned(raw)),
    "LONG_BINGET": lambda machine, raw: machine.recall(_unsigned(raw)),
    "TUPLE1": lambda machine, raw: machine.push_tuple(machine.pop(1)),
    "TUPLE2": lambda machine, raw: machine.push_tuple(machine.pop(2)),
    "TUPLE3": lambda machine, raw: machine.push_tuple(machine.pop(3)),
    "TUPLE": lambda machine, raw: machine.push_tuple(machine.pop_mark()),
    "APPEND": lambda machine, raw: machine.fill(list, machine.pop(1)),
    "APPENDS": lambda machine, raw: machine.fill(list, machine.pop_mark()),
    "ADDITEMS": lambda machine, raw: machine.fill(set, machine.pop_mark()),
    "SETITEM": lambda machine, raw: machine.fill(dict, machine.pop(2)),
    "SETITEMS": lambda machine, raw: machine.fill(dict, machine.pop_mark()),
    "GLOBAL": lambda machine, raw: machine.mention(str(raw, "utf-8"), str(machine.line(), "utf-8")),
    "STACK_GLOBAL": lambda machine, raw: machine.mention(*machine.pop(2)),
    "REDUCE": lambda machine, raw: machine.call(machine.accepted),
    "NEWOBJ": lambda machine, raw: machine.call(NEW),
    "BUILD": lambda machine, raw: machine.build(),
    "BINPERSID": lambda machine, raw: machine.load_persistent(),
}
INSTRUCTIONS: list[tuple[int, Meaning]] = [(0, _refuse)] * 256
for _code, _opcode in CODES.items():
    if _opcode.name in MEANINGS:
        INSTRUCTIONS[_code] = (_opcode.arg.n if _opcode.arg else 0, MEANINGS[_opcode.name])


# -- the whole value


def check_nesting(value: Any) -> None:
    """Refuse deeply nested objects, and arrays that never got their state; in time linear in the objects."""
    level, seen = [value], {id(value)}
    for _ in range(DEPTH):
        below: list[Any] = []
        for item in level:
            for part in _parts(item):
                if isinstance(part, list | tuple | dict | Inert | PendingArray) and id(part) not in seen:
                    seen.add(id(part))
                    below.append(part)
        if not below:
            return
        level = below
    raise Refused(f"its containers are nested more than {DEPTH} deep")


def _parts(item: Any) -> Any:
    if isinstance(item, PendingArray):
        raise Refused("a numpy array never gets its state: the file is damaged")
    if isinstance(item, dict):
        return item.values()
    if isinstance(item, Inert):
        return (item.args, item.state)
    return item if isinstance(item, list | tuple) else ()
