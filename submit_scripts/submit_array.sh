#!/usr/bin/env bash
# Runs a list of experiments, K entries side by side, then (of a whole list) prints its table.
#
#   bash submit_array.sh CONFIG [--local] [--workers K] [--index LIST] [--with-prerequisites] [--dry-run] [--KEY=VALUE ...]
#
# --local runs on this machine (there is no other way yet, so it is also the default); the other options are those of
# `python -m train`. The exit code is that of the training.
set -euo pipefail

if [ $# -lt 1 ] || [ "$1" = "--help" ] || [ "$1" = "-h" ]; then
  sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit $(( $# < 1 ? 2 : 0 ))
fi

config=$1
shift
# Paths that the user types are relative to where the user stands; everything else runs from the project's root.
if [ -e "$config" ]; then config=$(realpath "$config"); fi
root=$(dirname "$(dirname "$(realpath "${BASH_SOURCE[0]}")")")
cd "$root"
config=$(realpath --relative-to="$root" "$config" 2>/dev/null || echo "$config")

python=python3
if [ -x .venv/bin/python ]; then python=$root/.venv/bin/python; fi

options=()
overrides=()
summary=yes
for option in "$@"; do
  case $option in
    --local) continue ;;
    # The table is that of a whole list.
    --dry-run | --list | --index | --index=*) summary=no ;;
    --workers=*) ;;
    --*=*) overrides+=("$option") ;;
  esac
  options+=("$option")
done

code=0
"$python" -m train "$config" ${options[@]+"${options[@]}"} || code=$?
if [ "$summary" = yes ] && [ $code -eq 0 ]; then
  "$python" -m plots summary "$config" ${overrides[@]+"${overrides[@]}"} || code=$?
fi
exit $code
