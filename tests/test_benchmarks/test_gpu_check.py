"""The checks of a GPU: their own logic on the CPU, and how they report."""
import re
import sys
from pathlib import Path

import gpu_check
import pytest
import torch
from gpu_checks import On, Skipped, all_checks, needs_gpus, stack

from support.backbones import BACKBONES

ROOT = Path(__file__).parents[2]
# Those left out take long on the CPU (processes, whole commands); a person runs them by `--device cpu --small`.
QUICK = ['gradients in float32, RevViT', 'against plain', 'autocast, RevSwin', 'dropout first',
         'attention kernel, shifted', 'no waits', 'sanitizer', 'against float64', 'against PyTorch', 'time of',
         'GradScaler', "mmcv's", 'second GPU']

# What a failure of a later check may follow from comes first.
ORDER = ['gradients in float32', 'gradients and generators', 'autocast, RevSwin', 'attention kernel', 'reconstruction',
         'dropout first', 'no waits', 'overlap on and off', 'sanitizer', 'reserved memory', 'against float64',
         'time of batch norm', 'max pooling against', 'GradScaler', 'InPlaceABNSync', 'DistributedDataParallel',
         'second GPU', 'doctor', "mmcv's build", 'nms and RoIAlign', 'train --amp', 'torchrun']


def report(monkeypatch, tmp_path, *arguments):
    """The exit status, and the lines of the Markdown file as (name, outcome, figure)."""
    monkeypatch.setattr(sys, 'argv', ['gpu_check.py', '--out', str(tmp_path / 'found' / 'check.md'), *arguments])
    status = gpu_check.main()
    text = (tmp_path / 'found' / 'check.md').read_text()
    return status, re.findall(r'^\| (.*?) \| (pass|fail|skipped) \| (.*) \| [\d.]+ \|$', text, re.M), text


@pytest.mark.slow
def test_the_logic_of_the_checks_runs_on_the_cpu(monkeypatch, tmp_path):
    status, lines, _ = report(monkeypatch, tmp_path, '--device', 'cpu', '--small', '--only', *QUICK)
    assert [line for line in lines if line[1] == 'fail'] == [] and status == 0
    assert len([line for line in lines if line[1] == 'pass' and line[2]]) >= 15
    skipped = [figure for _, outcome, figure in lines if outcome == 'skipped']
    assert set(skipped) == {'needs 1 GPU, found 0', 'needs 2 GPUs, found 0'}


@pytest.mark.skipif(torch.cuda.is_available(), reason='with a GPU nothing is skipped')
def test_without_a_gpu_every_check_is_skipped_by_name(monkeypatch, tmp_path):
    status, lines, text = report(monkeypatch, tmp_path)
    assert status == 0 and [name for name, _, _ in lines] == list(all_checks())
    assert {line[1:] for line in lines} == {('skipped', 'no GPU')}
    assert text.startswith(f'# GPU checks: 0 pass, 0 fail, {len(lines)} skipped')


def test_the_checks_run_in_order_and_cover_every_backbone():
    names = list(all_checks())
    first = [next(i for i, name in enumerate(names) if word in name) for word in ORDER]
    assert first == sorted(first)
    for backbone in BACKBONES:
        assert {f'gradients in float32, {backbone}', f'no waits for the device, {backbone}'} <= set(names)


def test_a_check_that_fails_ends_in_status_1_and_the_others_run(monkeypatch, tmp_path):
    def fails(on):
        raise RuntimeError('CUDA error:\n an illegal | access')

    monkeypatch.setattr(gpu_check, 'all_checks', lambda: {'first': fails, 'second': lambda on: '3 ms'})
    status, lines, _ = report(monkeypatch, tmp_path, '--device', 'cpu')
    assert status == 1
    assert lines == [('first', 'fail', 'RuntimeError: CUDA error: an illegal / access'), ('second', 'pass', '3 ms')]


def test_words_that_choose_no_check_are_refused(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit):
        report(monkeypatch, tmp_path, '--only', 'atention')
    assert 'no check has one of these words in its name: atention' in capsys.readouterr().err


def test_the_page_names_checks_and_tests_that_exist():
    """In the last two columns of its table."""
    rows = re.findall(r'^\|[^|\n]+\| ([^|\n]*`tests/[^|\n]*) \| (.*) \|$', (ROOT / 'docs/gpu.md').read_text(), re.M)
    words = [word for _, column in rows for word in re.findall('`(.*?)`', column)]
    assert len(rows) >= 10 and len(words) >= 12
    assert [word for word in words if not any(word in name for name in all_checks())] == []
    assert [path for column, _ in rows for path in re.findall('`(.*?)`', column) if not (ROOT / path).is_file()] == []


def test_what_needs_more_gpus_is_skipped(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    needs_gpus(On(torch.device('cuda'), False))
    with pytest.raises(Skipped, match='needs 2 GPUs, found 1'):
        needs_gpus(On(torch.device('cuda'), False), 2)


def test_the_config_that_is_trained_exists():
    assert Path(stack.CONFIG).is_file()
