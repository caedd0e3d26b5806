#!/usr/bin/env bash
# Stops the Slurm that tests/slurm/start.sh started, by its pid files, with every process of its jobs; removes its folder.
set -euo pipefail

dir=${PALIMPSEST_SLURM_DIR:-/tmp/palimpsest-slurm-$(id -u)}
[ -e "$dir" ] || exit 0
# Only a folder of ours is ever removed; one without a configuration is a start that was killed early.
if [ ! -O "$dir" ] || { [ -e "$dir/slurm.conf" ] && ! grep -qxF "# written by Palimpsest's tests/slurm/start.sh" "$dir/slurm.conf"; }; then
  echo "error: $dir was not written by tests/slurm/start.sh" >&2
  exit 3
fi

declare -A pids
is() { [ "$(cat "/proc/$1/comm" 2>/dev/null)" = "$2" ]; }
# A process may be gone before it is looked at: it then carries nothing, and no signal reaches it.
carries() { grep -qzxF "$2" "$1/environ" 2>/dev/null; }
signal() { kill "-$1" "$2" 2>/dev/null || true; }
tell() { # NAME...: SIGTERM, also to one that is paused
  local name pid
  for name in "$@"; do
    pid=$(cat "$dir/run/$name.pid" 2>/dev/null) || continue
    if [ -n "$pid" ] && is "$pid" "$name"; then
      pids[$name]=$pid
      signal TERM "$pid"
      signal CONT "$pid"
    fi
  done
}
# The controller first: it would start more.
tell slurmctld
# The daemons of its steps, which would wait for the controller; whatever a job started carries its environment, also what left the session.
for process in /proc/[0-9]*; do
  pid=${process#/proc/}
  if is "$pid" slurmstepd; then
    ! { ls -l "$process/fd" 2>/dev/null || true; } | grep -qF "$dir/" || signal KILL "$pid"
  elif carries "$process" "SLURM_CONF=$dir/slurm.conf" && carries "$process" SLURM_CLUSTER_NAME=palimpsest; then
    signal KILL "$pid"
  fi
done
tell slurmd munged
end=$((SECONDS + 10))
for name in "${!pids[@]}"; do
  while is "${pids[$name]}" "$name" && [ $SECONDS -lt $end ]; do sleep 0.1; done
  if is "${pids[$name]}" "$name"; then signal KILL "${pids[$name]}"; fi
done
rm -rf "$dir"
