# What this cluster wants to hear. Copy it and edit the copy; no script needs an edit:
#
#   cp slurm/site.example.sh slurm/site.sh      (or name another file: PALIMPSEST_SITE=~/my_site.sh)
#
# It is read by `submit_array.sh` and `submit_sweep.sh` and again by every task. Options after -- on the command line override these.

# One node and one task per entry; here: what an entry may take.
SBATCH_OPTIONS=(
  --cpus-per-task=2
  --mem=8G
  --time=24:00:00
  # --partition=gpu
  # --account=my_project
)
# One GPU where the cluster has any.
if sinfo --noheader --format=%G 2>/dev/null | grep -q gpu; then
  SBATCH_OPTIONS+=(--gres=gpu:1)
fi

# How long before the end of its time a task is told to save and go back into the queue (Slurm may say so a minute early), and how often it may.
WARN_SECONDS=120
MAX_RESTARTS=20

# Run in every task before Python, in the project's folder. The environment of the submission is kept.
setup() {
  : # module load python/3.11
  # Nodes that cannot reach W&B: export WANDB_MODE=offline, and send the runs later with: python -m train sync CONFIG
}

# The Python of a task; empty: .venv/bin/python where it is there, else python3.
PYTHON=
# What it runs in, for instance a container (containers/apptainer.def); empty for none.
RUN=()
# PYTHON=python3 RUN=(apptainer exec --nv "$PWD/palimpsest.sif")
