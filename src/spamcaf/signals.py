"""How a command ends that is interrupted (SIGINT, Ctrl-C) or told to end (SIGTERM): soon, with one line."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import click

GRACE_S = 0.7  # for temporary files and started processes to be put away
# the process that removes semaphores of one that ended suddenly says so
TRACKER = "ignore::UserWarning:multiprocessing.resource_tracker"
WORDS = {signal.SIGINT: "Interrupted", signal.SIGTERM: "Terminated"}


@contextmanager
def ending_soon() -> Iterator[None]:
    """End the process soon after SIGINT (code 130) or SIGTERM (code 143) inside the block, with one line.

    The signal raises KeyboardInterrupt in the main thread, which puts away what it has begun. Python raises it between
    two of its own steps only, libraries may swallow it, and threads may keep the process: another thread, which the
    system wakes at once, ends the process where it still runs after `GRACE_S`. Outside of the main thread nothing is
    changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        if not received:  # another one would only break off what is being put away
            received.append(number)
            # what a library's callback swallows, it prints as a traceback
            sys.unraisablehook = lambda _: None
            raise KeyboardInterrupt

    woken, wake = socket.socketpair()
    wake.setblocking(False)
    before = {number: signal.getsignal(number) for number in WORDS}
    wakeup = -1
    try:
        for number in WORDS:  # inside: one that comes at once ends as any other
            signal.signal(number, interrupt)
        # behind other exit functions; freeing all modules takes long, and Python may end by a signal of its own instead
        atexit.register(lambda: _end(received[0]) if received else None)
        os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), TRACKER]))
        wakeup = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=_end_after_grace, args=(woken,), daemon=True).start()
        yield
    except BaseException:  # a library may raise another error in place of the interruption
        if not received:
            raise
        _say(received[0])
        sys.exit(128 + received[0])  # the handlers stay: threads and exit functions may take longer than the grace
    finally:
        if not received:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            wake.close()


@contextmanager
def held_back() -> Iterator[None]:
    """Start processes and threads inside the block that get no SIGINT, which Ctrl-C sends to all: this one ends them.

    One that comes meanwhile waits until the block ends.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # begun inside, it would let the signal through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_after_grace(woken: socket.socket) -> None:
    with woken:
        while (byte := woken.recv(1)) and byte[0] not in WORDS:
            pass
    if byte:
        time.sleep(GRACE_S)
        _say(byte[0])
        _end(byte[0])


def _end(number: int) -> NoReturn:
    for process in multiprocessing.active_children():
        process.kill()
    os._exit(128 + number)


_said = threading.Lock()


def _say(number: int) -> None:
    """Print the line, once."""
    if _said.acquire(blocking=False):
        words = WORDS[signal.Signals(number)]
        click.echo(f"\n{words}; what is stored stays, the same command goes on from there.", err=True)
        sys.stdout.flush()
