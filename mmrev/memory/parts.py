"""The parts of a model that trade memory for time: blocks, and steps of reversible sequences."""
from typing import Callable, Collection, Dict, Iterator, List, Mapping, NamedTuple, Tuple

from torch import nn

from mmrev.reversible import ReversibleSequence
from mmrev.surgery.recomputation import find_blocks, save_memory

KEPT, CHEAP = 'kept', 'cheap'
RECOMPUTED, UNDONE = 'recomputed', 'undone'


class Part(NamedTuple):
    """A part of a model.

    Attributes:
        name: Name as in ``named_modules``.
        choices: Possible choices, from the fastest to the one that stores least: ``'kept'``, as under plain autograd;
            ``'cheap'``, recompute what is cheap (:func:`mmrev.save_memory`); ``'recomputed'``, recompute the part from
            its input; ``'undone'``, undo the step of a reversible sequence.
    """
    name: str
    choices: Tuple[str, ...]


def find_parts(model: nn.Module, called: Collection[str]) -> List[Part]:
    """Find steps of reversible sequences, blocks (:func:`find_blocks`), and other modules that have layers.

    Args:
        model: The model.
        called: Names of the modules whose forward runs in training.

    Returns:
        The parts in the order of ``named_modules``.
    """
    names = {module: name for name, module in model.named_modules()}
    steps = {*find_steps(model)}
    blocks = {names[m] for m in find_blocks(model)} & {*called}
    blocks = {name for name in blocks if not _within(name, steps)}
    beside = {path: layers > 1 for path, layers in _beside(model, '', steps | blocks, called)}
    parts = []
    for name in names.values():
        if name in steps:
            parts.append(Part(name, (KEPT, CHEAP, UNDONE)))
        elif name in blocks or beside.get(name):
            parts.append(Part(name, (KEPT, CHEAP, RECOMPUTED)))
        elif name in beside or not name:
            parts.append(Part(name, (KEPT, CHEAP)))
    return parts


def find_steps(model: nn.Module) -> List[str]:
    """Names of the functions of the steps that can be undone."""
    return [name for _, names in _sequences(model) for name in names]


def _sequences(model: nn.Module) -> Iterator[Tuple[ReversibleSequence, List[str]]]:
    """The outermost reversible sequences, with the names of the functions of their steps."""
    names = {module: name for name, module in model.named_modules()}
    found: List[str] = []
    for name, module in model.named_modules():
        if isinstance(module, ReversibleSequence) and module.reversible and not _within(name, found):
            found.append(name)
            steps = [names.get(step.f) for step in module._steps()]
            if all(steps):
                yield module, steps  # type: ignore[misc]


def _within(name: str, names: Collection[str]) -> bool:
    """Whether a module is one of these, or inside one."""
    parts = name.split('.')
    return any('.'.join(parts[:n]) in names for n in range(1, len(parts) + 1))


def _beside(module: nn.Module, name: str, parts: Collection[str], called: Collection[str]
            ) -> Iterator[Tuple[str, int]]:
    """The largest modules that neither contain parts nor lie inside one, with their number of layers."""
    for child_name, child in module.named_children():
        path = f'{name}.{child_name}'.lstrip('.')
        if _within(path, parts):
            continue
        if path in called and not any(part.startswith(f'{path}.') for part in parts):
            weights = (getattr(m, 'weight', None) for m in child.modules())
            yield path, sum(isinstance(weight, nn.Parameter) and weight.ndim > 1 for weight in weights)
        else:
            yield from _beside(child, path, parts, called)


def apply(model: nn.Module, choices: Mapping[str, str]) -> Callable[[], None]:
    """Apply choices to the parts of a model. Outputs and gradients stay the same.

    Args:
        model: Changed in place; its modules, parameters and state dict stay.
        choices: Choice for each part of the model, by its name; see :class:`Part`.

    Returns:
        A function that undoes the change.
    """
    before: Dict[ReversibleSequence, object] = {}
    for sequence, steps in list(_sequences(model)):
        before[sequence] = sequence.keep
        sequence.keep = ['undo' if choices[step] == UNDONE else 'graph' for step in steps]
    report = None
    if {CHEAP, RECOMPUTED} & {*choices.values()}:
        names: Dict[str, List[str]] = {choice: [] for choice in (KEPT, CHEAP, RECOMPUTED, UNDONE)}
        for name, choice in choices.items():
            names[choice].append(name)
        report = save_memory(model, 'blocks', names[RECOMPUTED], names[KEPT], names[CHEAP] + names[RECOMPUTED])

    def remove() -> None:
        for sequence, keep in before.items():
            sequence.keep = keep  # type: ignore[assignment]
        if report is not None:
            report.remove()

    return remove
