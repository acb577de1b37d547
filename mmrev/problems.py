"""Problems in two lines (what is wrong, how to fix it), their exception, and phases that name where it was raised.

A check yields `Problem`. Code that cannot continue raises `ProblemError`. Commands do their work in a `phase`, which
turns any other exception into a `ProblemError` that names the phase and quotes the exception's message.
"""
import contextlib
import difflib
import inspect
import re
import traceback
from pathlib import Path
from typing import Any, Iterable, Iterator, List, NamedTuple, Optional, Sequence

_RELAYED = re.compile(r'Caught (\w+) in .*^(?:[\w.]+\.)?\1: (.*?)(?:\n  (.*))?\s*$', re.DOTALL | re.MULTILINE)
LOST = 'another process of this run has ended'  # the message of the processes that detect it


class Problem(NamedTuple):
    """Something that a user can fix."""

    what: str  # what is wrong, by name
    fix: str = ''  # how to fix it
    cause: Optional[BaseException] = None  # the exception that revealed it


class ProblemError(ValueError):
    """Raised when a problem ends a command.

    Args:
        what: What is wrong, by name.
        fix: How to fix it.
        status: Exit status of the command: 2 for wrong input, 1 for a run that failed after it had begun.
    """

    def __init__(self, what: str, fix: str = '', status: int = 2):
        relayed = _RELAYED.match(what)  # from a data worker, which sends its exception as text with a traceback
        if relayed:
            what, fix = relayed.group(2), relayed.group(3) or fix
        what = what if len(what) <= 1000 else what[:997] + '...'
        super().__init__(what, fix, status)
        self.what = what
        self.fix = fix.strip()
        self.status = status

    def __str__(self) -> str:
        return f'{self.what}\n  {self.fix}' if self.fix else self.what


class Terminated(KeyboardInterrupt):
    """Raised when SIGTERM ends a run, after a checkpoint has been saved."""


@contextlib.contextmanager
def phase(name: str, fix: str = '', status: int = 2) -> Iterator[None]:
    """Name what a block does, for the message of an exception that leaves it. The innermost of nested phases is used.

    Args:
        name: What the block does, such as ``'iteration 7'``.
        fix: How to fix it.
        status: See `ProblemError`.

    Raises:
        ProblemError: If the block raises an exception.
    """
    try:
        yield
    except (ProblemError, KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:  # of a config or a class of the user, as SystemExit is
        if isinstance(error, PermissionError) and error.filename and (not fix or '--traceback' in fix):
            fix = 'Give this user the permission, or name another file or folder'
        raise ProblemError(f'{name}: {one_line(error)}', fix, status) from error


def one_line(error: BaseException) -> str:
    """The message of an exception in one line of at most 400 characters, with the type if it is a single word."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, OSError) and error.filename is not None:
        text = f'{error.strerror}: `{error.filename}`'
    relayed = _RELAYED.match(text)
    text = ' '.join((relayed.group(2) if relayed else text).split())
    if ' ' not in text:  # a bare key, or no message
        text = f'{type(error).__name__}: {text or _raised_by(error)}'.rstrip(': ')
    return text if len(text) <= 400 else text[:397] + '...'


def _raised_by(error: BaseException) -> str:
    """The line of code that raised an exception."""
    frames = traceback.extract_tb(error.__traceback__)
    return f'{frames[-1].line} (in {frames[-1].name} of {Path(frames[-1].filename).name})' if frames else ''


def chained(error: BaseException) -> List[BaseException]:
    """The exceptions that led to this one, the first one first."""
    chain = [error]
    while chain[0].__cause__ or chain[0].__context__:
        chain.insert(0, chain[0].__cause__ or chain[0].__context__)
    return chain


def passed_by(error: BaseException, objects: Sequence[Any], base: type) -> Any:
    """The object with the most methods among those that an exception passed, or None.

    Args:
        error: The exception.
        objects: Instances of subclasses of `base`.
        base: The class whose own methods do not count.
    """
    passed = {frame.f_code for link in chained(error) for frame, _ in traceback.walk_tb(link.__traceback__)}

    def number(x: Any) -> int:
        methods = [inspect.unwrap(f) for kind in type(x).__mro__ if kind not in base.__mro__
                   for f in vars(kind).values() if inspect.isfunction(f)]
        return len({f.__code__ for f in methods} & passed)

    found = max(objects, key=number, default=None)
    return found if found is not None and number(found) else None


def closest(name: str, choices: Iterable[str], likeness: float = 0.6) -> str:
    """The choices closest to `name`, as the beginning of a fix; empty if none is similar."""
    choices = sorted(set(choices))
    near = difflib.get_close_matches(name, choices, n=3, cutoff=likeness)
    near = [choice for choice in choices if choice.lower() == name.lower() != choice] or near
    return f'Did you mean {" or ".join(f"`{choice}`" for choice in near)}? ' if near else ''
