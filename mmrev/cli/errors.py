"""Whose mistake is it? What a person can mend ends in two lines and status 2; a bug keeps its traceback.

Four kinds of code run in a command, and each has its rule:

- `users_input`: reading what the user wrote. Whatever fails there is the user's to mend.
- `building`: building one part of the config, to see whether it can be. The same; ``--traceback`` shows a bug.
- `start_up`: building from the config. An error that a check *raised* (``raise ValueError(...)``, ``assert``) speaks to
  the user; one that the interpreter ran into (an attribute that is not there) is a bug.
- What runs once the start-up is over: only a file that cannot be read or written is the user's.
"""
import contextlib
import dis
import errno
import os
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, Optional, Tuple

from mmrev.problems import ProblemError, closest, one_line

if TYPE_CHECKING:
    from mmengine.registry import Registry

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
_SPOKEN = (ValueError, TypeError, KeyError, AssertionError, RuntimeError, OSError)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; its text says how to go on."""


@contextlib.contextmanager
def users_input(what: str, remedy: str = '') -> Iterator[None]:
    """Take every error in the block for one of the user's, in `what`."""
    try:
        yield
    except ProblemError:
        raise
    except Exception as error:
        raise ProblemError(f'{what}: {one_line(error)}', remedy) from error


@contextlib.contextmanager
def building(path: str, config: Any, file: str) -> Iterator[None]:
    """Take every error in the block for the user's: it builds what is at `path` of the config `file`, to check it."""
    try:
        yield
    except ProblemError:
        raise
    except Exception as error:
        part = _part_built(error, path, config)
        remedy = f'Mend `{part}` in {file}, or override it with --cfg-options {part}' + \
            '.KEY' * isinstance(config, dict) + '=VALUE'
        if not is_complaint(error):
            remedy += '; --traceback shows where it was noticed'
        raise _as_user_error(error, remedy, part) from error


@contextlib.contextmanager
def start_up(remedy: str = '', over: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Take complaints in the block for the user's, as long as the start-up is not `over`; file problems always."""
    try:
        yield
    except ProblemError:
        raise
    except Exception as error:
        if is_file_problem(error):
            missing = isinstance(error, FileNotFoundError)
            raise ProblemError(one_line(error), 'Put it in its place, or fix the config or annotation file that names it'
                               if missing else 'Make room or give access there, or use another folder') from error
        if (is_complaint(error) or isinstance(error, (ConnectionError, TimeoutError))) and not over():
            raise _as_user_error(error, remedy) from error
        raise


def is_file_problem(error: BaseException) -> bool:
    """Whether the operating system refused a file (missing, not allowed, disk full), here or in a data worker."""
    if isinstance(error, (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)):
        return True
    return isinstance(error, OSError) and (error.filename is not None or error.errno == errno.ENOSPC)


def is_complaint(error: BaseException) -> bool:
    """Whether somebody's check raised this in words, rather than the interpreter running into it."""
    if isinstance(error, ImportError):
        return True  # something is not installed
    if error.__traceback__ is None or not isinstance(error, _SPOKEN):
        return False
    origin = error.__traceback__
    while origin.tb_next is not None:
        origin = origin.tb_next
    code = origin.tb_frame.f_code
    step = next(step.opname for step in dis.get_instructions(code) if step.offset == origin.tb_lasti)
    if step == 'CALL_FUNCTION_EX':  # f(**keys): the config's keys do not fit the signature
        return isinstance(error, TypeError)
    failed_lookup = code.co_name in ('__missing__', '__getitem__', '__getattr__')
    relayed = code.co_name == 'reraise'  # from a data worker, whose frames are gone
    return step == 'RAISE_VARARGS' and not failed_lookup and not relayed


def run_command(prog: str, body: Callable[[], None], with_traceback: bool = False) -> int:
    """Run a command's body and turn its end into an exit status.

    Args:
        prog: The command as typed, for the message.
        body: Does the work.
        with_traceback: Show the traceback of user errors as well.

    Returns:
        0, `EXIT_USER_ERROR` or `EXIT_INTERRUPTED`; any other error is not caught.
    """
    try:
        body()
        return 0
    except (ProblemError, KeyboardInterrupt) as error:
        if with_traceback:
            traceback.print_exc()
        first = os.environ.get('LOCAL_RANK', '0') == '0'
        if isinstance(error, ProblemError):
            if not first:
                time.sleep(10)  # if the first process fails too, it says so, and the launcher ends this one meanwhile
            _say(f'{prog}: error: {error}')
            return EXIT_USER_ERROR
        if first:
            _say(f'\n{prog}: interrupted. {error}'.rstrip())
        return EXIT_INTERRUPTED


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _as_user_error(error: Exception, remedy: str, part: str = '') -> ProblemError:
    """An error in terms of the config: which entry of it, in which `part`, could not be built, and why."""
    if isinstance(error, ImportError):
        return ProblemError(one_line(error), '`mmrev doctor` says what is installed and how to mend it')
    builder = _last_builder(error)
    if builder is None:
        return ProblemError(f'`{part}`: ' * bool(part) + one_line(error), remedy)
    name, built = (builder.get(key) for key in ('obj_type', 'obj_cls'))
    if built is None and isinstance(name, str):
        return unknown_type(name, builder['registry'], part, remedy)
    return ProblemError(f'`{getattr(built, "__name__", built or part)}`' + f' of `{part}`' * bool(part and built) +
                     f' cannot be built from the config: {one_line(error)}', remedy)


def _last_builder(error: Exception) -> Optional[Dict[str, Any]]:
    """The local variables of the innermost call of a registry that the error passed."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    builders = [frame for frame in frames if frame.f_code.co_name == 'build_from_cfg']
    return builders[-1].f_locals if builders else None


def _part_built(error: Exception, path: str, config: Any) -> str:
    """Where below `path` the entry is that could not be built, if its ``type`` is there once."""
    entry = (_last_builder(error) or {}).get('cfg')
    name = entry.get('type') if isinstance(entry, dict) else None
    places = [place for place, node in walk(config, path) if isinstance(node, dict) and node.get('type') == name]
    return places[0] if name is not None and len(places) == 1 else path


def walk(node: Any, path: str) -> Iterator[Tuple[str, Any]]:
    """A config's node at `path` and all nodes below it, each with its path."""
    yield path, node
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, child in children:
        yield from walk(child, f'{path}.{key}'.lstrip('.'))


def unknown_type(name: str, registry: 'Registry', path: str, remedy: str) -> ProblemError:
    """Say that neither mmengine's `registry` nor those around it have a class `name`, and what is near.

    Args:
        name: What the config says.
        registry: Where it was looked up.
        path: Where the config says it, if known.
        remedy: What to do.
    """
    names = {*registry.module_dict, *registry.root.module_dict}
    for scope, child in registry.root.children.items():
        names.update(f'{scope}.{key}' for key in child.module_dict)
    return ProblemError(f'there is no {registry.name} `{name}`' + f' ({path})' * bool(path), closest(name, names) + remedy)
