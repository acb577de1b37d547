"""Find what a converted checkpoint lacks, whatever the depth of its network."""
import re
from typing import Container, Dict, Iterable, List, Sequence, Set

NORM = ('weight', 'bias', 'running_mean', 'running_var')


def names_of(module: str, kinds: Sequence[str] = ('weight', 'bias')) -> List[str]:
    """The names of a module's weights."""
    return [f'{module}.{kind}' for kind in kinds]


def require(weights: Container[str], names: Iterable[str]) -> None:
    """Check that there are weights of these names.

    Raises:
        KeyError: If one is missing. The message has its name, and how many others are missing.
    """
    missing = [name for name in names if name not in weights]
    if missing:
        raise KeyError(f'`{missing[0]}` is missing' + f', and {len(missing) - 1} more' * (len(missing) > 1))


def check_blocks(weights: Iterable[str], block: str, optional: Sequence[str] = (), first: int = 0) -> List[int]:
    """Check that no block is missing between others, and that each has the weights that others have.

    Args:
        weights: Their names.
        block: Name of a block, with ``{stage}`` and ``{number}`` for its stage and its number in the stage, from 0.
        optional: Patterns of weights that not every block has, such as those of a projection. A block has all weights
            of a pattern, or none.
        first: Number of the first stage.

    Returns:
        The number of blocks of each stage.

    Raises:
        KeyError: If a weight of a block is missing.
    """
    pattern = re.compile(re.escape(block).replace(r'\{stage\}', r'(?P<stage>\d+)').replace(
        r'\{number\}', r'(?P<number>\d+)') + r'\.(?P<part>.+)')
    parts: Dict[int, Dict[int, Set[str]]] = {}
    groups: Dict[str, Set[str]] = {}
    for match in filter(None, map(pattern.fullmatch, weights)):
        place = match.groupdict()
        stage = parts.setdefault(int(place.get('stage', first)), {})
        stage.setdefault(int(place['number']), set()).add(place['part'])
        group = next((name for name in optional if re.match(name, place['part'])), '')
        groups.setdefault(group, set()).add(place['part'])
    depths = [max(parts.get(stage, [-1])) + 1 for stage in range(first, max(parts, default=first) + 1)]
    for stage, depth in enumerate(depths, first):
        if depth == 0:
            raise KeyError(f'`{block.format(stage=stage, number=0)}` is missing')
        for number in range(depth):
            held = parts[stage].get(number, set())
            needed = [part for name, group in groups.items() if not name or group & held for part in sorted(group)]
            path = block.format(stage=stage, number=number)
            if not held:
                raise KeyError(f'`{path}` is missing')
            require({f'{path}.{part}' for part in held}, [f'{path}.{part}' for part in needed])
    return depths
