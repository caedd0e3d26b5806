#!/usr/bin/env bash
# Runs a list of experiments: on Slurm where there is one, else on this machine.
#
#   bash submit_array.sh CONFIG [options] [--KEY=VALUE ...] [-- any sbatch options]
#
#   --index LIST          these entries (0-5,9); --with-prerequisites: and what they need
#   --dry-run             only show what would run
#   --max-parallel K      at most K entries (on Slurm: tasks of an array) at once
# On Slurm: an array for each wave of the list, every entry after its prerequisites. The same command again submits what is neither finished
# nor queued, so also what failed. The list is frozen: editing it later changes nothing that waits. See slurm/site.example.sh.
#   --per-task K          K entries share one task and its GPU, side by side
#   --wait                after submitting, follow the jobs to their end, then print the table
# On this machine (also where there is no sbatch):
#   --local               run here, as many entries side by side as there are cores, then print the table
set -euo pipefail

if [ $# -lt 1 ] || [ "$1" = "--help" ] || [ "$1" = "-h" ]; then
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
  exit $(( $# < 1 ? 2 : 0 ))
fi

config=$1
shift
# Paths that the user types are relative to where the user stands; everything else runs from the project's root.
if [ -e "$config" ]; then config=$(realpath "$config"); fi
root=$(dirname "$(dirname "$(realpath "${BASH_SOURCE[0]}")")")
cd "$root"
config=$(realpath --relative-base="$root" "$config" 2>/dev/null || echo "$config")

python=python3
if [ -x .venv/bin/python ]; then python=$root/.venv/bin/python; fi

local=no wait=no summary=yes
options=() overrides=() site=()
while [ $# -gt 0 ]; do
  case $1 in
    --) shift; site=("$@"); break ;;
    --local) local=yes; shift; continue ;;
    --wait) wait=yes ;;
    # The table is that of a whole list.
    --dry-run | --list | --index | --index=*) summary=no ;;
    --workers=* | --max-parallel=* | --per-task=*) ;;
    --*=*) overrides+=("$1") ;;
  esac
  options+=("$1")
  shift
done
if [ $local = no ] && ! command -v sbatch >/dev/null; then
  echo "there is no sbatch on this machine, so the list runs here (as with --local)" >&2
  local=yes
fi

code=0
if [ $local = yes ]; then
  here=()
  for option in ${options[@]+"${options[@]}"}; do
    case $option in
      --per-task | --per-task=*) echo "error: --per-task is for Slurm; here it is --max-parallel K that runs K entries side by side" >&2; exit 2 ;;
      --wait) ;;
      *) here+=("$option") ;;
    esac
  done
  if [ ${#site[@]} -gt 0 ]; then echo "error: ${site[*]}: options after -- are sbatch's, and here is none; leave out -- or --local" >&2; exit 2; fi
  # Told to stop, or interrupted from the keyboard: the training saves and ends, and so does this script. A second time it is killed.
  "$python" -m train "$config" ${here[@]+"${here[@]}"} &
  program=$! signal=TERM
  trap 'kill -$signal $program 2>/dev/null || true; signal=KILL' INT TERM HUP
  while kill -0 $program 2>/dev/null; do wait $program || true; done
  wait $program || code=$?
  trap - INT TERM HUP
else
  "$python" -m train.submit "$config" ${options[@]+"${options[@]}"} -- ${site[@]+"${site[@]}"} || code=$?
  if [ $wait = no ]; then summary=no; fi
fi
if [ $summary = yes ] && [ $code -eq 0 ]; then
  "$python" -m plots summary "$config" ${overrides[@]+"${overrides[@]}"} || code=$?
fi
if [ $summary = yes ] && [ $code -eq 1 ]; then
  echo "the table of what is finished: python -m plots summary $config ${overrides[*]-}" >&2
fi
exit $code
