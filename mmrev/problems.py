"""What is wrong and how to fix it, in two lines; the one exception that carries them; the phases that name it.

A check yields `Problem`. Code that cannot go on raises `ProblemError`. Everything that a command does runs in a
`phase`, which turns any other exception into a `ProblemError`: what was being done, and the exception's own message.
"""
import contextlib
import difflib
import re
from typing import Iterable, Iterator, NamedTuple, Optional

_RELAYED = re.compile(r'Caught (\w+) in .*^(?:[\w.]+\.)?\1: (.*?)(?:\n  (.*))?\s*$', re.DOTALL | re.MULTILINE)


class Problem(NamedTuple):
    """Something that a person can fix."""

    what: str  # is wrong, naming it
    fix: str = ''  # the way out
    cause: Optional[BaseException] = None  # where it was noticed


class ProblemError(ValueError):
    """Raised where a problem is the end.

    Args:
        what: What is wrong, naming it.
        fix: The way out.
        status: The exit status of a command that ends with it: 2 where the input is wrong, 1 where a run failed that
            had begun.
    """

    def __init__(self, what: str, fix: str = '', status: int = 2):
        relayed = _RELAYED.match(what)  # by a data worker, whose exception becomes one text with its traceback
        if relayed:
            what, fix = relayed.group(2), relayed.group(3) or fix
        super().__init__(f'{what}\n  {fix.strip()}' if fix else what)
        self.what = what
        self.fix = fix.strip()
        self.status = status


@contextlib.contextmanager
def phase(name: str, fix: str = '', status: int = 2) -> Iterator[None]:
    """Name what the block does: an exception that leaves it says so. Of nested phases the innermost counts.

    Args:
        name: What is being done, as ``'iteration 7'``.
        fix: The way out.
        status: See `ProblemError`.

    Raises:
        ProblemError: If the block raises an exception.
    """
    try:
        yield
    except ProblemError:
        raise
    except Exception as error:
        raise ProblemError(f'{name}: {one_line(error)}', fix, status) from error


def one_line(error: BaseException) -> str:
    """An exception's own message in one line of at most 400 characters, with its type where that says more."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, OSError) and error.filename is not None:
        text = f'{error.strerror}: `{error.filename}`'
    relayed = _RELAYED.match(text)
    text = ' '.join((relayed.group(2) if relayed else text).split())
    if ' ' not in text:  # a bare key or nothing
        text = f'{type(error).__name__}: {text}'.rstrip(': ')
    return text if len(text) <= 400 else text[:397] + '...'


def closest(name: str, choices: Iterable[str]) -> str:
    """The choices nearest to `name`, as the start of a fix; empty if there are none."""
    near = difflib.get_close_matches(name, sorted(set(choices)), n=3)
    return f'Did you mean {" or ".join(f"`{choice}`" for choice in near)}? ' if near else ''
