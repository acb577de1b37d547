"""What follows the import of another package's module."""
import subprocess
import sys

import pytest

pytestmark = pytest.mark.subprocess


def run(code: str, cwd) -> str:
    """What a new interpreter prints, with modules of the folder at hand."""
    ended = subprocess.run([sys.executable, '-W', 'ignore', '-c', f'import sys\nsys.path.insert(0, "")\n{code}'],
                           capture_output=True, text=True, cwd=cwd, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_the_action_follows_the_modules_code_once(tmp_path):
    (tmp_path / 'host').mkdir()
    (tmp_path / 'host' / '__init__.py').write_text('from .part import value\n')
    (tmp_path / 'host' / 'part.py').write_text('print("code")\nvalue = 1\n')
    code = ('from mmrev._after_import import after_import\n'
            'after_import("host.part", lambda: print("action", sys.modules["host.part"].value))\n'
            'print("before", "host" in sys.modules)\n'
            'import host, importlib, inspect\nimportlib.reload(sys.modules["host.part"])\n'
            'print(inspect.getsource(host.part).count("value"))')
    assert run(code, tmp_path).splitlines() == ['before False', 'code', 'action 1', 'code', '1']


def test_it_is_at_once_if_the_module_is_there_and_never_if_it_is_absent(tmp_path):
    code = ('from mmrev._after_import import after_import\n'
            'after_import("json", lambda: print("at once")); import json\n'
            'after_import("no_such_package.part", lambda: print("never"))\n'
            'try:\n    import no_such_package.part\nexcept ImportError:\n    print("absent")')
    assert run('import json\n' + code, tmp_path).splitlines() == ['at once', 'absent']
