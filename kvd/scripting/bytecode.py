"""One change to compiled scripts: the outermost function makes no tail calls.

``return redis.call(...)`` is a tail call: Lua drops the script's frame before it calls, and with it the line
that an error should be reported at. In Redis the library is made of C functions, for which the frame stays;
ours are Lua functions. So the tail calls of a script's outermost function become plain calls, which return
the same values. That function runs once, so nothing can recurse through it and want the frame back.

What is changed is what this process's own Lua has just compiled; bytecode from outside is never loaded.
Source: Lua 5.1 lopcodes.h and ldump.c for the format.
"""

from __future__ import annotations

import struct
from typing import Final

# Signature, version 5.1, official format; then the sizes that the code below relies on.
_HEADER: Final = b"\x1bLua\x51\x00"
_HEADER_BYTES: Final = 12
_LITTLE_ENDIAN, _INT_BYTES, _SIZE_BYTES, _INSTRUCTION_BYTES = 1, 4, 8, 4
_SIZES: Final = bytes((_LITTLE_ENDIAN, _INT_BYTES, _SIZE_BYTES, _INSTRUCTION_BYTES))
# Between the source's name and the code: two line numbers, four bytes of counts.
_COUNTS_BYTES: Final = 2 * _INT_BYTES + 4

_OPCODE_MASK: Final = 0x3F
_OP_CALL: Final = 28
_OP_TAILCALL: Final = 29
_OP_SETLIST: Final = 34
_C_SHIFT: Final = 14
_C_MASK: Final = 0x1FF


def without_outer_tail_calls(compiled: bytes) -> bytes:
    """Return a dumped function with the tail calls of its outermost level replaced by calls.

    A tail call's own number of results is "all", and the RETURN behind it returns all: only the opcode
    differs. On a machine whose Lua has other sizes the function comes back as it is.
    """
    if compiled[:6] != _HEADER or compiled[6:10] != _SIZES:
        return compiled
    (name_length,) = struct.unpack_from("<Q", compiled, _HEADER_BYTES)
    position = _HEADER_BYTES + _SIZE_BYTES + name_length + _COUNTS_BYTES
    (count,) = struct.unpack_from("<I", compiled, position)
    code = bytearray(compiled)
    start = position + _INT_BYTES
    is_data = False
    for offset in range(start, start + count * _INSTRUCTION_BYTES, _INSTRUCTION_BYTES):
        (instruction,) = struct.unpack_from("<I", code, offset)
        opcode = instruction & _OPCODE_MASK
        if opcode == _OP_TAILCALL and not is_data:
            struct.pack_into("<I", code, offset, instruction & ~_OPCODE_MASK | _OP_CALL)
        # A SETLIST whose C does not fit keeps it in the word behind it.
        is_data = not is_data and opcode == _OP_SETLIST and not instruction >> _C_SHIFT & _C_MASK
    return bytes(code)
