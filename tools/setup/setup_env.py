"""Makes an environment that mmrev runs in: `setup_env.py --stack openmmlab --env .venv`.

Every step may be repeated, so a set-up that was killed continues where it stopped. The environment counts as ready only
once it contains a file that records its pins, interpreter and folder, which is written last.
"""
import argparse
import fcntl
import glob
import hashlib
import json
import os
import shutil
import subprocess
import sys

from console import Console, SetupError
from machine import check_compiler, check_space, check_venv_module
from mmcv_wheel import is_cached, mmcv_wheel

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
REQUIREMENTS = os.path.join(ROOT, 'requirements')
READY_FILE = '.mmrev-ready.json'
OTHER_OPENCVS = ('opencv-python', 'opencv-contrib-python', 'opencv-contrib-python-headless')
PROOF = ('import cv2, torch, torchvision, mmengine, mmcv, mmcv.ops, mmdet, mmpretrain, mmseg.models, sklearn, '
         'mmrev.registry')


def main():
    """Entry of the script; returns the exit status."""
    options = parse_options()
    env = os.path.join(ROOT, options.env)
    if is_ready(env, options):
        return 0
    os.makedirs(os.path.join(ROOT, '.setup'), exist_ok=True)
    state = os.path.join(ROOT, '.setup', options.env.strip('.'))
    with open(state + '.lock', 'w', encoding='utf-8') as lock:
        wait_for(lock, options.env)
        if is_ready(env, options):
            return 0
        console = Console(state + '.log', lock)
        try:
            set_up(env, options, console)
        except SetupError as error:
            console.say(f'error: {error}')
            return 2
        except KeyboardInterrupt:
            console.say('stopped; the same command continues from here.')
            return 130
    return 0


def parse_options():
    """Command line of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--stack', default='openmmlab', help='a file of requirements/: openmmlab, torch21 or onedl')
    parser.add_argument('--env', default='.venv', help='folder of the environment, in the repository')
    parser.add_argument('--chosen-python', action='store_true', help='the user chose this interpreter')
    options = parser.parse_args()
    if not os.path.exists(stack_file(options.stack)):
        parser.error(f'no stack of the name {options.stack}: see requirements/')
    return options


def stack_file(stack):
    """File that pins the OpenMMLab packages of a stack, and whatever else it pins differently."""
    return pins(stack)


def is_ready(env, options):
    """Whether the environment was finished for these pins in this folder (and this Python, if the user chose one)."""
    made = read_ready(env)
    if made is None or not os.path.exists(python_of(env)):
        return False
    return made == description(options.stack, running_version() if options.chosen_python else made.get('python'))


def read_ready(env):
    """Content of the environment's ready file, or None."""
    try:
        with open(os.path.join(env, READY_FILE), encoding='utf-8') as opened:
            return json.load(opened)
    except (OSError, ValueError):
        return None


def description(stack, version):
    """What a finished environment depends on."""
    digest = hashlib.sha256()
    for group in read_stack(stack):
        digest.update('\n'.join(group).encode())
    with open(os.path.join(ROOT, 'setup.py'), 'rb') as opened:
        digest.update(opened.read())
    return {'root': ROOT, 'python': version, 'pins': digest.hexdigest()}


def pins(name):
    """A file of requirements/."""
    return os.path.join(REQUIREMENTS, name + '.txt')


def python_of(env):
    """Interpreter of an environment."""
    return os.path.join(env, 'bin', 'python')


def wait_for(lock, name):
    """Takes the lock, waiting for a set-up of the same environment that runs elsewhere."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f'another set-up of {name} is running; waiting for it to end', flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)


def set_up(env, options, console):
    """All steps, each of which may be repeated."""
    check_venv_module()
    torch, common, hosts = read_stack(options.stack)
    mmcv_pin, = [pin for pin in hosts if name_of(pin).endswith('mmcv')]
    if not is_cached(mmcv_pin, 'cp' + running_version().replace('.', ''), torch[0].split('==')[1]):
        check_compiler()
    console.say(f'setting up {options.env} ({options.stack}, Python {version_of(env) or running_version()}); '
                f'log: {os.path.relpath(console.log_path)}')
    make_environment(env, options, console)
    python = python_of(env)
    forget_unfinished(env)

    def install(title, *arguments):
        console.say(f'{title}')
        pip_install(python, arguments, console)

    install('[1/6] build tools', '-r', pins('build'))
    install('[2/6] torch (from PyPI on x86_64 with its CUDA libraries: 3 GB to download)', *torch)
    install('[3/6] what the OpenMMLab packages need', *common, *torch)
    console.say(f'[4/6] {mmcv_pin} with compiled ops')
    wheel = mmcv_wheel(mmcv_pin, python, console)
    # Always again: an installed one may have been compiled for another torch.
    pip_install(python, ['--no-deps', '--force-reinstall', wheel], console)
    others = [pin for pin in hosts if pin != mmcv_pin]
    install('[5/6] ' + ', '.join(others), '--no-deps', '--no-build-isolation', *others)
    install('[6/6] mmrev, editable', '--no-deps', '--no-build-isolation', '--editable', ROOT)
    keep_one_opencv(python, common, console)
    prove(python, console)
    write_ready(env, options)
    console.say(f'{options.env} is ready after {console.elapsed():.0f} s')


def read_stack(stack):
    """Pins of a stack: torch, what the OpenMMLab packages and the tests need, the OpenMMLab packages themselves.

    A pin in the stack's own file replaces the pins of the same package in torch.txt and common.txt.
    """
    own = read_pins(stack_file(stack))
    shared = [read_pins(pins('torch')), read_pins(pins('common')) + read_pins(pins('lint')) + read_pins(pins('docs'))]
    replaced = {name_of(pin): pin for pin in own}
    merged = [list(dict.fromkeys(replaced.get(name_of(pin), pin) for pin in group)) for group in shared]
    names = {name_of(pin) for group in shared for pin in group}
    return [*merged, [pin for pin in own if name_of(pin) not in names]]


def name_of(pin):
    """Name of the package in a requirement of the form `name==version`."""
    return pin.split('==')[0]


def read_pins(path):
    """Requirements of a file and of those that it includes by `-r`, without comments."""
    found = []
    with open(path, encoding='utf-8') as opened:
        for line in opened:
            line = line.split('#')[0].strip()
            if line.startswith('-r '):
                found += read_pins(os.path.join(os.path.dirname(path), line[3:].strip()))
            elif line:
                found.append(line)
    return found


def make_environment(env, options, console):
    """Creates the environment, or keeps one that an earlier set-up left and that works."""
    made = read_ready(env)
    if os.path.exists(os.path.join(env, READY_FILE)):
        os.remove(os.path.join(env, READY_FILE))
    moved = made is not None and made.get('root') != ROOT
    if os.path.exists(env) and not moved and has_pip(env) and right_python(env, options):
        return
    check_space(ROOT)
    if os.path.exists(env):
        console.say(f'      {options.env} is incomplete, was moved or has another Python; it is created again')
        shutil.rmtree(env)
    status, tail = console.run([sys.executable, '-m', 'venv', env])
    if status:
        raise SetupError('\n'.join(tail) + f'\n`python -m venv {options.env}` failed.')


def has_pip(env):
    """Whether pip was wholly installed: INSTALLER is the last file but one that an installation writes."""
    return bool(glob.glob(os.path.join(env, 'lib', 'python3*', 'site-packages', 'pip-*.dist-info', 'INSTALLER')))


def right_python(env, options):
    """Whether the environment's interpreter runs and is the one that was chosen, or fits if none was."""
    version = version_of(env)
    wanted = (running_version(),) if options.chosen_python else ('3.10', '3.11', '3.12')
    return version in wanted


def version_of(env):
    """Version of the environment's interpreter, `3.11` for example; empty where it does not run."""
    probe = 'import sys; print("%d.%d" % sys.version_info[:2])'
    try:
        answer = subprocess.run([python_of(env), '-c', probe], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ''
    return answer.stdout.strip()


def running_version():
    """Version of the interpreter that runs this script."""
    return f'{sys.version_info[0]}.{sys.version_info[1]}'


def forget_unfinished(env):
    """Removes the metadata of packages whose installation was killed, so that pip installs them again."""
    for metadata in glob.glob(os.path.join(env, 'lib', 'python3*', 'site-packages', '*.dist-info')):
        if not os.path.exists(os.path.join(metadata, 'INSTALLER')):
            shutil.rmtree(metadata)
    for stashed in glob.glob(os.path.join(env, 'lib', 'python3*', 'site-packages', '~*')):
        shutil.rmtree(stashed, ignore_errors=True)


def pip_install(python, arguments, console):
    """`pip install`, explained when it fails."""
    command = [python, '-m', 'pip', 'install', '--disable-pip-version-check', '--no-input', *arguments]
    status, tail = console.run(command)
    if not status:
        return
    text = '\n'.join(tail)
    advice = 'see the lines above'
    if 'No space left' in text:
        advice = 'the disk is full; free some and run the same command'
    elif any(sign in text for sign in ('NewConnectionError', 'ConnectTimeout', 'Connection', 'ProxyError',
                                       'Temporary failure', 'Max retries')):
        advice = ('the package index could not be reached. Check the network, or tell pip about your proxy or mirror '
                  '(`pip config set global.proxy ...`, `pip config set global.index-url ...`)')
    raise SetupError(f'{text}\npip failed: {advice}.\n  All of its output: {console.log_path}')


def keep_one_opencv(python, common, console):
    """Keeps only the OpenCV that needs no display libraries; another one overwrites the same files."""
    listed = subprocess.run([python, '-m', 'pip', 'list', '--format', 'json', '--disable-pip-version-check'],
                            capture_output=True, text=True, check=True).stdout
    found = {package['name'] for package in json.loads(listed)} & set(OTHER_OPENCVS)
    if found:
        console.run([python, '-m', 'pip', 'uninstall', '--yes', *sorted(found)])
        headless, = [pin for pin in common if name_of(pin) == 'opencv-python-headless']
        pip_install(python, ['--no-deps', '--force-reinstall', headless], console)


def prove(python, console):
    """Imports everything; an environment in which something does not import is not ready."""
    status, tail = console.run([python, '-W', 'ignore', '-c', PROOF], cwd=os.path.join(ROOT, '.setup'))
    if status:
        raise SetupError('\n'.join(tail) + '\nthe environment does not work; '
                         f'`{os.path.relpath(python)} -m mmrev.doctor` shows how to fix it.')


def write_ready(env, options):
    """Marks the environment as finished, in one step."""
    path = os.path.join(env, READY_FILE)
    with open(path + '.part', 'w', encoding='utf-8') as opened:
        json.dump(description(options.stack, version_of(env)), opened)
    os.replace(path + '.part', path)


if __name__ == '__main__':
    sys.exit(main())
