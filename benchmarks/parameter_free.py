"""Latency of networks with parameter-free layers and of those with convolutions and attention, in one run.

Each network is timed with channels first and with channels last, and its faster layout counts; networks take turns, so
that other load on the machine affects all of them alike. The ratio is to the network of convolutions (or attention)
of the same kind.

Example:
    python benchmarks/parameter_free.py --threads 2
    python benchmarks/parameter_free.py --train --batch-size 8 --kinds resnet
    MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_MMAP_THRESHOLD_=8589934592 python benchmarks/parameter_free.py

The last one lets glibc keep the memory that a layer frees for the next; otherwise large blocks return to the system,
and allocating them again takes a fifth of the ResNets' time for a batch of 8.
"""
import argparse
import statistics
import time
from typing import Callable, Dict, List, Tuple

import torch
import torch._dynamo.config
import torch._inductor.config
from torch import nn

from mmrev.layers import TokenPooling
from mmrev.models.backbones import PFResNet, PFViT, PiT

# By kind, the network that the others are compared with first.
NETWORKS: Dict[str, Dict[str, Callable[[], nn.Module]]] = dict(
    resnet={f'R50-{operation}': lambda operation=operation: PFResNet(50, operation, out_indices=(3, ))
            for operation in ('conv', 'max', 'hybrid')},
    vit={**{f'ViT-S-{operation}': lambda operation=operation: PFViT('s', operation)
            for operation in ('attention', 'max')},
         'ViT-S-max, products alone': lambda: without_pooling(PFViT('s', 'max'))},
    pit={f'PiT-S-{operation}': lambda operation=operation: PiT('s', operation, out_indices=(2, ))
         for operation in ('attention', 'max')})
LAYOUTS = dict(first=torch.contiguous_format, last=torch.channels_last)


def without_pooling(model: nn.Module) -> nn.Module:
    """Reduce its token poolings to their two linear layers, without which they cannot work."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, TokenPooling):
            model.set_submodule(name, nn.Sequential(layer.fc1, layer.fc2))
    return model


def main() -> None:
    """Print a table for each batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kinds', nargs='+', choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument('--batch-size', type=int, nargs='+', default=[1, 8])
    parser.add_argument('--side', type=int, default=224, help='of the images, in pixels (default 224)')
    parser.add_argument('--rounds', type=int, default=15, help='timed runs of each network (default 15)')
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--train', action='store_true', help='time forward and backward in training mode')
    parser.add_argument('--compile', action='store_true',
                        help='torch.compile all networks, with weights frozen for inference')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch._inductor.config.freezing = not args.train  # as an option of torch.compile it does nothing
    torch._dynamo.config.recompile_limit = 64  # networks of one class are compiled one by one
    mode = 'forward and backward' if args.train else 'inference'
    print(f'PyTorch {torch.__version__}, {args.threads} threads, {mode}{", compiled" if args.compile else ""}, '
          f'{args.side} pixels, median of {args.rounds} runs in turns')
    for kind in args.kinds:
        for batch in args.batch_size:
            print_table(kind, batch, measure(kind, batch, args))


def measure(kind: str, batch: int, args: argparse.Namespace) -> Dict[Tuple[str, str], float]:
    """Median seconds by network and layout."""
    torch.compiler.reset()
    runs = {}
    for name, build in NETWORKS[kind].items():
        for layout, memory_format in LAYOUTS.items():
            torch.manual_seed(0)
            model = build().to(memory_format=memory_format).train(args.train)
            image = torch.randn(batch, 3, args.side, args.side).contiguous(memory_format=memory_format)
            if args.compile:
                model = torch.compile(model, dynamic=False)
            runs[name, layout] = (model, image)
    seconds: Dict[Tuple[str, str], List[float]] = {key: [] for key in runs}
    for turn in range(2 + args.rounds):
        for key, (model, image) in runs.items():
            begin = time.perf_counter()
            with torch.compiler.set_stance('default' if turn < 2 else 'fail_on_recompile'):
                run(model, image, args.train)
            if turn >= 2:
                seconds[key].append(time.perf_counter() - begin)
    return {key: statistics.median(values) for key, values in seconds.items()}


def run(model: nn.Module, image: torch.Tensor, train: bool) -> None:
    """Forward, and in training backward."""
    with torch.set_grad_enabled(train):
        outputs = model(image)
    if train:
        outputs[-1].sum().backward()


def print_table(kind: str, batch: int, seconds: Dict[Tuple[str, str], float]) -> None:
    """One row per network: both layouts, and the faster one relative to the first network's faster one."""
    print(f'\nbatch {batch:<21} channels first, ms   channels last, ms   ratio')
    fastest = {name: min(seconds[name, layout] for layout in LAYOUTS) for name in NETWORKS[kind]}
    reference = next(iter(fastest.values()))
    for name, best in fastest.items():
        first, last = (1e3 * seconds[name, layout] for layout in LAYOUTS)
        print(f'{name:<27} {first:18.1f} {last:19.1f} {best / reference:7.2f}')


if __name__ == '__main__':
    main()
