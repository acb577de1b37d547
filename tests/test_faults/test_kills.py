"""Runs that are killed, terminated or out of disk space at any moment resume to the weights of uninterrupted ones.

`make test-kills` runs these.
"""
import os
import random
import resource
import signal
import sys
import time

import pytest
import torch
from mmengine.fileio import LocalBackend

from mmrev.checkpoints import load_local
from mmrev.cli import main

from . import campaign

pytestmark = pytest.mark.kills
EPOCHS = {campaign.CLS: 5, campaign.DET: 2}


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """A folder for each config, with random transforms, and the weights of its uninterrupted run."""
    configs, weights = campaign.prepare(tmp_path_factory.mktemp('good')), {}
    for base, cfg in configs.items():
        folder = campaign.GOOD[base]
        cfg['train_dataloader']['dataset']['pipeline'].insert(-1, dict(type='RandomFlip', prob=0.5))
        cfg['train_dataloader']['sampler'].update(shuffle=True)
        cfg['train_cfg']['max_epochs'] = EPOCHS[base]
        cfg['randomness'] = dict(seed=0, deterministic=True)
        cfg['default_hooks']['checkpoint'] = dict(type='CheckpointHook', interval=1, max_keep_ckpts=1)
        (folder / 'config.py').write_text(campaign.text_of(cfg))
        assert end(begin(folder, 'whole')) == 0
        weights[base] = final(folder / 'whole', base)
    return weights


def begin(folder, work_dir, *flags, first=lambda: None) -> int:
    """Train in a fork of this process, which calls `first`; its id."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.chdir(folder)
            log = os.open(f'{work_dir}.txt', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.stdout, sys.stderr = os.fdopen(1, 'w'), os.fdopen(2, 'w')
            first()
            status = main(['train', 'config.py', '--work-dir', work_dir, *flags])
        finally:
            os._exit(status)
    return child


def end(child) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def final(work_dir, base):
    return load_local(str(work_dir / f'epoch_{EPOCHS[base]}.pth'))['state_dict']


def finish(base, work_dir, expected):
    """Resume, and compare."""
    folder = campaign.GOOD[base]
    status = end(begin(folder, work_dir, '--resume'))
    assert status == 0, (folder / f'{work_dir}.txt').read_text()[-2000:]
    found = final(folder / work_dir, base)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def wait_for(condition, seconds=60):
    for _ in range(100 * seconds):
        if condition():
            return
        time.sleep(0.01)


def killed_in_write(number, share):
    """Have this process killed while the checkpoint of that number is written."""
    put, written = LocalBackend.put, []

    def killed(backend, content, filepath):
        written.append(filepath)
        last = len(written) == number
        put(backend, content[:int(share * len(content))] if last else content, filepath)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)

    LocalBackend.put = killed


@pytest.mark.parametrize('seed', range(10))
def test_killed_while_a_checkpoint_is_written(seed, folders):
    draw, base = random.Random(seed), campaign.DET if seed % 5 == 4 else campaign.CLS
    number, share, work_dir = draw.randint(1, EPOCHS[base]), draw.random(), f'write{seed}'
    child = begin(campaign.GOOD[base], work_dir, first=lambda: killed_in_write(number, share))
    assert end(child) == -signal.SIGKILL
    finish(base, work_dir, folders[base])


@pytest.mark.parametrize('seed', range(10))
def test_killed_at_any_moment(seed, folders):
    draw, base = random.Random(seed), campaign.DET if seed % 5 == 4 else campaign.CLS
    folder, work_dir = campaign.GOOD[base], f'kill{seed}'
    child = begin(folder, work_dir)
    wait_for(lambda: (folder / work_dir).exists())
    time.sleep(draw.uniform(0, 1.5))
    os.kill(child, signal.SIGKILL)
    assert end(child) in (-signal.SIGKILL, 0)
    finish(base, work_dir, folders[base])


@pytest.mark.parametrize('seed', range(20))
def test_stopped_at_any_moment(seed, folders):
    """A first checkpoint is awaited, because before it nothing is left to resume; SIGTERM saves one at any moment."""
    draw, number = random.Random(seed), (signal.SIGINT, signal.SIGTERM)[seed % 2]
    folder, work_dir = campaign.GOOD[campaign.CLS], f'stop{seed}'
    child = begin(folder, work_dir)
    wait_for(lambda: (folder / work_dir / 'epoch_1.pth').exists())
    time.sleep(draw.uniform(0, 0.3))
    os.kill(child, number)
    status = end(child)
    done = (folder / work_dir / f'epoch_{EPOCHS[campaign.CLS]}.pth').exists()  # then signals have their default actions
    text = (folder / f'{work_dir}.txt').read_text()
    assert status == 128 + number or done and status in (0, -number), text[-2000:]
    assert status != 128 + number or '--resume' in text.strip().splitlines()[-1], text[-2000:]
    finish(campaign.CLS, work_dir, folders[campaign.CLS])


@pytest.mark.parametrize('share', [0.5, 0.7, 0.9])  # the log, which is limited as well, is smaller
def test_a_full_disk_leaves_what_was_complete(share, folders):
    folder, work_dir = campaign.GOOD[campaign.CLS], f'full{share}'
    size = (folder / 'whole' / f'epoch_{EPOCHS[campaign.CLS]}.pth').stat().st_size

    def limit_later():
        put, written = LocalBackend.put, []

        def limited(backend, content, filepath):
            written.append(filepath)
            if len(written) == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * size), ) * 2)
            put(backend, content, filepath)

        LocalBackend.put = limited

    assert end(begin(folder, work_dir, first=limit_later)) == 1
    assert 'epoch_2.pth are complete' in (folder / f'{work_dir}.txt').read_text()
    finish(campaign.CLS, work_dir, folders[campaign.CLS])
