"""Keep standard output apart from whatever else would be written there."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO


@contextlib.contextmanager
def stdout_apart(for_good: bool) -> Iterator[TextIO]:
    """Keep stdout for the report: what anyone else writes there goes to stderr.

    Be it from Python, from C, or from a process that the model starts.

    Args:
        for_good: also what is called when this process ends.
    """
    # A program without a console has none.
    before, first = sys.stdout or io.StringIO(), sys.__stdout__
    if first is None or sys.__stderr__ is None:  # closed by who started us
        with contextlib.redirect_stdout(sys.stderr):
            yield before
        return
    for stream in (first, before):
        with contextlib.suppress(ValueError):  # it was closed
            stream.flush()
    real = os.dup(1)
    os.dup2(2, 1)
    out = before
    # A program may have another one than Python's own, that goes to the same place.
    if isinstance(before, io.TextIOWrapper) and _descriptor(before) == 1:
        like = {"encoding": before.encoding, "errors": before.errors}
        out = open(os.dup(real), "w", **like)  # noqa: SIM115 - closed below
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield out
    finally:
        with contextlib.suppress(OSError, ValueError):  # whoever reads has gone; it was closed
            first.flush()
        if out is not before:
            with contextlib.suppress(OSError):
                out.close()
        if not for_good:
            os.dup2(real, 1)
        os.close(real)


def _descriptor(stream: TextIO) -> int | None:
    """Return where a stream writes to; None where that is memory."""
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError):
        return None
