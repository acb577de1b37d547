"""What a machine with a GPU changes in a config, what a run adds to it, and where a test may write predictions."""
import mmengine.device
import pytest
from mmengine.config import Config

from mmrev.apis.modes import check_output, pin_memory
from mmrev.apis.run import build_runner
from mmrev.hooks import ProgressHook
from mmrev.problems import ProblemError


@pytest.mark.parametrize('on_gpu', [True, False])
def test_dataloaders_pin_memory_where_there_is_a_gpu(monkeypatch, on_gpu):
    monkeypatch.setattr(mmengine.device, 'is_cuda_available', lambda: on_gpu)
    cfg = Config(dict(train_dataloader=dict(batch_size=2), val_dataloader=dict(pin_memory=False), test_dataloader=None))
    pin_memory(cfg)
    assert cfg.train_dataloader == (dict(batch_size=2, pin_memory=True) if on_gpu else dict(batch_size=2))
    assert cfg.val_dataloader == dict(pin_memory=False) and cfg.test_dataloader is None


def test_a_run_on_a_gpu_pins_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(mmengine.device, 'is_cuda_available', lambda: True)
    cfg = Config(dict(model=dict(type='BaseDataPreprocessor'), work_dir=str(tmp_path), experiment_name='pinned',
                      test_dataloader=dict(batch_size=2), test_cfg=dict(), test_evaluator=dict(type='Accuracy')))
    assert build_runner(cfg)._test_dataloader == dict(batch_size=2, pin_memory=True)


@pytest.mark.parametrize('own', [[], [dict(type='mmrev.ProgressHook', seconds=60.)]])
def test_a_run_reports_its_progress_once(tmp_path, own):
    cfg = Config(dict(model=dict(type='BaseDataPreprocessor'), work_dir=str(tmp_path), custom_hooks=own,
                      experiment_name=f'progress_{len(own)}'))
    hooks = [hook for hook in build_runner(cfg).hooks if isinstance(hook, ProgressHook)]
    assert [hook.seconds for hook in hooks] == [60. if own else 10.]


@pytest.mark.parametrize('file, message', [('a.txt', 'must end in .pkl'), ('folder.pkl', 'is a folder'),
                                           ('./trained.pkl', 'is the checkpoint')])
def test_predictions_go_to_a_file_of_their_own(monkeypatch, tmp_path, file, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'folder.pkl').mkdir()
    check_output('other.pkl', 'trained.pkl')
    with pytest.raises(ProblemError, match=message):
        check_output(file, 'trained.pkl')
