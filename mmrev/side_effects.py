"""Run code without side effects: restore random states, suppress output, hold warnings back, outlive a reader."""
import contextlib
import functools
import io
import logging
import os
import random
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.logging import MMLogger

_held: List[Callable[[], None]] = []  # what `show_warnings` does


def random_states() -> Dict[str, Any]:
    """Return the states of the default random generators of this process, as plain values and tensors."""
    kind, keys, *rest = np.random.get_state()
    states = dict(python=random.getstate(), numpy=(kind, keys.tolist(), *rest), torch=torch.get_rng_state())
    if torch.cuda.is_initialized():
        states['cuda'] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: Dict[str, Any]) -> None:
    """Set the generators to what `random_states` returned."""
    version, internal, gauss = states['python']
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(states['numpy'])
    torch.set_rng_state(states['torch'].cpu())
    if 'cuda' in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states['cuda'].cpu())


@contextlib.contextmanager
def random_states_kept() -> Iterator[None]:
    """Restore the random states at the end of the block."""
    states = random_states()
    try:
        yield
    finally:
        set_random_states(states)


@contextlib.contextmanager
def unnoticed() -> Iterator[None]:
    """Suppress all output, and restore the random states at the end of the block."""
    MMLogger.get_current_instance()  # created now, because it keeps the stream that it finds at its creation
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (random_states_kept(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()),
              standard_error_suppressed()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(disabled)


@contextlib.contextmanager
def standard_error_suppressed() -> Iterator[None]:
    """Suppress also what libraries in C write to standard error, such as libpng about a damaged image."""
    if sys.stderr is None:  # it is closed
        yield
        return
    sys.stderr.flush()
    own, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(own, 2)
        os.close(own)
        os.close(nothing)


@contextlib.contextmanager
def warnings_held() -> Iterator[None]:
    """Hold warnings back until `show_warnings`, or the end of the block; an exception before either discards them."""
    show = warnings.showwarning
    _held[:] = [functools.partial(setattr, warnings, 'showwarning', show)]
    warnings.showwarning = lambda *args, **kwargs: _held.append(functools.partial(show, *args, **kwargs))
    try:
        yield
    except BaseException:
        del _held[1:]
        raise
    finally:
        show_warnings()


def show_warnings() -> None:
    """Show what `warnings_held` holds back, and further warnings at once."""
    while _held:
        _held.pop(0)()


@contextlib.contextmanager
def log_outlives_reader() -> Iterator[None]:
    """Within the block, log to the files alone once the reader of the output has ended, such as ``head``."""
    handle = logging.StreamHandler.handleError

    def handle_error(handler: logging.Handler, record: logging.LogRecord) -> None:
        stream = getattr(handler, 'stream', None)
        if isinstance(sys.exc_info()[1], BrokenPipeError) and hasattr(stream, 'fileno'):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # also what other libraries print
        else:
            handle(handler, record)

    logging.StreamHandler.handleError = handle_error  # type: ignore[method-assign]
    try:
        yield
    finally:
        logging.StreamHandler.handleError = handle  # type: ignore[method-assign]


def try_writing_to(file: str) -> None:
    """Open a local file for writing, in a folder that is created if needed, and leave everything as it was.

    Raises:
        OSError: If that is impossible.
    """
    try_writing(os.path.dirname(file))
    if is_main_process() and os.path.isdir(os.path.dirname(file) or '.'):
        missing = not os.path.lexists(file)
        open(file, 'ab').close()
        if missing:
            os.remove(file)


def try_writing(folder: str) -> None:
    """Write a file into a local folder, created if needed, and remove both again. Only the first process does so.

    Raises:
        OSError: If that is impossible.
    """
    if not is_main_process():
        return
    path = Path(folder).absolute()
    made = [each for each in (path, *path.parents) if not each.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    finally:
        with contextlib.suppress(OSError):  # it was not created, or another process writes there
            for each in made:
                each.rmdir()
