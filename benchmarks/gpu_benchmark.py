"""Time and memory of training steps on a GPU: a table in Markdown and a picture, in under ten minutes.

    python benchmarks/gpu_benchmark.py                           # or: make benchmark-gpu
    python benchmarks/gpu_benchmark.py --only RevViT-S           # networks with one of these words in their name
    python benchmarks/gpu_benchmark.py --device cpu --tiny       # the logic alone, without a GPU

Each network trains in float32 and in mixed precision (float16; bfloat16 on the CPU): under plain autograd, with
activation checkpointing of the same blocks, reversibly, and reversibly with overlapped steps; two are compiled as well.
Memory is the peak per image above the weights, including their gradients; the largest batch is found by trial.
"""
import argparse
import contextlib
import gc
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Callable, Iterator, List

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'benchmarks')]

import torch  # noqa: E402
from gpu_check import machine  # noqa: E402
from gpu_checks import On  # noqa: E402
from gpu_report import Case, Row, as_markdown, cases, draw  # noqa: E402
from networks import total  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from mmrev.testing import PeakMemory  # noqa: E402

MIB = 2**20


def step(model: nn.Module, images: Tensor, amp: bool) -> None:
    dtype = torch.float16 if images.is_cuda else torch.bfloat16
    with torch.autocast(images.device.type, dtype, enabled=amp):
        outputs = model(images)
    total(outputs).backward()
    model.zero_grad()


def seconds(on: On, function: Callable[[], None]) -> float:
    synchronize = torch.cuda.synchronize if on.is_cuda else lambda: None
    synchronize()
    start = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - start


def peak_bytes(on: On, function: Callable[[], None]) -> int:
    """The peak while a function runs, above what was allocated before."""
    if not on.is_cuda:
        with PeakMemory() as memory:
            function()
        return memory.peak
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated(on.device)
    torch.cuda.reset_peak_memory_stats(on.device)
    function()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated(on.device) - before


@contextlib.contextmanager
def noting_lack_of_memory(lacks: List[bool]) -> Iterator[None]:
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        lacks.append(True)
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def largest_batch(fits: Callable[[int], bool], guess: int) -> int:
    """The largest batch that fits, within a few percent: up or down from a guess, in steps of a sixteenth."""
    batch = max(1, guess)
    change = max(1, batch // 16)
    if fits(batch):
        while fits(batch + change):
            batch += change
        return batch
    while batch > 1:
        batch = max(1, batch - change)
        if fits(batch):
            return batch
    return 0


def measure(case: Case, amp: bool, on: On, rounds: int) -> Row:
    """Time, memory and, on a GPU, the largest batch of one case in one precision."""
    precision, lacks = 'AMP' if amp else 'float32', []
    with noting_lack_of_memory(lacks):
        torch.manual_seed(0)
        model = case.build().to(on.device)
        model.train()
        images = torch.randn(case.batch, 3, case.side, case.side, device=on.device)
        for _ in range(2):
            step(model, images, amp)
        per_image = peak_bytes(on, partial(step, model, images, amp)) / case.batch
        taken = [seconds(on, partial(step, model, images, amp)) for _ in range(rounds)]
        del images
    if lacks:
        return Row(case, precision, None, None, None)
    largest = None
    if on.is_cuda and case.mode != 'compiled':  # which would compile for each size
        largest = largest_batch(partial(fits, case, model, amp, on), int(free_bytes(on) // per_image))
    return Row(case, precision, 1e3 * statistics.median(taken) / case.batch, per_image / MIB, largest)


def free_bytes(on: On) -> int:
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(on.device)[0]


def fits(case: Case, model: nn.Module, amp: bool, on: On, batch: int) -> bool:
    lacks: List[bool] = []
    with noting_lack_of_memory(lacks):
        step(model, torch.randn(batch, 3, case.side, case.side, device=on.device), amp)
    model.zero_grad()
    return not lacks


def run(chosen: List[Case], on: On, rounds: int) -> List[Row]:
    rows = []
    for case in chosen:
        for amp in (False, True):
            rows.append(measure(case, amp, on, rounds))
            print(as_markdown(rows[-1:], '').splitlines()[-1], flush=True)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cuda', help='cuda, cuda:1, cpu')
    parser.add_argument('--tiny', action='store_true', help='few and small networks and images')
    parser.add_argument('--only', nargs='+', default=[''], metavar='WORD', help='networks with one of these words')
    parser.add_argument('--rounds', type=int, default=10, help='timed steps, after three that are not')
    parser.add_argument('--out', type=Path, default=ROOT / 'work_dirs' / 'gpu_benchmark.md',
                        help='file of the table; the picture is in the same folder')
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == 'cuda' and not torch.cuda.is_available():
        print('skipped: no GPU (--device cpu --tiny runs the logic)')
        return 0
    on = On(torch.device('cuda', device.index or 0) if device.type == 'cuda' else device, args.tiny)
    if on.is_cuda:
        torch.cuda.set_device(on.device)
    rows = run([case for case in cases(args.tiny) if any(word in case.network for word in args.only)], on, args.rounds)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(as_markdown(rows, machine(on)))
    draw(rows, args.out.with_suffix('.png'))
    print(f'The table is in {args.out}, the picture in the same folder')
    return 0


if __name__ == '__main__':
    sys.exit(main())
