"""What the documents say: each config builds, each program runs.

test_docs_commands.py runs what one types in a shell.
"""
import re
import subprocess
import sys
import warnings

import pytest
import torch

pytest.importorskip('mmpretrain')
from mmengine.config import Config  # noqa: E402
from mmengine.registry import MODELS, DefaultScope  # noqa: E402

import mmrev.models  # noqa: E402, F401
from support.documents import DETECTOR, PAGES, ROOT, blocks  # noqa: E402

CLASSIFIER = 'mmrev::revbifpn/revbifpn-s0_8xb128_in1k.py'
# Programs that need published weights or a trained checkpoint; test_pretrained.py and test_predict.py run their lines
# with files in place of those.
NEED_WEIGHTS = {
    'docs/export.md': ('get_model(', ),
    'docs/pretrained.md': ('get_model(', 'DetInferencer('),
}


@pytest.mark.parametrize('page, text', [
    pytest.param(page, text, id=f'{page}-{index}') for page, index, text in blocks('python')])
def test_a_block_of_python_builds_or_runs(page, text, tmp_path, monkeypatch):
    if page == 'docs/recipes.md' and text.startswith('# ') or page == 'CONTRIBUTING.md':
        return  # test_docs_recipes.py builds and steps them; test_worked_example.py adds the backbone
    imports = [line for line in text.splitlines() if line.startswith(('import ', 'from '))]
    if not imports:
        build(text, page, tmp_path)
        return
    compile(text, page, 'exec')
    if any(mark in text for mark in NEED_WEIGHTS.get(page, ())):
        exec('\n'.join(imports), {})
        return
    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU())
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        exec(text, dict(__name__='docs', model=model, images=torch.randn(2, 3, 16, 16)))


def build(text, page, folder):
    """Build the model of a config, completed by a base where it is a part of one."""
    base = '' if '_base_ =' in text else f'_base_ = {CLASSIFIER if "optim" in page else DETECTOR!r}\n'
    if page == 'docs/own_data.md' and '{head:' in text:  # two lines of a longer example
        base = "classes = ('a', 'b')\n"
    if page == 'configs/revbifpn/README.md':
        base += "custom_imports = dict(imports=['mmrev'])\n"
    (folder / 'block.py').write_text(base + text)
    cfg = Config.fromfile(folder / 'block.py')
    with torch.device('meta'), DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.get('data_preprocessor', cfg.model.get(
            'data_preprocessor'))))
        for hook in cfg.get('custom_hooks', ()):
            from mmengine.registry import HOOKS
            built = HOOKS.build(hook)
            for name in getattr(built, 'modules', None) or ():
                model.get_submodule(name)


@pytest.mark.parametrize('page', PAGES)
def test_a_page_names_files_that_exist(page):
    text = (ROOT / page).read_text(encoding='utf-8')
    folders = 'tests|benchmarks|tools|configs|docs|mmrev'
    assert not re.search('^(<{7}|>{7}) ', text, re.MULTILINE), 'left by a merge'
    named = re.findall(rf'(?<![\w/.-])((?:{folders})/[\w./-]*\.(?:py|sh|md|json|yml))', text)
    links = re.findall(r'\]\(([^)#:\s]+)[)#]', text)
    added = ['mmrev/models/backbones/revnet.py'] if page == 'CONTRIBUTING.md' else []  # by its example
    assert [name for name in named if not (ROOT / name).exists()] == added[:len(named)]
    assert [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


@pytest.mark.subprocess
def test_the_site_builds_without_a_warning_and_lists_every_model(tmp_path):
    pytest.importorskip('mkdocs')
    pytest.importorskip('mkdocstrings')
    done = subprocess.run([sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(tmp_path / 'site')],
                          cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    from mmrev.checkpoints import published
    zoo = (tmp_path / 'site/model_zoo.html').read_text()
    assert published.models() and all(f'<code>{model.name}</code>' in zoo for model in published.models())
    api = (tmp_path / 'site/api.html').read_text()
    for name in ('mmrev.reversible.ReversibleSequence', 'mmrev.models.backbones.RevBiFPN', 'mmrev.layers.InPlaceABN'):
        assert f'id="{name}"' in api
    assert ':class:' not in api
