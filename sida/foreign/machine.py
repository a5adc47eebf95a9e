"""An interpreter for pickle's instructions that knows no code: protocols 2 to 5, from scratch.

What the instructions mean is Python's documentation in ``pickletools``. Text instructions of protocols 0 and 1,
extension codes, persistent ids (but in torch's stream), ``INST``, ``OBJ``, ``NEWOBJ_EX`` and out-of-band buffers
are refused.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Collection
from typing import Any

from sida.errors import Refused
from sida.foreign.accepted import CALLS, NEW, SLOT_BYTES, DType, PendingArray, array_of, check_key
from sida.foreign.limits import Budget
from sida.foreign.stand_ins import Global, Inert, Storage

VIEW_BYTES = 4096  # longer byte strings are views of the file, not copies
LINE_BYTES = 1000
OBJECT_BYTES = 64
NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
PersistentLoad = Callable[[Any], Any]


class Stop(Exception):  # not an error: how the instruction STOP ends the loop
    """The pickle ended; carries its value."""


class Machine:
    """Interpreter of one pickle from ``data[at:]``; afterwards ``at`` is the byte after its STOP."""

    def __init__(
        self,
        data: memoryview,
        at: int,
        budget: Budget,
        accepted: Collection[tuple[str, str]],
        load_storage: Callable[[memoryview], Storage],
        persistent_load: PersistentLoad | None = None,
    ) -> None:
        self.data, self.at, self.budget = data, at, budget
        self.accepted, self.load_storage, self.persistent_load = accepted, load_storage, persistent_load
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Return the pickle's value. Raises Refused naming the instruction or global, without the file's name."""
        start, opcode = self.at, -1
        try:
            while True:
                start = self.at
                opcode = self.data[start]
                self.at = start + 1
                self.budget.opcodes -= 1
                if self.budget.opcodes < 0:
                    raise ValueError(f"more than {self.budget.limits.opcodes} instructions")
                INSTRUCTIONS[opcode](self)
        except Stop as stop:
            if self.stack or self.marked:
                raise Refused(f"opcode STOP at byte {start} leaves values behind: the file is damaged") from None
            return stop.args[0]
        except Refused:
            raise
        except (IndexError, KeyError, ValueError, TypeError, OverflowError, struct.error) as error:
            if start >= len(self.data):
                raise Refused(f"it ends at byte {start} without the opcode STOP: the file is cut off") from error
            reason = str(error) if isinstance(error, ValueError) else "values are missing or of the wrong kind"
            raise Refused(f"opcode {name_of(opcode)} at byte {start}: {reason}") from error

    # -- reading

    def take(self, size: int) -> memoryview:
        """Return the next ``size`` bytes, which must be there: a claimed length alone takes no memory."""
        end = self.at + size
        if end > len(self.data):
            raise ValueError(f"{size} bytes are claimed, {len(self.data) - self.at} are there")
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def unsigned(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def line(self) -> str:
        head = bytes(self.data[self.at : self.at + LINE_BYTES])
        text, newline, _ = head.partition(b"\n")
        if not newline:
            raise ValueError(f"a line without end within {LINE_BYTES} bytes")
        self.at += len(text) + 1
        return text.decode("utf-8")

    # -- the stack

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marked.pop()
        return items

    def remember(self, index: int) -> None:
        if index > self.budget.limits.opcodes:
            raise ValueError(f"memo number {index}")
        self.budget.charge(SLOT_BYTES)
        value = self.memo[index] = self.stack[-1]
        if isinstance(value, PendingArray):
            value.memo_numbers.append(index)

    def mention(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError("a global whose name is no text")
        if (module, name) not in self.accepted:
            printable = f"{module}.{name}"[:120].encode("unicode_escape").decode()
            raise ValueError(f"global {printable} is not one that published networks or arrays need")
        self.stack.append(Global(module, name))


def name_of(opcode: int) -> str:
    """Return ``REDUCE``, or ``0xff (unknown)``."""
    return NAMES.get(opcode, f"0x{opcode:02x} (unknown)")


INSTRUCTIONS: list[Callable[[Machine], None]] = []
Instruction = Callable[[Machine], None]


def _refuse(machine: Machine) -> None:
    raise ValueError("not an instruction that published networks or arrays need")


INSTRUCTIONS.extend([_refuse] * 256)


def instruction(*names: str) -> Callable[[Instruction], Instruction]:
    """Register the meaning of opcodes, by pickletools' names."""

    def register(meaning: Instruction) -> Instruction:
        for code, known in NAMES.items():
            if known in names:
                INSTRUCTIONS[code] = meaning
        return meaning

    return register


def _push(name: str, value: Callable[[Machine], Any]) -> None:
    def meaning(machine: Machine) -> None:
        machine.stack.append(value(machine))

    instruction(name)(meaning)


# -- values


def _charged(make: Callable[[], Any]) -> Callable[[Machine], Any]:
    def value(machine: Machine) -> Any:
        machine.budget.charge(OBJECT_BYTES)
        return make()

    return value


def _bytes(size: int) -> Callable[[Machine], Any]:
    def value(machine: Machine) -> bytes | memoryview:
        piece = machine.take(machine.unsigned(size))
        if len(piece) > VIEW_BYTES:
            return piece
        machine.budget.charge(len(piece))
        return bytes(piece)

    return value


def _signed_bytes(machine: Machine) -> Any:
    (length,) = struct.unpack("<i", machine.take(4))
    if length < 0:
        raise ValueError(f"a length of {length}")
    piece = machine.take(length)
    if length > VIEW_BYTES:
        return piece
    machine.budget.charge(length)
    return bytes(piece)


def _bytearray(machine: Machine) -> Any:
    return machine.take(machine.unsigned(8))


def _text(size: int) -> Callable[[Machine], Any]:
    def value(machine: Machine) -> str:
        piece = machine.take(machine.unsigned(size))
        machine.budget.charge(4 * len(piece))  # one rare character makes Python use four bytes for each
        return str(piece, "utf-8", "surrogatepass")

    return value


def _long(size: int) -> Callable[[Machine], Any]:
    def value(machine: Machine) -> int:
        length = machine.unsigned(size)
        if length > 255:
            raise ValueError(f"an integer of {length} bytes")
        return int.from_bytes(machine.take(length), "little", signed=True)

    return value


def _int_line(machine: Machine) -> Any:
    """Read a line of an integer: Python 2 wrote those of more than 32 bits so, under protocol 2 too."""
    text = machine.line()
    if text in ("00", "01"):
        return text == "01"
    if len(text) > 24:
        raise ValueError("an integer of more than 24 digits")
    return int(text)


_push("NONE", lambda machine: None)
_push("NEWTRUE", lambda machine: True)
_push("NEWFALSE", lambda machine: False)
_push("BININT", lambda machine: int.from_bytes(machine.take(4), "little", signed=True))
_push("BININT1", lambda machine: machine.unsigned(1))
_push("BININT2", lambda machine: machine.unsigned(2))
_push("LONG1", _long(1))
_push("LONG4", _long(4))
_push("INT", _int_line)
_push("BINFLOAT", lambda machine: struct.unpack(">d", machine.take(8))[0])
_push("SHORT_BINSTRING", _bytes(1))
_push("BINSTRING", _signed_bytes)
_push("SHORT_BINBYTES", _bytes(1))
_push("BINBYTES", _bytes(4))
_push("BINBYTES8", _bytes(8))
_push("BYTEARRAY8", _bytearray)
_push("SHORT_BINUNICODE", _text(1))
_push("BINUNICODE", _text(4))
_push("BINUNICODE8", _text(8))
_push("EMPTY_LIST", _charged(list))
_push("EMPTY_DICT", _charged(dict))
_push("EMPTY_SET", _charged(set))
_push("EMPTY_TUPLE", lambda machine: ())


# -- the stream, the stack, the memo


@instruction("PROTO")
def _proto(machine: Machine) -> None:
    if not 2 <= (version := machine.unsigned(1)) <= 5:
        raise ValueError(f"protocol {version}; 2 to 5 are read")


@instruction("FRAME")
def _frame(machine: Machine) -> None:
    length = machine.unsigned(8)
    if length > len(machine.data) - machine.at:
        raise ValueError(f"{length} bytes are claimed, {len(machine.data) - machine.at} are there")


@instruction("STOP")
def _stop(machine: Machine) -> None:
    raise Stop(machine.pop())


@instruction("POP")
def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


@instruction("POP_MARK")
def _pop_mark(machine: Machine) -> None:
    machine.pop_mark()


@instruction("DUP")
def _dup(machine: Machine) -> None:
    machine.stack.append(machine.stack[-1])


@instruction("MARK")
def _mark(machine: Machine) -> None:
    machine.budget.charge(OBJECT_BYTES)
    machine.marked.append(machine.stack)
    machine.stack = []


@instruction("MEMOIZE")
def _memoize(machine: Machine) -> None:
    machine.remember(len(machine.memo))


@instruction("BINPUT")
def _binput(machine: Machine) -> None:
    machine.remember(machine.unsigned(1))


@instruction("LONG_BINPUT")
def _long_binput(machine: Machine) -> None:
    machine.remember(machine.unsigned(4))


@instruction("BINGET", "LONG_BINGET")
def _get(machine: Machine) -> None:
    index = machine.unsigned(1 if machine.data[machine.at - 1] == ord("h") else 4)
    if index not in machine.memo:
        raise ValueError(f"memo number {index} was never set")
    machine.stack.append(machine.memo[index])


# -- containers


@instruction("TUPLE1", "TUPLE2", "TUPLE3")
def _short_tuple(machine: Machine) -> None:
    length = machine.data[machine.at - 1] - 0x84
    machine.budget.charge(OBJECT_BYTES)
    items = [machine.pop() for _ in range(length)]
    machine.stack.append(tuple(reversed(items)))


@instruction("TUPLE")
def _tuple(machine: Machine) -> None:
    machine.budget.charge(OBJECT_BYTES)
    items = tuple(machine.pop_mark())
    machine.stack.append(items)


@instruction("FROZENSET")
def _frozenset(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.budget.charge(SLOT_BYTES * (len(items) + 1))
    machine.stack.append(frozenset(check_key(item) for item in items))


def _top(machine: Machine, kind: type) -> Any:
    target = machine.stack[-1]
    if type(target) is not kind:
        raise ValueError(f"it fills a {kind.__name__}, and finds {type(target).__name__}")
    return target


@instruction("APPEND")
def _append(machine: Machine) -> None:
    item = machine.pop()
    _top(machine, list).append(item)


@instruction("APPENDS")
def _appends(machine: Machine) -> None:
    items = machine.pop_mark()
    _top(machine, list).extend(items)


@instruction("ADDITEMS")
def _additems(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.budget.charge(SLOT_BYTES * len(items))
    _top(machine, set).update(check_key(item) for item in items)


@instruction("SETITEM")
def _setitem(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.budget.charge(SLOT_BYTES)
    _top(machine, dict)[check_key(key)] = value


@instruction("SETITEMS")
def _setitems(machine: Machine) -> None:
    items = machine.pop_mark()
    if len(items) % 2:
        raise ValueError("a key without a value")
    machine.budget.charge(SLOT_BYTES * len(items))
    target = _top(machine, dict)
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[check_key(key)] = value


# -- globals, and what stands for calling them


@instruction("GLOBAL")
def _global(machine: Machine) -> None:
    module = machine.line()
    machine.mention(module, machine.line())


@instruction("STACK_GLOBAL")
def _stack_global(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.mention(module, name)


def _called(machine: Machine, table: dict[tuple[str, str], Any]) -> None:
    args, function = machine.pop(), machine.pop()
    if not isinstance(function, Global) or type(args) is not tuple:
        raise ValueError(f"a call of {type(function).__name__}, not of a global with a tuple of arguments")
    call = table.get((function.module, function.name))
    if call is None:
        raise ValueError(f"global {function} may be mentioned, not used so")
    machine.budget.charge(2 * OBJECT_BYTES)
    try:
        value = call(args, machine.budget, machine.load_storage)
    except Refused:
        raise
    except (ValueError, TypeError, IndexError) as error:
        reason = error if isinstance(error, ValueError) else "not the arguments it takes"
        raise ValueError(f"global {function}: {reason}") from error
    machine.stack.append(value)


@instruction("REDUCE")
def _reduce(machine: Machine) -> None:
    _called(machine, CALLS)


@instruction("NEWOBJ")
def _newobj(machine: Machine) -> None:
    _called(machine, NEW)


@instruction("BUILD")
def _build(machine: Machine) -> None:
    state = machine.pop()
    target = machine.stack[-1]
    if isinstance(target, PendingArray):
        array = array_of(state, machine.budget)
        machine.stack[-1] = array
        for number in target.memo_numbers:
            machine.memo[number] = array
    elif isinstance(target, DType):
        target.build(state)
    elif isinstance(target, Inert) and target.state is None:
        target.state = state
    elif type(target) is not dict:  # attributes of an OrderedDict or EasyDict: torch's version notes
        raise ValueError(f"a state for {type(target).__name__}")


@instruction("BINPERSID")
def _binpersid(machine: Machine) -> None:
    if machine.persistent_load is None:
        raise ValueError("a persistent id outside of torch's own stream")
    machine.stack.append(machine.persistent_load(machine.pop()))
