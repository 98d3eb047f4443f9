#!/usr/bin/env bash
# The environment of the differential tests: peers whose loss imports without a GPU, and only the pure parts of ours.
set -euo pipefail
venv=${1:-.venv-peers}
python=${PYTHON:-python3}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
wanted() { "$python" -c "import tomllib; print('\n'.join(tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['$1']))"; }
quiet() { grep -v -e "^WARNING: Location" -e "which is incompatible" -e "dependency resolver" || true; }
mapfile -t needed < <(wanted differential)
mapfile -t peers < <(wanted peers)
"$venv/bin/python" -m pip install --quiet "${needed[@]}" 2>&1 | quiet
# Their requirements contradict each other; their losses need none of what they disagree about.
"$venv/bin/python" -m pip install --quiet --no-deps "${peers[@]}" 2>&1 | quiet
"$venv/bin/python" -c 'from importlib.metadata import version as v; print(*(f"{p} {v(p)}" for p in ("trl", "verl", "openrlhf", "torch")), sep=", ")'
