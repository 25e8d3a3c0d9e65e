#!/usr/bin/env bash
# SLURM: two machines of eight GPUs. Started again after a time limit or a lost machine, it goes on where it was.
#   sbatch recipes/accelerate/slurm.sh recipes/identity-to-sdxl.yaml
#SBATCH --job-name=a4a
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail
recipe=$1
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# a signal saves a checkpoint; --resume goes on with it, and begins where there is none
srun --kill-on-bad-exit=1 torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 8 \
  --rdzv-backend c10d --rdzv-endpoint "$first:29500" --rdzv-id "$SLURM_JOB_ID" \
  -m a4a transfer --config "$recipe" --resume true
