#!/usr/bin/env bash
# SmolLM2-135M on SVAMP: a supervised warm-up, GRPO from there, and both on problems that neither has seen.
#   make demo-real [SVAMP=copy of SVAMP.json] [ARGS="key=value ..."]    # the keys are those of the GRPO run
# A stage that is done is not done again, and one that was cut off goes on.
set -euo pipefail
python=${PYTHON:-.venv/bin/python}
data=runs/data/SVAMP.json
home=https://raw.githubusercontent.com/arkilpatel/SVAMP/main/SVAMP.json
warm=runs/smollm2-warm-up
rl=runs/smollm2-grpo

if [ ! -f "$data" ]; then
  mkdir -p "$(dirname "$data")"
  if [ -n "${SVAMP:-}" ]; then
    cp "$SVAMP" "$data.part" || { echo "demo-real: SVAMP=$SVAMP cannot be read" >&2; exit 2; }
  else
    curl --fail --silent --show-error --location --max-time 60 --output "$data.part" "$home" ||
      { echo "demo-real: $home cannot be fetched; give a copy of it: make demo-real SVAMP=file" >&2; exit 2; }
  fi
  mv "$data.part" "$data"
fi

if [ ! -f "$warm/export/mel_ray.json" ]; then # which a run that is done has
  "$python" -m mel_ray.main experiment=smollm2 algorithm=sft run.name=smollm2-warm-up run.resume=auto run.steps=32 \
    rollout.prompts_per_step=32 rollout.group_size=1 algorithm.lr=5e-5 eval.samples=0
fi
if [ ! -f "$rl/export/mel_ray.json" ]; then
  "$python" -m mel_ray.main experiment=smollm2 run.name=smollm2-grpo run.resume=auto model.path="$warm/export" \
    eval.samples=0 "$@"
fi
"$python" -m mel_ray.evaluate "model=[$warm/export,$rl/export]" benchmarks=svamp eval.samples=4 \
  output=runs/smollm2-evaluation
