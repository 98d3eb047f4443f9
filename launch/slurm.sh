#!/usr/bin/env bash
# SLURM: a Ray cluster over the job's nodes, then one training run. A starting point; not run yet.
#   sbatch --nodes=2 --gpus-per-node=8 launch/slurm.sh model=qwen3_8b_base cluster=2x8 run.dir=/shared/runs
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=48
set -euo pipefail
source "${MEL_RAY_VENV:-.venv}/bin/activate"
nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 -w "$head" hostname --ip-address | awk '{print $1}')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
[ -s "$RAY_AUTH_TOKEN_PATH" ] ||
  (umask 077; mkdir -p "$(dirname "$RAY_AUTH_TOKEN_PATH")"; python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH")
srun --nodes=1 --ntasks=1 -w "$head" ray start --head --node-ip-address="$address" --port=6379 --block &
sleep 15
for node in "${nodes[@]:1}"; do
  srun --nodes=1 --ntasks=1 -w "$node" ray start --address="$address:6379" --block &
done
sleep 15
RAY_ADDRESS="$address:6379" python -m mel_ray.main "$@"
