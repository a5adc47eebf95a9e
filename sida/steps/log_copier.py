"""Copy two pipes on, and keep the end of what went through in a file; started by ``sida.steps.log``, never by hand.

    python -I -S log_copier.py OUT ERR FILE LIMIT    two descriptors to read, and the file of at most 2 * LIMIT bytes, appended to

A process of its own: the step may be killed, or crash in native code, and its last words are still passed on. It ends when
no process holds the other ends any more. Standard library alone, so that it starts in milliseconds.
"""

import io
import os
import selectors
import sys

BLOCK = 1 << 16


def main(out: int, err: int, path: str, limit: int) -> None:
    """Copy until both pipes are at their end. Whole lines are kept: others append to the file too."""
    begun = {out: b"", err: b""}  # lines that are not ended yet
    with selectors.DefaultSelector() as waiting, open(path, "a+b", buffering=0) as kept:
        for source, target in ((out, 1), (err, 2)):
            waiting.register(source, selectors.EVENT_READ, target)
        while waiting.get_map():
            for ready, _ in waiting.select():
                block = os.read(ready.fd, BLOCK)
                if block:
                    _pass_on(ready.data, block)
                else:
                    waiting.unregister(ready.fd)
                text = begun[ready.fd] + block
                end = text.rfind(b"\n") + 1 if block and len(text) < 2 * BLOCK else len(text)
                begun[ready.fd] = text[end:]
                kept.write(text[:end])
                if kept.tell() > 2 * limit:
                    _shorten(kept, limit)


def _pass_on(target: int, block: bytes) -> None:
    """Write all of it; a reader that has gone must not end the step."""
    try:
        while block:
            block = block[os.write(target, block) :]
    except OSError:
        pass


def _shorten(kept: io.FileIO, limit: int) -> None:
    kept.seek(-limit, os.SEEK_END)
    end = kept.read()
    kept.seek(0)
    kept.truncate()
    kept.write(end)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
