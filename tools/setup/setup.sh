#!/bin/sh
# Finds a Python that fits and lets it set up the environment: setup.sh --stack openmmlab --env .venv
set -eu
here=$(cd "$(dirname "$0")" && pwd)

newest=12 allowed='3.10, 3.11 or 3.12'
case " $* " in *' torch21 '*) newest=11 allowed='3.10 or 3.11' ;; esac  # PyTorch 2.1 has no wheels for Python 3.12

fits() { "$1" -c "import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, $newest))" 2>/dev/null; }

if [ -n "${PYTHON:-}" ]; then
    if ! fits "$PYTHON"; then
        echo "error: PYTHON=$PYTHON is $("$PYTHON" --version 2>&1 || true); mmrev's set-up needs Python $allowed." >&2
        exit 2
    fi
    exec "$PYTHON" "$here/setup_env.py" --chosen-python "$@"
fi

for candidate in python3 python3.12 python3.11 python3.10; do
    if fits "$candidate"; then
        exec "$candidate" "$here/setup_env.py" "$@"
    fi
done

cat >&2 <<EOF
error: no Python $allowed found (python3 is: $(python3 --version 2>&1 || true)).
  Debian/Ubuntu: sudo apt install python3.$newest python3.$newest-venv python3.$newest-dev   (Python $allowed: whichever it has)
  otherwise:     pyenv install 3.$newest, or uv python install 3.$newest
  then:          PYTHON=/path/to/python3.$newest make <target>
EOF
exit 2
