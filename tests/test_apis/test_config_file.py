"""The files of a config are parsed before mmengine runs them."""
from pathlib import Path

import pytest
from mmengine.config import Config

import mmrev
from mmrev.apis.config_file import parsed, unread
from mmrev.problems import ProblemError


def test_a_config_and_its_bases_are_found(tmp_path, monkeypatch):
    (tmp_path / 'bases').mkdir()
    (tmp_path / 'bases/a.py').write_text("_base_ = 'b.json'\n")
    (tmp_path / 'bases/b.json').write_text('{"a": 1}')
    (tmp_path / 'config.py').write_text("_base_ = ['bases/a.py', 'mmdet::_base_/default_runtime.py']\n")
    monkeypatch.chdir(tmp_path)
    assert [Path(file).name for file in parsed('config.py')] == ['config.py', 'a.py', 'b.json']


@pytest.mark.parametrize('text', ["name = 'x'\n_base_ = f'{name}.py'\n", "_base_ = ['a'][1:]\n", 'model = None\n'])
def test_bases_that_are_computed_are_left_to_mmengine(text, tmp_path):
    (tmp_path / 'config.py').write_text(text)
    assert len(parsed(str(tmp_path / 'config.py'))) == 1


def test_tuples_of_a_dumped_config_can_be_read_again(tmp_path):
    file = str(tmp_path / 'config.yaml')
    Config(dict(a=(1, 2))).dump(file)
    assert parsed(file) == [file] and Config.fromfile(file).a == (1, 2)


def test_all_configs_of_the_package_can_be_parsed():
    files = [str(file) for file in (Path(mmrev.__file__).parents[1] / 'configs').rglob('*.py')]
    assert len(files) > 50 and all(file in parsed(file) for file in files)


def test_yaml_runs_nothing(tmp_path):
    (tmp_path / 'config.yaml').write_text(f'a: !!python/object/apply:os.mkdir ["{tmp_path}/made"]\n')
    with pytest.raises(ProblemError, match='cannot be parsed'):
        parsed(str(tmp_path / 'config.yaml'))
    assert not (tmp_path / 'made').exists()


@pytest.mark.parametrize('line, key', [
    ("optimizer = dict(type='SGD', lr=0.001)", 'optimizer'), ("lr_config = dict(policy='step')", 'lr_config'),
    ("evaluation = dict(metric='bbox')", 'evaluation'), ('total_epochs = 12', 'total_epochs'),
    ('data = dict(samples_per_gpu=2)', 'data'), ('workers_per_gpu = 2', 'workers_per_gpu'),
    ("resume_from = 'x.pth'", 'resume_from'), ('seed = 1', 'seed'), ("fp16 = dict(loss_scale='dynamic')", 'fp16')])
def test_what_only_mmcv_1_read_is_refused(line, key, tmp_path):
    (tmp_path / 'config.py').write_text(f"{line}\n_base_ = 'mmdet::_base_/default_runtime.py'\n")
    with pytest.raises(ProblemError, match=f'`{key}` in .* is read by nothing'):
        parsed(str(tmp_path / 'config.py'))


def test_variables_that_nothing_reads_are_found(tmp_path):
    file = tmp_path / 'config.py'
    file.write_text("_base_ = 'base.py'\nwidth = 3\nmodel = dict(width=width)\nimg_norm_cfg = dict(mean=1)\n_own = 1\n")
    assert unread(str(file), {'model'}) == ['img_norm_cfg']
    Config(dict(model=dict(), unused=1)).dump(str(file))
    assert unread(str(file), {'model'}) == []


def test_variables_of_such_names_are_used_or_are_of_a_config_that_mmengine_wrote(tmp_path):
    file, base = str(tmp_path / 'config.py'), tmp_path / 'base.py'
    text = "optimizer = dict(type='SGD')\noptim_wrapper = dict(optimizer=optimizer)\n"
    base.write_text(text)
    (tmp_path / 'config.py').write_text(text)
    assert parsed(file) == [file]
    (tmp_path / 'config.py').write_text("_base_ = 'base.py'\noptim_wrapper = dict(optimizer=dict(lr=1))\n")
    assert len(parsed(file)) == 2
    Config.fromfile(file).dump(file)
    assert Config.fromfile(file).optimizer and parsed(file) == [file]
