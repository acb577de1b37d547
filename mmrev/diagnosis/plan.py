"""The config of a command, and building parts of it without side effects."""
import re
from dataclasses import dataclass, field
from typing import Any, Callable, Generator, Iterator, Optional, Set, Tuple

from mmengine import registry as registries
from mmengine.config import Config
from mmengine.registry import MODELS, TRANSFORMS, Registry, init_default_scope
from torch import nn

from mmrev.apis.distributed import alone
from mmrev.apis.entries import entry_passed, key_named, known_fix, walk
from mmrev.problems import Problem, ProblemError, closest, one_line
from mmrev.registry import find, names
from mmrev.side_effects import unnoticed

from . import CONFIG, problems
from .signature import parameters


@dataclass
class Plan:
    """Config and splits that a command will run. Checks store the parts that they build here."""

    cfg: Config  # including the options of the command line
    splits: Tuple[str, ...]  # those of ``train``, ``val`` and ``test`` that the command runs
    model: Optional[nn.Module] = None  # without trained weights
    whole: bool = False  # whether to read annotation files of any size
    skip_wrong: bool = False  # whether the run leaves out wrong annotations
    mistyped: Set[str] = field(default_factory=set)  # paths of values of a type that their class does not take

    def fix(self, path: str, value: str = 'VALUE') -> str:
        """A hint where to set an entry of the config."""
        return f'Fix it in {self.cfg.filename}, or override it with --cfg-options {path}={value}'

    def problems(self) -> Iterator[Problem]:
        """Yield everything that is wrong, without output or changes of config, disk and random state."""
        init_default_scope(str(self.cfg.get('default_scope') or 'mmengine'))
        found = problems(CONFIG, self)
        while True:
            with unnoticed(), alone(self.cfg.get('launcher', 'none')):
                problem = next(found, None)
            if problem is None:
                return
            yield problem

    def require_none(self) -> None:
        """Raise the first problem, if any, as `ProblemError`. Release what was built."""
        for problem in self.problems():
            raise ProblemError(problem.what, problem.fix) from problem.cause
        self.model = None


def building(plan: Plan, path: str, build: Callable, *arguments: Any) -> Generator[Problem, None, Any]:
    """Build what is at `path` of the config. If that fails, yield a problem with the builder's message.

    Used as ``built = yield from building(...)``; ``built`` is None after a failure.
    """
    try:
        return build(*arguments)
    except ImportError as error:
        yield Problem(f'`{path}` cannot be built: {one_line(error)}',
                      '`mmrev doctor` shows what is installed and how to fix it', error)
    except Exception as error:
        config = next((entry for place, entry in walk(plan.cfg._cfg_dict, '') if place == path), None)
        yield _explain(plan, error, path, config)
    return None


def _explain(plan: Plan, error: Exception, path: str, config: Any) -> Problem:
    words, near = one_line(error), ''
    roots = {root.name: root for root in vars(registries).values() if isinstance(root, Registry)}
    unknown = re.match(r'(\S*) is not in the \S+::(.+) registry', words)
    called = re.search(r"(\w+)\.__init__\(\)(?: got an unexpected keyword argument '(\w+)')?", words)
    name, key = called.groups() if called else (None, None)
    place, entries = entry_passed(error, config, path) or path, dict(walk(config, path))
    for inner, entry in reversed(entries.items()):
        kind = entry.get('type') if isinstance(entry, dict) else None
        if unknown and kind == unknown.group(1):
            return unknown_type(plan, kind, roots[unknown.group(2)], inner)
        if name and getattr(kind, '__name__', str(kind)).endswith(name) and (key is None or key in entry):
            place, near = inner, closest(key or '', parameters(find(kind, MODELS, TRANSFORMS)))
    inner = f'.{"KEY" if key else key_named(words, entries[place])}' * isinstance(entries[place], dict)
    return Problem(f'`{place}` cannot be built: {words}', known_fix(words) or near + plan.fix(place + inner), error)


def unknown_type(plan: Plan, name: str, registry: Registry, path: str) -> Problem:
    """Report that neither `registry` nor its children have a class `name`, and suggest similar names."""
    return Problem(f'there is no {registry.name} `{name}` ({path}.type)', f'{closest(name, names(registry))}Fix it in '
                   f'{plan.cfg.filename}, or import your own class there: custom_imports=dict(imports=[...])')
