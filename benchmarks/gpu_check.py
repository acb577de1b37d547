"""Check on a GPU what could not be checked without one; print a line per check and save them as Markdown.

    python benchmarks/gpu_check.py                          # or: make test-gpu
    python benchmarks/gpu_check.py --only attention waits   # checks with one of these words in their name
    python benchmarks/gpu_check.py --device cpu --small     # the logic alone, without a GPU

Each line shows pass, fail or skipped, with a figure or the reason. Without a GPU all checks are skipped by name. The
exit status is 1 if a check fails.
"""
import argparse
import platform
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import List, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks'), str(ROOT / 'tests')]

import torch  # noqa: E402
from gpu_checks import Check, On, Skipped, all_checks  # noqa: E402


class Line(NamedTuple):
    """What a check found."""
    name: str
    outcome: str
    figure: str
    seconds: float


def run(name: str, function: Check, on: On) -> Line:
    """Run one check; whatever it raises is its outcome."""
    start = time.perf_counter()
    torch.manual_seed(0)
    try:
        outcome, figure = 'pass', function(on)
    except Skipped as reason:
        outcome, figure = 'skipped', str(reason)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        outcome, figure = 'fail', f'{type(error).__name__}: {error}'
    return Line(name, outcome, ' '.join(figure.split()), time.perf_counter() - start)


def machine(on: On) -> str:
    """The device and the versions, in one line."""
    name = torch.cuda.get_device_name(on.device) if on.is_cuda else platform.machine()
    commit = subprocess.run(['git', '-C', str(ROOT), 'describe', '--always', '--dirty'], capture_output=True, text=True,
                            check=False).stdout.strip()
    cudnn = torch.backends.cudnn.version() if on.is_cuda else None
    return (f'{on.device.type}: {name}; torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {cudnn}; '
            f'mmrev {commit or "unknown"}')


def as_markdown(lines: List[Line], title: str) -> str:
    counts = ', '.join(f'{sum(line.outcome == outcome for line in lines)} {outcome}'
                       for outcome in ('pass', 'fail', 'skipped'))
    rows = [f'| {line.name} | {line.outcome} | {line.figure.replace("|", "/")} | {line.seconds:.1f} |'
            for line in lines]
    return '\n'.join([f'# GPU checks: {counts}', '', title, '', '| check | outcome | figure or reason | seconds |',
                      '|---|---|---|---|', *rows, ''])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cuda', help='cuda, cuda:1, cpu')
    parser.add_argument('--small', action='store_true', help='few iterations')
    parser.add_argument('--only', nargs='+', default=[''], metavar='WORD', help='checks with one of these in the name')
    parser.add_argument('--out', type=Path, default=ROOT / 'work_dirs' / 'gpu_check.md', help='where the lines go')
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    on = On(torch.device(args.device), args.small)
    there = not on.is_cuda or torch.cuda.is_available()
    on = on._replace(device=torch.device('cuda', on.device.index or 0) if on.is_cuda and there else torch.device('cpu'))
    if on.is_cuda:
        torch.cuda.set_device(on.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    chosen = {name: function for name, function in all_checks().items() if any(word in name for word in args.only)}
    if not chosen:
        parser.error(f'no check has one of these words in its name: {", ".join(args.only)}')
    lines = []
    for name, function in chosen.items():
        lines.append(run(name, function, on) if there else Line(name, 'skipped', 'no GPU', 0.))
        print(f'{lines[-1].outcome:8s} {name:60s} {lines[-1].figure}', flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(as_markdown(lines, machine(on)))
    print(f'The lines are in {args.out}')
    return any(line.outcome == 'fail' for line in lines)


if __name__ == '__main__':
    sys.exit(main())
