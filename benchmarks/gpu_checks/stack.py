"""OpenMMLab's packages on the GPU, and the commands."""
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from . import On, check, needs_gpus

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / 'configs' / 'revvit' / 'revvit_digits.py')


def run(*arguments: str, folder: str = '.') -> str:
    """Output of ``python arguments`` in a folder."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]))
    ended = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True,
                           check=False)
    assert ended.returncode == 0, ' '.join((ended.stderr or ended.stdout).strip().splitlines()[-3:])
    return ended.stdout


@check('doctor')
def doctor(on: On) -> str:
    found = run('-m', 'mmrev.doctor').strip().splitlines()
    return f'{next(line.strip() for line in found if "mmcv ops" in line)}; {found[-1]}'


@check("mmcv's build")
def mmcv_build(on: On) -> str:
    from mmcv.ops import get_compiler_version, get_compiling_cuda_version
    cuda = get_compiling_cuda_version()
    figure = f'compiled by {get_compiler_version()}, for CUDA {cuda}; torch for {torch.version.cuda}'
    assert not on.is_cuda or cuda.split('.')[0] == str(torch.version.cuda).split('.')[0], figure
    return figure


@check("mmcv's nms and RoIAlign")
def mmcv_operators(on: On) -> str:
    from mmcv.ops import nms, roi_align
    torch.manual_seed(0)
    corners = 60 * torch.rand(200, 2)
    boxes, scores = torch.cat([corners, corners + 5 + 20 * torch.rand(200, 2)], 1), torch.rand(200)
    here, there = (nms(boxes.to(device), scores.to(device), 0.5)[1].cpu() for device in (on.device, 'cpu'))
    assert torch.equal(here, there), 'nms keeps other boxes than on the CPU'
    maps, rois = torch.randn(1, 8, 32, 32), torch.cat([torch.zeros(200, 1), boxes], 1)
    found = []
    for device in (on.device, 'cpu'):
        x = maps.to(device).requires_grad_()
        roi_align(x, rois.to(device), (7, 7), 0.5, 2, 'avg', True).square().sum().backward()
        found.append(x.grad.cpu())
    apart = float((found[0] - found[1]).abs().max() / found[1].abs().max())
    assert apart < 1e-4, f'RoIAlign\'s gradient is {apart:.1e} away from the CPU\'s'
    return f'the same boxes; RoIAlign\'s gradient {apart:.0e} away from the CPU\'s'


def trained(*arguments: str) -> str:
    """Train one epoch on scikit-learn's digits by ``python -m arguments``."""
    with tempfile.TemporaryDirectory() as folder:
        run(str(ROOT / 'tools' / 'dataset_converters' / 'digits.py'), '--task', 'classification', folder=folder)
        run('-m', *arguments, '--work-dir', folder, '--cfg-options', 'train_cfg.max_epochs=1', folder=folder)
        log = next(Path(folder).rglob('*.log')).read_text()
    losses = re.findall(r'loss: ([\d.]+|nan|inf)', log)
    assert losses and losses[-1] not in ('nan', 'inf'), losses[-3:]
    return f'one epoch, last loss {losses[-1]}'


@check('train --amp')
def train_amp(on: On) -> str:
    needs_gpus(on)
    return trained('mmrev.cli', 'train', CONFIG, '--amp')


@check('torchrun on all GPUs')
def torchrun(on: On) -> str:
    needs_gpus(on)
    number = torch.cuda.device_count()
    return trained('mmrev.cli.launch', f'--nproc_per_node={number}', '--standalone', '-m', 'mmrev.cli', 'train', CONFIG,
                   '--launcher', 'pytorch') + f', {number} processes'
