#!/usr/bin/env bash
# Searches hyperparameters in one or two steps: on Slurm where there is one, else on this machine.
#
#   bash submit_scripts/submit_sweep.sh STEP_ONE [STEP_TWO] [options] [-- any sbatch options]
#
# A step is a sweep file (configs/sweeps/...) or a registered W&B sweep (ENTITY/PROJECT/ID). The first step's winner is what the second names.
#   --agents N     agents of the W&B sweep side by side (1)
#   --no-server    search without a W&B server (also where there is no account); the trials share the cores of one machine
#   --seeds LIST   the seeds of the final list (the study's three)
#   --local        run here, also where there is Slurm
#   --wait         on Slurm: wait for the end and show it
#   --dry-run      only show what would run
# It ends with runs/sweeps/<name of the last step>/list.yaml, ready for submit_array.sh, and trials.csv, all trials of all steps.
set -euo pipefail

if [ $# -lt 1 ] || [ "$1" = "--help" ] || [ "$1" = "-h" ]; then
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
  exit $(( $# < 1 ? 2 : 0 ))
fi

# Paths that the user types are relative to where the user stands; everything else runs from the project's root.
root=$(dirname "$(dirname "$(realpath "${BASH_SOURCE[0]}")")")
words=() ours=yes
for word in "$@"; do
  if [ "$word" = -- ]; then ours=no; fi
  if [ $ours = yes ] && [ -f "$word" ]; then word=$(realpath --relative-base="$root" "$word"); fi
  words+=("$word")
done
cd "$root"
python=python3
if [ -x .venv/bin/python ]; then python=$root/.venv/bin/python; fi
exec "$python" -m train.sweep submit "${words[@]}"
