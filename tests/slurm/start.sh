#!/usr/bin/env bash
# Starts a real Slurm of one node on loopback for the tests: munged, slurmctld and slurmd, with everything in one folder.
#
#   bash tests/slurm/start.sh      prints the path of its slurm.conf: export SLURM_CONF=... and sbatch, squeue, ... speak to it
#   bash tests/slurm/stop.sh       cancels its jobs, stops it and removes the folder
#
# Needs root; installs Debian's slurm-wlm, slurm-client and munge where they are missing. Nothing outside the folder is written;
# it refuses where another Slurm is configured. Run again while it is up, it changes nothing. Exit code 3: not possible here.
#
# Knobs (environment):
#   PALIMPSEST_SLURM_DIR            the folder (/tmp/palimpsest-slurm-<user id>)
#   PALIMPSEST_SLURM_PORT           of slurmctld; slurmd takes the next one (26817)
#   PALIMPSEST_SLURM_CPUS           may be more than there are (4)
#   PALIMPSEST_SLURM_GPUS           pretend GPUs, 0 to 4 (2)
#   PALIMPSEST_SLURM_MAX_ARRAY      MaxArraySize: the highest array index is one less (1001)
#   PALIMPSEST_SLURM_KILL_WAIT      seconds from SIGTERM to SIGKILL (30)
#   PALIMPSEST_SLURM_MIN_JOB_AGE    seconds until an ended job is forgotten (300)
#   PALIMPSEST_SLURM_REQUEUE_DELAY  seconds that a requeued job waits, at least 5 (5)
#   PALIMPSEST_SLURM_GRACE          seconds of grace for the preemptable partition `low` (5)
set -euo pipefail

here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
dir=${PALIMPSEST_SLURM_DIR:-/tmp/palimpsest-slurm-$(id -u)}
port=${PALIMPSEST_SLURM_PORT:-26817}
cpus=${PALIMPSEST_SLURM_CPUS:-4}
gpus=${PALIMPSEST_SLURM_GPUS:-2}
max_array=${PALIMPSEST_SLURM_MAX_ARRAY:-1001}
kill_wait=${PALIMPSEST_SLURM_KILL_WAIT:-30}
min_job_age=${PALIMPSEST_SLURM_MIN_JOB_AGE:-300}
requeue_delay=${PALIMPSEST_SLURM_REQUEUE_DELAY:-5}
grace=${PALIMPSEST_SLURM_GRACE:-5}
mark="# written by Palimpsest's tests/slurm/start.sh"
conf=$dir/slurm.conf
# Debian keeps the daemons where a user's PATH may not look.
export PATH=$PATH:/usr/sbin:/sbin

impossible() { echo "error: $*" >&2; exit 3; }
failed() {
  echo "error: $*; the last lines of its logs:" >&2
  tail -n 8 "$dir"/log/* >&2 || true
  exit 1
}
alive() { # NAME: its recorded process is still that program
  local pid
  pid=$(cat "$dir/run/$1.pid" 2>/dev/null) || return 1
  [ -n "$pid" ] && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$1" ]
}
wait_for() { # SECONDS WHAT COMMAND...
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || failed "$what does not answer"
    sleep 0.1
  done
}
free_port() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
node_is_up() { sinfo -h -N -o %T | grep -qE '^(idle|mixed|allocated)'; }

[ "$(id -u)" = 0 ] || impossible "starting a Slurm needs root"
if [ -n "${SLURM_CONF:-}" ] && [ "$SLURM_CONF" != "$conf" ]; then impossible "SLURM_CONF=$SLURM_CONF names another Slurm, which is left alone"; fi
for other in /etc/slurm/slurm.conf /etc/slurm-llnl/slurm.conf; do
  if [ -e "$other" ]; then impossible "$other configures another Slurm, which is left alone"; fi
done
if [ -e "$dir" ]; then
  # A folder that somebody else made in /tmp could hold anything.
  [ -O "$dir" ] && [ ! -L "$dir" ] || impossible "$dir belongs to somebody else"
  if [ -e "$conf" ] && ! grep -qxF "$mark" "$conf"; then impossible "$conf was not written by this script"; fi
fi
export SLURM_CONF=$conf
if alive munged && alive slurmctld && alive slurmd; then
  echo "$conf"
  exit 0
fi
# What is left of one that was killed.
[ ! -e "$dir" ] || bash "$here/stop.sh"

missing=()
for package in slurm-wlm slurm-client munge; do
  [ "$(dpkg-query -W -f '${db:Status-Abbrev}' $package 2>/dev/null || true)" = "ii " ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  command -v apt-get >/dev/null || impossible "${missing[*]} missing, and there is no apt-get to install it with"
  log=$(mktemp)
  # The packages' own scripts must not start their daemons.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
    trap 'rm -f $policy' EXIT
  fi
  # Without an update where the lists are there: it is the slow part.
  install() { DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}" </dev/null >>"$log" 2>&1; }
  install || { apt-get update >>"$log" 2>&1 && install; } || impossible "${missing[*]} cannot be installed: $(grep -m 1 '^E:' "$log" || tail -n 1 "$log")"
  rm -f "$log"
  if [ -n "$(trap -p EXIT)" ]; then
    rm -f $policy
    trap - EXIT
  fi
fi

for p in $port $((port + 1)); do free_port $p || impossible "port $p of 127.0.0.1 is taken; PALIMPSEST_SLURM_PORT names another"; done
mkdir -m 711 "$dir"
mkdir -m 755 "$dir/log" "$dir/run" "$dir/munge"
mkdir -m 700 "$dir/state" "$dir/spool" "$dir/key"
trap 'code=$?; trap - EXIT; [ $code = 0 ] || bash "$here/stop.sh" || true; exit $code' EXIT

host=$(hostname -s)
memory=$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo)
{
  echo "$mark"
  devices=(/dev/null /dev/zero /dev/full /dev/random)
  for ((i = 0; i < gpus; i++)); do echo "NodeName=$host Name=gpu File=${devices[i]}"; done
} >"$dir/gres.conf"
{ echo "$mark"; echo "CgroupPlugin=autodetect"; } >"$dir/cgroup.conf"
cat >"$conf" <<CONF
$mark
ClusterName=palimpsest
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
# Without these the daemons would listen on every address.
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits for cred_expire seconds.
AuthInfo=socket=$dir/munge/socket,cred_expire=$requeue_delay
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# More CPUs than there are.
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
ReturnToService=2
KillWait=$kill_wait
MinJobAge=$min_job_age
MaxArraySize=$max_array
JobRequeue=1
# A job of partition main pushes jobs of partition low back into the queue.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus Boards=1 SocketsPerBoard=1 CoresPerSocket=$cpus ThreadsPerCore=1 RealMemory=$memory Gres=gpu:$gpus State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=1-00:00:00 DefaultTime=01:00:00 DefMemPerCPU=500 PriorityTier=10 PreemptMode=OFF State=UP
PartitionName=low Nodes=ALL MaxTime=1-00:00:00 DefaultTime=01:00:00 DefMemPerCPU=500 PriorityTier=1 PreemptMode=REQUEUE GraceTime=$grace State=UP
CONF
if [ "$gpus" = 0 ]; then sed -i 's/ Gres=gpu:0//; /^GresTypes/d' "$conf"; fi

head -c 128 /dev/urandom >"$dir/key/munge.key"
chmod 400 "$dir/key/munge.key"
# --force: the tests' munged may run as root and keep its files together.
munged --force --socket="$dir/munge/socket" --key-file="$dir/key/munge.key" --pid-file="$dir/run/munged.pid" \
  --log-file="$dir/log/munged.log" --seed-file="$dir/key/munged.seed" >>"$dir/log/munged.out" 2>&1 || failed "munged does not start"
wait_for 10 munged munge -S "$dir/munge/socket" -n
slurmctld -f "$conf" >>"$dir/log/slurmctld.out" 2>&1 || failed "slurmctld does not start"
wait_for 20 slurmctld sh -c 'scontrol ping | grep -q UP'
slurmd -f "$conf" >>"$dir/log/slurmd.out" 2>&1 || failed "slurmd does not start"
wait_for 20 slurmd node_is_up
# In /proc/net/tcp: column 2 the local address (127.x.x.x ends in 7F), column 4 the state, 0A: listening.
for p in $port $((port + 1)); do
  hex=$(printf ':%04X' "$p")
  if awk -v port="$hex" '$4 == "0A" && index($2, port) && $2 !~ /^......7F:/ { found = 1 } END { exit !found }' /proc/net/tcp; then
    failed "port $p listens beyond loopback"
  fi
done
echo "$conf"
