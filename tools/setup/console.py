"""Output of the set-up: one line per step, a complete log, and progress while a step runs for long."""
import shutil
import subprocess
import sys
import time

HEARTBEAT_SECONDS = 30


class SetupError(Exception):
    """A problem that the user can fix; the message states how."""


class Console:
    """Prints steps, runs their commands and keeps all output in a log.

    Args:
        log_path: file that receives the output of every command.
        lock_file: file whose lock the commands inherit: if the set-up is killed while one of its commands still runs,
            the next set-up waits for it.
    """

    def __init__(self, log_path, lock_file):
        self.log_path = log_path
        self._inherited = (lock_file.fileno(),)
        self.is_terminal = sys.stdout.isatty()
        self._log = open(log_path, 'a', encoding='utf-8', errors='replace')
        self._started = time.monotonic()
        self._last_shown = 0.0

    def say(self, text):
        """Prints a line and logs it."""
        self._clear()
        print(text, flush=True)
        self._log.write(f'# {text}\n')
        self._log.flush()

    def progress(self, text):
        """Shows a passing line: rewritten in a terminal, every half minute elsewhere."""
        now = time.monotonic()
        if self.is_terminal:
            width = shutil.get_terminal_size().columns - 1
            print('\r\x1b[K' + f'      {text}'[:width], end='', flush=True)
        elif now - self._last_shown >= HEARTBEAT_SECONDS:
            print(f'      {text}', flush=True)
            self._last_shown = now

    def elapsed(self):
        """Seconds since the set-up began."""
        return time.monotonic() - self._started

    def run(self, command, *, env=None, cwd=None, show=None):
        """Runs a command with its output in the log.

        Args:
            command: list of arguments.
            env: whole environment of the command, or None for this one.
            cwd: its directory.
            show: function from an output line to a progress text or None.

        Returns:
            Exit status and the last 40 lines of output.
        """
        self._log.write('$ ' + ' '.join(command) + '\n')
        self._log.flush()
        self._last_shown = time.monotonic()
        process = subprocess.Popen(command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, errors='replace',
                                   pass_fds=self._inherited)
        tail = []
        with process:
            for line in process.stdout:
                self._log.write(line)
                self._log.flush()
                tail = (tail + [line.rstrip()])[-40:]
                text = show(line) if show else line.strip()[:100]
                if text:
                    self.progress(text)
        self._clear()
        return process.returncode, tail

    def _clear(self):
        if self.is_terminal:
            print('\r\x1b[K', end='', flush=True)
