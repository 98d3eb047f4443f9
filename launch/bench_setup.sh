#!/usr/bin/env bash
# An environment of its own for benchmarks/vs_trl.py: TRL's requirements conflict with vLLM's.
set -euo pipefail
venv=${1:-.venv-trl}
python=${PYTHON:-python3}
if [ -x "$venv/bin/python" ] && "$venv/bin/python" -c 'import trl' 2>/dev/null; then exit 0; fi
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet "torch==2.13.0" "trl>=1.0,<2" "transformers>=5.0" "dill<0.4.1" "pyarrow<22" "pandas<3" \
  2>&1 | grep -v "^WARNING: Location" || true
"$venv/bin/python" -c 'import trl; print("TRL", trl.__version__)'
