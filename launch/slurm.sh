#!/usr/bin/env bash
# SLURM: a Ray cluster over the job's nodes, then one training run. Tested with stub commands only.
#   sbatch --nodes=2 --gpus-per-node=8 launch/slurm.sh model=qwen3_8b_base cluster=2x8 run.dir=/shared/runs
# Five minutes before its time is up the run saves and stops, and the job goes back to the queue. It then goes on from
# there, and so does a job that names the same run.
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=48
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
source "${MEL_RAY_VENV:-.venv}/bin/activate"
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-48} # since SLURM 22.05 srun does not inherit it
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
[ -s "$RAY_AUTH_TOKEN_PATH" ] ||
  (umask 077; mkdir -p "$(dirname "$RAY_AUTH_TOKEN_PATH")"; python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH")

port=${RAY_HEAD_PORT:-6379}
patience=${MEL_RAY_NODE_PATIENCE:-600} # seconds for all nodes to join
nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
head=${nodes[0]}
on() { srun --nodes=1 --ntasks=1 -w "$@"; }
address=$(on "$head" python -c 'import ray.util; print(ray.util.get_node_ip_address())' | tail -n 1)

asked= training=
pass_on() { # signal: bash runs this in place of dying, and `wait` returns
  asked=yes
  [ -z "$training" ] || kill "-$1" "$training" 2>/dev/null || true
}
trap 'pass_on USR1' USR1
trap 'pass_on TERM' TERM

started=()
trap '[ ${#started[@]} -eq 0 ] || kill "${started[@]}" 2>/dev/null || true' EXIT
on "$head" ray start --head --node-ip-address="$address" --port="$port" --num-cpus="$SRUN_CPUS_PER_TASK" --disable-usage-stats --block &
started+=($!)
for node in "${nodes[@]:1}"; do
  # A worker that comes before the head is up is started again.
  (until on "$node" ray start --address="$address:$port" --num-cpus="$SRUN_CPUS_PER_TASK" --disable-usage-stats --block; do sleep 5; done) &
  started+=($!)
done

alive() { RAY_ADDRESS="$address:$port" python -c 'import ray; ray.init(log_to_driver=False, logging_level="ERROR"); print(sum(n["Alive"] for n in ray.nodes()))' 2>/dev/null | tail -n 1; }
until [ "$(alive || echo 0)" = "${#nodes[@]}" ]; do
  if [ "$SECONDS" -gt "$patience" ]; then
    echo "slurm: after $patience s $(alive || echo 0) of ${#nodes[@]} nodes have joined the Ray cluster at $address:$port" >&2
    exit 1
  fi
  sleep 2
done
echo "slurm: ${#nodes[@]} nodes at $address:$port"
if [ -n "$asked" ]; then # before there was anything to save
  echo "slurm: job $SLURM_JOB_ID goes back to the queue"
  scontrol requeue "$SLURM_JOB_ID"
  exit 75
fi

name=()
case " $* " in
  *" run.name="*) ;;
  *) name=("run.name=slurm-$SLURM_JOB_ID") ;; # the same when the job is requeued
esac
RAY_ADDRESS="$address:$port" python -m mel_ray.main run.resume=auto "${name[@]}" "$@" &
training=$!
status=128
while [ "$status" -ge 128 ]; do # as long as it is a signal that ended the waiting, and not the training
  status=0
  wait "$training" || status=$?
  [ -n "$asked" ] || break
  asked=
done
if [ "$status" -eq 75 ]; then
  echo "slurm: the run has saved and stopped; job $SLURM_JOB_ID goes back to the queue"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
