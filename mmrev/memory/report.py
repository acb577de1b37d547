"""A forecast as text, as data and as a picture."""
import json
import re
from pathlib import Path
from typing import Any, Dict, List, Optional

from mmrev.problems import ProblemError

from .forecast import Forecast, describe
from .timeline import Allocation

MIB = 2**20
_UNITS = {'': 1, 'KB': 2**10, 'MB': 2**20, 'GB': 2**30, 'KIB': 2**10, 'MIB': 2**20, 'GIB': 2**30}
_PARTS = 10  # of a picture
_GRADIENTS = 'gradients of weights'


def parse_bytes(text: str) -> int:
    """Parse an amount of memory such as ``12GB``, which is 12 * 2**30 bytes, as GPU vendors count.

    Raises:
        ProblemError: If the text is not an amount of memory, or lacks its unit.
    """
    found = re.fullmatch(r'\s*([\d.]+)\s*([a-zA-Z]*)\s*', text)
    try:
        size = int(float(found[1]) * _UNITS[found[2].upper()])  # type: ignore[index]
    except (TypeError, KeyError, ValueError, OverflowError):
        raise ProblemError(f'`{text}` is not an amount of memory', 'Write for example 12GB or 800MB') from None
    if 0 < size < MIB and not found[2]:  # type: ignore[index]
        raise ProblemError(f'`{text}` has no unit', f'Write {text.strip()}GB or {text.strip()}MB')
    return size


def mib(nbytes: float) -> str:
    """Format bytes as in ``1,234.5 MiB``."""
    return f'{nbytes / MIB:,.1f} MiB'


def as_text(forecast: Forecast, depth: int) -> str:
    """The peak, the bytes alive at the peak by kind, and the bytes that each part keeps for backward."""
    alive, fixed = forecast.at_peak(depth), forecast.fixed
    rows = [(kind, nbytes) for kind, nbytes in fixed.items()]
    rows += [(kind, sum(parts.values())) for kind, parts in alive.items()]
    objects = f', {forecast.batch.objects} objects each' * bool(forecast.batch.objects)
    padded = '' if forecast.padded in (None, forecast.batch[1:3]) else ', padded to {}x{}'.format(*forecast.padded)
    lines = [f'{describe(forecast.batch)}{padded}{objects}: {mib(forecast.peak)} at the peak, {_moment(forecast)}']
    lines += [f'  {kind:30s}{mib(nbytes):>16s}' for kind, nbytes in rows]
    kept, parts = forecast.kept(depth), alive['kept for backward']
    lines.append(f'{"kept for backward by":32s}{"after forward":>16s}{"at the peak":>16s}')
    sums = [_with_parents(x) for x in (kept, parts)]
    for path in sorted(sums[0]):
        if path and sums[0][path] >= 0.001 * sums[0]['']:
            name = '  ' * (path.count('.') + 1) + path.rpartition('.')[2]
            lines.append(f'{name:32s}{mib(sums[0][path]):>16s}{mib(sums[1].get(path, 0)):>16s}')
    elsewhere = kept.get('', 0)
    if elsewhere:
        lines.append(f'{"  elsewhere":32s}{mib(elsewhere):>16s}{mib(parts.get("", 0)):>16s}')
    lines.append(f'{"  total":32s}{mib(sums[0][""]):>16s}{mib(sums[1].get("", 0)):>16s}')
    return '\n'.join(lines)


def _moment(forecast: Forecast) -> str:
    at = forecast.allocations[forecast.peak_at]
    return f'in {at.phase}' + f' of {at.path}' * bool(at.path) + f' ({at.operator})'


def _with_parents(sizes: Dict[str, int]) -> Dict[str, int]:
    """The bytes of each path, including those of all paths below it; the total for ``''``."""
    sums: Dict[str, int] = {'': 0}
    for path, nbytes in sizes.items():
        while path:
            sums[path] = sums.get(path, 0) + nbytes
            path = path.rpartition('.')[0]
        sums[''] += nbytes
    return sums


def as_data(forecast: Forecast, depth: int) -> Dict[str, Any]:
    """The forecast as a dict for JSON, in bytes."""
    return dict(batch=forecast.batch._asdict(), padded=forecast.padded, peak=forecast.peak, fixed=forecast.fixed,
                gradients=forecast.gradients, activations=forecast.activations, moment=_moment(forecast),
                at_peak=forecast.at_peak(depth), kept_for_backward=forecast.kept(depth))


def write_json(content: Dict[str, Any], file: str) -> None:
    """Write a dict as JSON."""
    Path(file).write_text(json.dumps(content, indent=2) + '\n')


def draw(forecast: Forecast, file: str, depth: int = 2, title: str = '', memory: Optional[int] = None) -> None:
    """Draw the bytes alive over the step, by part, and a line at `memory` if the peak is near it."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    curves = _curves(forecast, depth)
    fixed = sum(forecast.fixed.values())
    labels = ['weights, optimizer, batch', *curves]
    rows = [[fixed] * len(forecast.allocations), *curves.values()]
    figure = Figure(figsize=(11, 5), layout='constrained')
    axes = figure.subplots()
    colours: Any = ['#bdbdbd', *(colormaps['tab20'](i % 20) for i in range(len(curves)))]
    axes.stackplot(range(len(forecast.allocations)), [[x / MIB for x in row] for row in rows], labels=labels,
                   colors=colours, step='post', linewidth=0)
    for name, mark in forecast.marks.items():
        axes.axvline(mark, color='black', linewidth=0.8, linestyle=':')
        axes.annotate(f' {name}', (mark, 1), xycoords=('data', 'axes fraction'), va='top')
    if memory is not None and memory < 1.5 * forecast.peak:
        axes.axhline(memory / MIB, color='red', linewidth=1)
    axes.set(xlabel='tensors allocated since the step began', ylabel='MiB alive', xlim=(0, len(forecast.allocations)),
             title=f'{title}{describe(forecast.batch)}: {mib(forecast.peak)}')
    figure.legend(*(x[::-1] for x in axes.get_legend_handles_labels()), loc='outside right upper', fontsize='small')
    figure.savefig(file, dpi=110)


def _curves(forecast: Forecast, depth: int) -> Dict[str, List[int]]:
    """Bytes alive over the step: the largest parts, the rest by top-level module, and last the gradients."""
    groups: Dict[str, List[Allocation]] = {}
    for a in forecast.allocations:
        name = _GRADIENTS if forecast.kind(a) == 'gradients' else '.'.join(a.path.split('.')[:depth])
        groups.setdefault(name, []).append(a)
    most = {name: max(forecast.alive(allocations)) for name, allocations in groups.items()}
    largest = set(sorted(most, key=lambda name: -most[name])[:_PARTS]) | {_GRADIENTS}
    shown: Dict[str, List[Allocation]] = {}
    for name, allocations in groups.items():  # in the order of the forward
        name = name if name in largest or not name else f'{name.split(".")[0]}, rest'
        shown.setdefault(name or 'elsewhere', []).extend(allocations)
    gradients = shown.pop(_GRADIENTS, [])
    return {name: forecast.alive(allocations) for name, allocations in [*shown.items(), (_GRADIENTS, gradients)]}
