"""What the checks before the first iteration cost."""
import time
from collections import Counter

import pytest
import torch
from mmengine.runner import EpochBasedTrainLoop

from mmrev.cli import main
from mmrev.datasets.digits import DigitsSpec, build
from mmrev.diagnosis.plan import Plan
from mmrev.hooks import SanityHook
from mmrev.problems import ProblemError
from support.commands import ROOT


@pytest.mark.faults
def test_on_the_digits_config_they_take_less_than_five_seconds_of_processor_time(tmp_path, monkeypatch, capfd):
    spent = Counter()

    def timed(owner, name):
        function = getattr(owner, name)

        def wrapper(*args):
            begin = time.process_time()
            function(*args)
            spent[f'{owner.__name__}.{name}'] += time.process_time() - begin

        monkeypatch.setattr(owner, name, wrapper)

    def stop(loop):
        raise ProblemError('the first iteration')

    timed(Plan, 'require_none')
    timed(SanityHook, 'before_train')
    monkeypatch.setattr(EpochBasedTrainLoop, 'run_epoch', stop)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data/digits').mkdir(parents=True)
    build(DigitsSpec(), tmp_path / 'data/digits')
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        status = main(['train', str(ROOT / 'configs/revbifpn/faster_rcnn_revbifpn_s0_digits.py')])
    finally:
        torch.set_num_threads(threads)
    errors = capfd.readouterr().err
    assert status == 2 and 'error: the first iteration' in errors, errors
    with capfd.disabled():
        print({name: round(seconds, 2) for name, seconds in spent.items()})
    assert len(spent) == 2 and spent.total() < 5, spent
