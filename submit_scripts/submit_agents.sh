#!/usr/bin/env bash
# Submits agents of a W&B sweep to Slurm: K tasks of one array, each runs trials until the sweep has no more.
#
#   bash submit_scripts/submit_agents.sh ENTITY/PROJECT/SWEEP [--agents K] [--count N] [-- any sbatch options]
#
#   --agents K    how many side by side (1)
#   --count N     at most N trials for each agent
# The cluster's options come from slurm/site.sh (see slurm/site.example.sh). Without Slurm: wandb agent ENTITY/PROJECT/SWEEP.
set -euo pipefail

if [ $# -lt 1 ] || [ "$1" = "--help" ] || [ "$1" = "-h" ]; then
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
  exit $(( $# < 1 ? 2 : 0 ))
fi
sweep=$1 agents=1 more=()
shift
while [ $# -gt 0 ]; do
  case $1 in
    --) shift; break ;;
    --agents | --count)
      if ! [[ ${2:-} =~ ^[1-9][0-9]*$ ]]; then echo "error: $1 ${2:-}: must be a whole number from 1" >&2; exit 2; fi
      if [ "$1" = --agents ]; then agents=$2; else more=(--count "$2"); fi
      shift 2 ;;
    *) echo "error: unknown option $1; see: bash submit_scripts/submit_agents.sh --help" >&2; exit 2 ;;
  esac
done
if ! command -v sbatch >/dev/null; then
  echo "error: there is no sbatch on this machine; run an agent here with: wandb agent $sweep" >&2
  exit 2
fi

cd "$(dirname "$(dirname "$(realpath "${BASH_SOURCE[0]}")")")"
SITE=${PALIMPSEST_SITE:-slurm/site.sh}
if [ -z "${PALIMPSEST_SITE:-}" ] && [ ! -e "$SITE" ]; then SITE=slurm/site.example.sh; fi
PALIMPSEST_SITE=$(realpath "$SITE")
PALIMPSEST_RUNS=$(realpath -m "${PALIMPSEST_RUNS:-runs}")
export PALIMPSEST_SITE PALIMPSEST_RUNS
mkdir -p "$PALIMPSEST_RUNS/slurm"
# shellcheck disable=SC1090
source "$PALIMPSEST_SITE"
job=$(sbatch --parsable ${SBATCH_OPTIONS[@]+"${SBATCH_OPTIONS[@]}"} "$@" --job-name="agent-${sweep##*/}" --array="0-$((agents - 1))" --chdir="$PWD" \
  --output="$PALIMPSEST_RUNS/slurm/%A_%a.out" --open-mode=append --export=ALL --signal="B:USR2@$WARN_SECONDS" slurm/agent.sbatch "$sweep" ${more[@]+"${more[@]}"})
echo "job $job: $agents agent(s) of $sweep; logs: $PALIMPSEST_RUNS/slurm/${job}_<agent>.out"
