"""The benchmark of a GPU: its own logic on the CPU."""
import sys

import gpu_benchmark
import pytest
import torch
from gpu_checks import On
from gpu_report import Case, Row, as_markdown, cases, draw
from torch import nn

from mmrev.reversible import ReversibleSequence

CPU = On(torch.device('cpu'), is_small=True)


@pytest.mark.slow
def test_the_logic_runs_on_the_cpu(monkeypatch, tmp_path):
    out = tmp_path / 'found' / 'table.md'
    monkeypatch.setattr(sys, 'argv', ['gpu_benchmark.py', '--device', 'cpu', '--tiny', '--rounds', '1', '--only', 'R50',
                                      '--out', str(out)])
    assert gpu_benchmark.main() == 0
    rows = [line.split(' | ') for line in out.read_text().splitlines() if line.startswith('| R50-max')]
    assert [row[3] for row in rows] == ['float32', 'AMP']
    assert all(float(row[4]) > 0 and float(row[5]) > 0 for row in rows)
    assert out.with_suffix('.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.skipif(torch.cuda.is_available(), reason='with a GPU it runs')
def test_without_a_gpu_it_is_skipped(monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['gpu_benchmark.py'])
    assert gpu_benchmark.main() == 0 and 'skipped: no GPU' in capsys.readouterr().out


def test_all_networks_and_modes_of_the_table():
    found = {}
    for case in cases(tiny=False):
        found.setdefault(case.network, []).append(case.mode)
    assert list(found) == ['RevBiFPN-S0', 'RevBiFPN-S3', 'RevBiFPN-S6', 'RevViT-S', 'RevViT-L', 'ResNet-50', 'R50-max']
    modes = ['plain', 'checkpoint', 'reversible', 'overlapped']
    assert found['RevBiFPN-S3'] == modes and found['RevViT-S'] == [*modes, 'compiled']
    assert found['ResNet-50'] == ['plain', 'InPlace-ABN']


def test_overlap_is_on_in_its_mode_alone():
    settings = {case.mode: {m.overlap for m in case.build().modules() if isinstance(m, ReversibleSequence)}
                for case in cases(tiny=True) if case.network == 'RevBiFPN-S0'}
    assert settings == {mode: {mode == 'overlapped'} for mode in settings} and len(settings) == 4


@pytest.mark.parametrize('limit', [0, 1, 2, 7, 100, 1000])
@pytest.mark.parametrize('guess', [0, 1, 90, 100, 400])
def test_the_largest_batch_is_found_from_any_guess(limit, guess):
    tried = []

    def fits(batch):
        tried.append(batch)
        return batch <= limit

    found = gpu_benchmark.largest_batch(fits, guess)
    assert found <= limit < max(tried) or found == limit
    assert limit - found <= max(1, guess // 16)


def test_a_network_that_does_not_fit_is_a_line(tmp_path):
    class Large(nn.Linear):

        def forward(self, x):
            raise torch.cuda.OutOfMemoryError('CUDA out of memory')

    case = Case('ResNet-50', 'plain', lambda: Large(1, 1), 8, 2)
    row = gpu_benchmark.measure(case, False, CPU, 1)
    assert row == Row(case, 'float32', None, None, None)
    assert not gpu_benchmark.fits(case, case.build(), False, CPU, 2)
    rows = [row, Row(case._replace(network='R50-max'), 'AMP', 1.5, 20., 64)]
    table = as_markdown(rows, 'cpu')
    assert '| ResNet-50 | 8 | plain | float32 | does not fit | - | - |' in table
    assert '| R50-max | 8 | plain | AMP | 1.50 | 20.0 | 64 |' in table
    draw(rows, tmp_path / 'a.png')
