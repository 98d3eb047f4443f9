#!/usr/bin/env bash
# Install mel_ray into a virtual environment: bash launch/setup.sh .venv
# With an NVIDIA GPU it takes vLLM's CUDA build; without, its CPU build and a CPU torch. A CPU torch wheel that pip is
# configured to find (find-links) is used; otherwise it comes from PyTorch's own CPU index.
set -euo pipefail
venv=${1:-.venv}
python=${PYTHON:-python3}
extra=cpu
if [ -e /proc/driver/nvidia/version ] || command -v nvidia-smi >/dev/null 2>&1; then extra=gpu; fi
extra=${MEL_RAY_EXTRA:-$extra}

"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' ||
  { echo "mel_ray needs Python 3.11 or 3.12; set PYTHON=python3.11 (found $("$python" --version))" >&2; exit 2; }
echo "setup: Python $("$python" -c 'import platform; print(platform.python_version())'), the $extra extra, into $venv"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet uv 2>&1 | grep -v "^WARNING: Location" || true

# uv does not read pip's configuration: hand over where pip looks.
options=()
links="${PIP_FIND_LINKS:-} $("$venv/bin/python" -m pip config get global.find-links 2>/dev/null || true)"
has_torch=no
for place in $(printf '%s\n' $links | sort -u); do
  options+=(--find-links "$place")
  if ls "$place"/torch-*cpu*.whl >/dev/null 2>&1; then has_torch=yes; fi
done
index="${PIP_INDEX_URL:-$("$venv/bin/python" -m pip config get global.index-url 2>/dev/null || true)}"
if [ -n "$index" ]; then options+=(--default-index "$index"); fi
if [ "$extra" = cpu ] && [ "$has_torch" = no ]; then options+=(--torch-backend cpu); fi
if [ "$extra" = gpu ]; then options+=(--torch-backend auto); fi

"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --compile-bytecode "${options[@]}" -e ".[$extra,dev]"
if [ "$extra" = cpu ]; then
  # vLLM only warns about a Triton that has no CPU backend, at every start.
  "$venv/bin/uv" pip uninstall --quiet --python "$venv/bin/python" triton 2>/dev/null || true
fi
"$venv/bin/python" -c 'import ray, torch, vllm' 2>/dev/null ||
  { echo "setup: the installed packages do not import; run: $venv/bin/python -c 'import ray, torch, vllm'" >&2; exit 1; }
echo "setup: done"
