"""What the documents say: each shell line is taken by its program, each config builds, each program runs.

Long runs are replaced: a command line is read by the command's own parser, its config and options are merged, and what
it names (checkpoints of an epoch, targets of make, versions) must exist. What the commands then do is tested elsewhere.
"""
import argparse
import re
import runpy
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmpretrain')
from mmengine.config import Config  # noqa: E402
from mmengine.registry import MODELS, DefaultScope  # noqa: E402

import mmrev.models  # noqa: E402, F401
from mmrev.apis.run import load_config  # noqa: E402

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [
    ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *ROOT.glob('docs/*.md'), *ROOT.glob('configs/*/README.md')])
FENCE = re.compile(r'^( *)```(\w*)\n(.*?)^ *```', re.DOTALL | re.MULTILINE)
DETECTOR = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
CLASSIFIER = 'mmrev::revbifpn/revbifpn-s0_8xb128_in1k.py'
# Programs that need published weights or a trained checkpoint; test_pretrained.py and test_predict.py run their lines
# with files in place of those.
NEED_WEIGHTS = {
    'docs/export.md': ('get_model(', ),
    'docs/pretrained.md': ('get_model(', 'DetInferencer('),
}


def blocks(language):
    """Every fenced block of a language: page, how many of the page's it is, text."""
    for page in PAGES:
        texts = [match.group(3) for match in FENCE.finditer((ROOT / page).read_text(encoding='utf-8'))
                 if match.group(2) == language]
        yield from (pytest.param(page, text, id=f'{page}-{index}') for index, text in enumerate(texts))


def shell_lines():
    for param in blocks('bash'):
        page, text = param.values
        for number, line in enumerate(re.sub(r'\\\n\s*', '', text).splitlines()):
            if shlex.split(line, comments=True):
                yield pytest.param(page, line.strip(), id=f'{param.id}-{number}')


class Parsed(Exception):
    """A parser has read the arguments."""


@pytest.fixture
def parsed(monkeypatch):
    """Run a script or module until its parser has read the arguments; return them."""
    import mmrev.cli.common
    parse = argparse.ArgumentParser.parse_args

    def stop(parser, args=None, namespace=None):
        raise Parsed(parse(parser, args, namespace))

    def run_command(parser, body, argv=None):
        raise Parsed(parse(parser, argv))

    def commands():
        return [name for name in sys.modules if name.startswith('mmrev.cli.') and name != 'mmrev.cli.common']

    def read(script, arguments):
        monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', stop)
        monkeypatch.setattr(mmrev.cli.common, 'run_command', run_command)
        monkeypatch.setattr(sys, 'argv', [str(script), *arguments])
        monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
        for name in commands():
            monkeypatch.delitem(sys.modules, name)
            monkeypatch.delattr(mmrev.cli, name.split('.')[2])
        with pytest.raises(Parsed) as stopped, warnings.catch_warnings():
            warnings.simplefilter('ignore')
            if script == 'mmrev':
                from mmrev.cli import main
                main(arguments)
            else:
                runpy.run_path(str(ROOT / script), run_name='__main__')
        for name in commands():  # imported with the replacement above; those from before come back
            del sys.modules[name]
            delattr(mmrev.cli, name.split('.')[2])
        return stopped.value.args[0]

    return read


def example(name):
    """The file that a page has one save under this name."""
    if name == 'my_config.py':
        return f'_base_ = {DETECTOR!r}'
    base = dict(zip(['cells.py', 'clothes.py', 'nuclei.py'], ['faster_rcnn', 'in1k', 'segformer']))[name]
    return next(param.values[1] for param in blocks('python') if param.values[0] == 'docs/own_data.md'
                and base in param.values[1].splitlines()[0])


def check_config(args, folder):
    """The config of a command is there, takes the options, and trains as long as the checkpoint's name says."""
    name = args.config
    if '::' not in name and not (ROOT / name).exists():
        (folder / name).write_text(example(name))
        name = str(folder / name)
    elif '::' not in name:
        name = str(ROOT / name)
    cfg = load_config(name, args.cfg_options)
    epoch = re.fullmatch(r'work_dirs/(.+)/epoch_(\d+)\.pth', getattr(args, 'checkpoint', ''))
    if epoch:
        assert epoch.group(1) == Path(name).stem and int(epoch.group(2)) == cfg.train_cfg.max_epochs
    weights = (args.cfg_options or {}).get('model.backbone.init_cfg.checkpoint', getattr(args, 'checkpoint', ''))
    if str(weights).startswith('mmrev://'):
        from mmrev.checkpoints import published
        assert published.find_model(weights.removeprefix('mmrev://')).url


@pytest.mark.parametrize('page, line', shell_lines())
def test_a_shell_line_is_taken_by_its_program(page, line, parsed, tmp_path):
    line = re.sub(r'^(\w+=("[^"]*"|\S+) +)+', '', re.sub(r' \d?> *\S+', '', line))  # variables, redirections
    words = shlex.split(line, comments=True)
    while words:
        command, words = (words[:words.index('&&')], words[words.index('&&') + 1:]) if '&&' in words else (words, [])
        check_command([command[0].removeprefix('.venv/bin/'), *command[1:]], parsed, tmp_path)


def check_command(words, parsed, folder):
    program, *arguments = words
    if program == 'torchrun':
        module = arguments.index('-m')
        from torch.distributed.run import get_args_parser
        get_args_parser().parse_args(arguments[:module + 2])
        assert arguments[module + 1] == 'mmrev.cli'
        program, arguments = 'mmrev', arguments[module + 2:]
    if program in ('tools/dist_train.sh', 'tools/dist_test.sh'):
        number = 2 if 'test' in program else 1
        assert arguments[number].isdigit() and (ROOT / program).exists()
        del arguments[number]
        program, arguments = 'python', [program.replace('dist_', '').replace('.sh', '.py'), *arguments]
    if program == 'make':
        targets = re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE)
        assert arguments[0] in targets and all('=' in word for word in arguments[1:])
    elif program in ('mmrev', 'python'):
        script, arguments = (program, arguments) if program == 'mmrev' else (arguments[0], arguments[1:])
        if arguments[:1] != ['doctor']:
            args = parsed(script, arguments)
            if hasattr(args, 'cfg_options'):
                check_config(args, folder)
    elif program == 'pip':
        pins = {line.split(';')[0].strip() for path in (ROOT / 'requirements').glob('*.txt')
                for line in path.read_text().splitlines()}
        assert all(word in pins for word in arguments if '==' in word) and arguments[0] == 'install'
        assert all(mmrev.__version__ in word for word in arguments if word.startswith('mmrev-'))
    else:
        assert program == 'pre-commit' and arguments == ['install'] and (ROOT / '.pre-commit-config.yaml').exists()


@pytest.mark.parametrize('page, text', blocks('python'))
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
