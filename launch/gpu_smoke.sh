#!/usr/bin/env bash
# The first hour on a GPU: bash launch/gpu_smoke.sh .venv [folder]
# Runs the tests that need a GPU and the benchmarks of the policy and of weight sync, and writes one page, report.md, that says how it went.
# MEL_RAY_GPU_MODEL=/my/0.5b takes that model instead of random weights.
set -uo pipefail
venv=${1:-.venv}
folder=${2:-gpu_smoke}
if ! command -v nvidia-smi >/dev/null 2>&1; then
  echo "gpu-smoke: no NVIDIA driver is visible here, so there is nothing to try" >&2
  exit 2
fi
mkdir -p "$folder"
run() { # name, command...: its output in a file; a line of the page
  local name=$1 started=$SECONDS status
  shift
  "$@" >"$folder/$name.log" 2>&1
  status=$?
  printf '| %s | %s | %s s |\n' "$name" "$([ $status -eq 0 ] && echo passed || echo "**failed ($status)**")" "$((SECONDS - started))" >>"$folder/table"
  echo "gpu-smoke: $name: $([ $status -eq 0 ] && echo passed || echo failed) ($((SECONDS - started)) s)"
  [ $status -eq 0 ] || failed=1
}
failed=0
: >"$folder/table"
run tests "$venv/bin/python" -m pytest -v -m gpu -rs tests/gpu
run policy_step "$venv/bin/python" -m benchmarks.policy_step --rounds 2 --hidden 1024 --layers 28 --heads 16 --mlp 3072
count=$(nvidia-smi -L | wc -l)
if [ "$count" -ge 2 ]; then
  run weight_sync "$venv/bin/python" -m benchmarks.weight_sync --device cuda --transports nccl gloo --engines 1 --forms dense
else
  run weight_sync "$venv/bin/python" -m benchmarks.weight_sync --device cuda --transports shm gloo --engines 1 --forms dense
fi
{
  echo "# The first hour on a GPU"
  echo
  echo "$(date -u +%Y-%m-%d), commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
  echo
  echo '| what | result | took |'
  echo '|---|---|---|'
  cat "$folder/table"
  echo
  echo "## Machine"
  echo
  nvidia-smi --query-gpu=index,name,memory.total,driver_version --format=csv | sed 's/^/    /'
  "$venv/bin/python" -c 'from importlib.metadata import version as v
for p in ("torch", "vllm", "deepspeed", "transformers", "ray"): print("   ", p, v(p))' 2>/dev/null
  echo
  echo "## Tests"
  echo
  grep -E 'PASSED|FAILED|ERROR|SKIPPED' "$folder/tests.log" | sed -E 's/ +\[ *[0-9]+%\]//; s/^/    /' | sort -u
  echo
  echo "## The policy's step"
  echo
  tail -n 1 "$folder/policy_step.log" | sed 's/^/    /'
  echo
  echo "## Weights to the engines"
  echo
  tail -n 1 "$folder/weight_sync.log" | sed 's/^/    /'
  echo
  echo "Please send this page with an issue; where something failed, the whole folder ($folder) with its logs."
} >"$folder/report.md"
rm -f "$folder/table"
echo "gpu-smoke: $folder/report.md"
exit $failed
