"""What the documents hold: fenced blocks, commands, files that a page has one save."""
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [
    ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *ROOT.glob('docs/*.md'), *ROOT.glob('configs/*/README.md')])
DETECTOR = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
_FENCE = re.compile(r'^( *)```(\w*)\n(.*?)^ *```', re.DOTALL | re.MULTILINE)
_COMMAND = re.compile(r'`(mmrev [a-z]+ [^-…`][^`]*|make [a-z-]+[^`]*|python (?:tools|benchmarks)/[^`]*)`')


def blocks(language):
    """Every fenced block of a language: page, how many of the page's it is, text."""
    for page in PAGES:
        texts = [match.group(3) for match in _FENCE.finditer((ROOT / page).read_text(encoding='utf-8'))
                 if match.group(2) == language]
        yield from ((page, index, text) for index, text in enumerate(texts))


def shell_commands():
    """Every command of the shell blocks, as its page and its words, without variables and redirections."""
    for page, _, text in blocks('bash'):
        for line in re.sub(r'\\\n\s*', '', text).splitlines():
            line = re.sub(r'^(\w+=("[^"]*"|\S+) +)+', '', re.sub(r' \d?> *\S+', '', line.strip()))
            words = shlex.split(line, comments=True)
            while words:
                command, words = (words[:words.index('&&')], words[words.index('&&') + 1:]) if '&&' in words else (
                    words, [])
                yield page, [command[0].removeprefix('.venv/bin/'), *command[1:]]


def commands_in_text():
    """Every command of `mmrev` with arguments, of a script or of make between backquotes in the text: its words."""
    for page in PAGES:
        text = _FENCE.sub('', (ROOT / page).read_text(encoding='utf-8'))
        for command in _COMMAND.findall(text):
            if not command.endswith('--help'):
                yield shlex.split(command)


def example(name):
    """The file that a page has one save under this name: the block of Python after "as `name`"."""
    if name == 'my_config.py':
        return f'_base_ = {DETECTOR!r}'
    for page in PAGES:
        saved = re.search(rf'as `{re.escape(name)}`.*?```python\n(.*?)```', (ROOT / page).read_text(encoding='utf-8'),
                          re.DOTALL)
        if saved:
            return saved.group(1)
    raise LookupError(name)
