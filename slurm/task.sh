# What every task on a cluster does: the site's environment, notice of the end passed on to the program, and back into the queue where it saved.
# Sourced by array.sbatch and sweep.sbatch, which Slurm runs in the project's folder; then: run_task COMMAND...
#
# A task that is told to stop (the warning before its time limit, preemption) saves where it is and exits with 85; then it is put back into
# the queue, at most MAX_RESTARTS times, and goes on there. A task that fails stays failed; one that is cancelled stays cancelled.

me=${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID} # the job's own id would mean the whole array in one of its tasks
restarts=${SLURM_RESTART_COUNT:-0}
say() { echo "$(date '+%F %T') task $me: $*"; }
setup() { :; }
RUN=() PYTHON='' MAX_RESTARTS=20
# shellcheck disable=SC1090
source "$PALIMPSEST_SITE" || exit 2

told='' program=''
# Only a trap of the shell sees the warning; to the program every notice is a TERM, and it may come twice.
trap 'told=warning; [ -z "$program" ] || kill -TERM "$program" 2>/dev/null' USR2
trap 'told=${told:-TERM}; [ -z "$program" ] || kill -TERM "$program" 2>/dev/null' TERM

export PALIMPSEST_TASK=$me PALIMPSEST_LOG="$PALIMPSEST_RUNS/slurm/$me.out" PYTHONUNBUFFERED=1
export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
say "start $((restarts + 1)) on $(hostname)"
setup || { say "the site file's setup failed"; exit 2; }
# First in the PATH, for what is started by the name of python alone.
if [ -z "$PYTHON" ] && [ -x .venv/bin/python ]; then export PATH=$PWD/.venv/bin:$PATH; fi
python=${PYTHON:-$(command -v python3)}

run_task() {
  local code=85
  if [ -z "$told" ]; then
    # In the background and waited for, since a trap runs only between foreground programs.
    ${RUN[@]+"${RUN[@]}"} "$@" &
    program=$!
    if [ -n "$told" ]; then kill -TERM "$program" 2>/dev/null; fi
    while kill -0 "$program" 2>/dev/null; do wait "$program"; done
    wait "$program"
    code=$?
  fi
  # Told before Python could listen (143): nothing was lost, so it comes again as well.
  if [ -n "$told" ] && [ "$code" -eq 143 ]; then code=85; fi
  if [ "$code" -eq 85 ]; then come_again; else say "ended with exit code $code"; fi
  exit "$code"
}

come_again() {
  # Slurm says the same state to a task that is cancelled and to one that ran out of time, but not the same reason.
  local job try
  field() { sed -nE "s/.* $1=([^ ]*).*/\1/p" <<<"$job"; }
  # A busy controller may say nothing: that does not mean cancelled.
  for try in 1 2 3; do
    job=" $(scontrol show job "$me" -o 2>/dev/null)"
    [ -z "$(field JobState)" ] || break
    sleep 1
  done
  if [ "$(field Restarts)" -gt "$restarts" ] 2>/dev/null; then
    say "saved; preempted, and queued again by Slurm"
  elif [ -z "$(field JobState)" ]; then
    say "saved; Slurm does not say what it will do with it: if it does not come back, submit it again to go on"
  elif [ "$(field JobState)" != RUNNING ] && [ "$(field Reason)" != TimeLimit ]; then
    say "saved; cancelled, so not queued again"
  elif [ "$restarts" -ge "$MAX_RESTARTS" ]; then
    say "saved; started $((restarts + 1)) times, which is what MAX_RESTARTS=$MAX_RESTARTS allows; submit it again to go on"
  elif scontrol requeue "$me"; then
    say "saved; queued again after ${told:-a stop}"
  else
    say "saved; could not be queued again: submit it again to go on"
  fi
}
