"""What a command is about to do with a config, and how to try parts of it without a trace."""
import contextlib
import copy
import io
import logging
import random
import re
import warnings
from dataclasses import dataclass
from typing import Any, Callable, Generator, Iterator, Optional, Tuple

import numpy as np
import torch
from mmengine import registry as registries
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, TRANSFORMS, Registry, init_default_scope
from torch import nn

from mmrev.apis.distributed import alone
from mmrev.problems import Problem, ProblemError, closest, one_line
from mmrev.registry import find, names

from . import CONFIG, problems
from .signature import parameters


@dataclass
class Plan:
    """What a command is about to do; the checks that build a part of it keep it here."""

    cfg: Config  # with the command line merged in
    splits: Tuple[str, ...]  # of ``train``, ``val`` and ``test``, those that it goes through
    model: Optional[nn.Module] = None  # without weights

    def fix(self, path: str, value: str = 'VALUE') -> str:
        """Where an entry of the config can be set."""
        return f'Fix it in {self.cfg.filename}, or override it with --cfg-options {path}={value}'

    def problems(self) -> Iterator[Problem]:
        """Everything that is wrong; it is looked for in silence, and leaves config, disk and random numbers alone."""
        init_default_scope(str(self.cfg.get('default_scope') or 'mmengine'))
        found = problems(CONFIG, self)
        while True:
            with _unnoticed(), alone(self.cfg.get('launcher', 'none')):
                problem = next(found, None)
            if problem is None:
                return
            yield problem

    def require_none(self) -> None:
        """Raise the first problem, if there is one, as `ProblemError`. What was built is released."""
        for problem in self.problems():
            raise ProblemError(problem.what, problem.fix) from problem.cause
        self.model = None


def building(plan: Plan, path: str, build: Callable, *arguments: Any) -> Generator[Problem, None, Any]:
    """Build what is at `path` of the config; where that fails, yield why, in the builder's own words.

    Used as ``built = yield from building(...)``, which is None then.
    """
    try:
        return build(*arguments)
    except ImportError as error:
        yield Problem(f'`{path}` cannot be built: {one_line(error)}',
                      '`mmrev doctor` says what is installed and how to fix it', error)
    except Exception as error:
        config = next((entry for place, entry in walk(plan.cfg._cfg_dict, '') if place == path), None)
        yield _explain(plan, error, path, config)
    return None


def _explain(plan: Plan, error: Exception, path: str, config: Any) -> Problem:
    words = one_line(error)
    roots = {root.name: root for root in vars(registries).values() if isinstance(root, Registry)}
    unknown = re.match(r'(\S*) is not in the \S+::(.+) registry', words)
    surplus = re.search(r"unexpected keyword argument '(\w+)'", words)
    for place, entry in reversed(list(walk(config, path))):
        name = entry.get('type') if isinstance(entry, dict) else None
        if unknown and name == unknown.group(1):
            return unknown_type(plan, name, roots[unknown.group(2)], place)
        if name and not unknown and _fails_alike(entry, words):
            path, config = place, entry
            break
    built = find(config.get('type'), MODELS, TRANSFORMS) if isinstance(config, dict) else None
    near = closest(surplus.group(1), parameters(built)) if surplus and built else ''
    return Problem(f'`{path}` cannot be built: {words}',
                   near + plan.fix(path + '.KEY' * isinstance(config, dict)), error)


def _fails_alike(entry: dict, words: str) -> bool:
    """Whether an entry of a model or pipeline, built by itself, fails with the same words."""
    for registry in (MODELS, TRANSFORMS):
        if find(entry['type'], registry):
            try:
                registry.build(copy.deepcopy(entry))
            except Exception as error:
                return one_line(error) == words
    return False


def unknown_type(plan: Plan, name: str, registry: Registry, path: str) -> Problem:
    """Say that neither mmengine's `registry` nor those below it have a class `name`, and what is near."""
    return Problem(f'there is no {registry.name} `{name}` ({path}.type)', f'{closest(name, names(registry))}Fix it in '
                   f'{plan.cfg.filename}, or import your own class there: custom_imports=dict(imports=[...])')


def walk(node: Any, path: str) -> Iterator[Tuple[str, Any]]:
    """A config's node at `path` and all nodes below it, each with its path."""
    yield path, node
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, child in children:
        yield from walk(child, f'{path}.{key}'.lstrip('.'))


@contextlib.contextmanager
def _unnoticed() -> Iterator[None]:
    """Say nothing meanwhile, and leave the random generators as they were."""
    MMLogger.get_current_instance()  # mmengine's logger keeps the stream that it finds when it is made
    python, numpy, disabled = random.getstate(), np.random.get_state(), logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (torch.random.fork_rng(devices=[]), warnings.catch_warnings(),
              contextlib.redirect_stdout(io.StringIO())):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(disabled)
        random.setstate(python)
        np.random.set_state(numpy)
