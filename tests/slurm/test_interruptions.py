"""Warnings, time limits, preemption, cancelling, kills: a task goes on where it was, ends with the same bits, and only what shall come back does."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.slurm.conftest import LONG, assert_same_run, jsonl, until
from train.entry import ROOT
from train.run import state

pytestmark = pytest.mark.slurm


def warn(cluster, task):
    """What Slurm sends to the batch script some time before the end of its time."""
    cluster.ask("scancel", "--batch", "--signal=USR2", task)


def log_of(cluster, task):
    return (cluster.runs / "slurm" / f"{task}.out").read_text()


def attempts(experiment):
    return jsonl(experiment.directory / "attempts.jsonl")


@pytest.fixture
def long(cluster):
    """Two experiments that can be met at work."""
    cluster.list.write_text(LONG)
    cluster.pace(0.5)
    return cluster.experiments()


def test_a_warned_task_comes_back_as_often_as_it_may_and_ends_with_the_same_bits(cluster, long, undisturbed):
    cluster.site.write_text(cluster.site.read_text().replace("MAX_RESTARTS=20", "MAX_RESTARTS=1"))
    (job,) = cluster.jobs(cluster.submit(cluster.list, "--index", "0"))
    task = f"{job.id}_0"
    cluster.at_work(long[0], rows=2)
    listed = cluster.listed()[0]
    assert " 0  running " in listed
    assert f"job {job.id}" in listed
    assert "of 30, " in listed
    assert listed.endswith("min left")
    warn(cluster, task)
    until(lambda: cluster.queue() == {task: "PENDING"})
    assert cluster.restarts(task) == 1
    assert state(long[0]).name == "stopped"
    assert " 0  queued " in cluster.listed()[0]
    assert "nothing to submit" in cluster.submit(cluster.list, "--index", "0").stdout
    cluster.at_work(long[0], rows=3, attempts=2)
    warn(cluster, task)
    cluster.empty()
    text = log_of(cluster, task)
    assert text.index("start 1 on") < text.index("queued again after warning") < text.index("start 2 on") < text.index("MAX_RESTARTS=1")
    assert cluster.states()[0] == "stopped"
    assert cluster.listed()[-1].endswith("would submit 2: 0-1")
    cluster.pace(0)
    cluster.submit(cluster.list, "--index", "0")
    cluster.empty()
    assert len(attempts(long[0])) == 3
    assert_same_run(long[0], undisturbed[long[0].hash])


def test_a_task_that_is_warned_before_its_program_listens_comes_back(cluster, undisturbed):
    cluster.list.write_text(LONG)
    (experiment, _) = cluster.experiments()
    # What Python runs in, a container for instance, may take its time to start.
    started, wrapper = cluster.folder / "started", cluster.folder / "run.sh"
    wrapper.write_text(f"if [ ! -e '{started}' ]; then touch '{started}'; sleep 5; fi\n{wrapper.read_text()}")
    (job,) = cluster.jobs(cluster.submit(cluster.list, "--index", "0"))
    until(started.exists)
    warn(cluster, f"{job.id}_0")
    until(lambda: cluster.queue() == {f"{job.id}_0": "PENDING"}, 30)
    cluster.empty()
    assert_same_run(experiment, undisturbed[experiment.hash])


def test_a_controller_that_says_nothing_for_a_moment_loses_no_task(cluster, long, undisturbed):
    silence = cluster.folder / "silence"
    # Silent for one question of the first task, for all of the second.
    cluster.site.write_text(f"""{cluster.site.read_text()}
scontrol() {{
  if [ "$1" = show ] && {{ [ "$SLURM_ARRAY_TASK_ID" = 1 ] || [ ! -e '{silence}' ]; }}; then touch '{silence}'; return 1; fi
  command scontrol "$@"
}}""")
    (job,) = cluster.jobs(cluster.submit(cluster.list))
    for experiment in long:
        cluster.at_work(experiment)
    warn(cluster, f"{job.id}_0")
    until(lambda: cluster.queue() == {f"{job.id}_0": "PENDING", f"{job.id}_1": "RUNNING"})
    assert silence.exists()
    warn(cluster, f"{job.id}_1")
    cluster.pace(0)
    cluster.empty()
    assert "queued again after warning" in log_of(cluster, f"{job.id}_0")
    assert_same_run(long[0], undisturbed[long[0].hash])
    assert "Slurm does not say what it will do with it" in log_of(cluster, f"{job.id}_1")
    assert cluster.states() == ["done", "stopped"]


def test_the_time_limit_stops_a_task_with_or_without_a_warning(cluster, long, undisturbed):
    """By Slurm's own clock, so it takes more than a minute."""
    cluster.pace(1)
    (warned,) = cluster.jobs(cluster.submit(cluster.list, "--index", "0", "--", "--time=2"))
    cluster.site.write_text(cluster.site.read_text().replace("WARN_SECONDS=55", "WARN_SECONDS=0"))
    (surprised,) = cluster.jobs(cluster.submit(cluster.list, "--index", "1"))
    tasks = [f"{warned.id}_0", f"{surprised.id}_1"]
    cluster.at_work(long[1])
    cluster.ask("scontrol", "update", f"JobId={tasks[1]}", "TimeLimit=1")
    until(lambda: [cluster.restarts(task) for task in tasks] == [1, 1], 120)
    cluster.pace(0)
    cluster.empty()
    assert "queued again after warning" in log_of(cluster, tasks[0])
    assert "queued again after TERM" in log_of(cluster, tasks[1])
    for experiment in long:
        assert len(attempts(experiment)) == 2
        assert_same_run(experiment, undisturbed[experiment.hash])


def test_a_cancelled_task_stays_away_until_it_is_submitted_again(cluster, long, undisturbed):
    (job,) = cluster.jobs(cluster.submit(cluster.list))
    for experiment in long:
        cluster.at_work(experiment)
    cluster.ask("scancel", f"{job.id}_1")
    until(lambda: cluster.queue() == {f"{job.id}_0": "RUNNING"})
    # Longer than a requeued job waits.
    time.sleep(7)
    assert cluster.queue() == {f"{job.id}_0": "RUNNING"}
    assert "cancelled, so not queued again" in log_of(cluster, f"{job.id}_1")
    assert cluster.states() == ["running", "stopped"]
    assert cluster.listed()[-1].endswith("would submit 1: 1")
    # The whole array at once.
    cluster.ask("scancel", job.id)
    cluster.empty()
    cluster.pace(0)
    (again,) = cluster.jobs(cluster.submit(cluster.list))
    assert again.contents == "2 entries (0-1)"
    cluster.empty()
    for experiment in long:
        assert len(attempts(experiment)) == 2
        assert jsonl(experiment.directory / "metrics.jsonl")
        assert_same_run(experiment, undisturbed[experiment.hash])


def test_a_preempted_task_comes_back(cluster, long, undisturbed):
    (job,) = cluster.jobs(cluster.submit(cluster.list, "--", "--partition=low"))
    for experiment in long:
        cluster.at_work(experiment)
    # Slurm takes its time to preempt: 20 s were seen, in which nothing may come to its end.
    cluster.pace(1)
    pusher = cluster.ask("sbatch", "--parsable", "--partition=main", "--cpus-per-task=4", "--output=/dev/null", "--wrap=sleep 2").strip()
    until(lambda: [cluster.restarts(f"{job.id}_{index}") for index in range(2)] == [1, 1])
    cluster.pace(0)
    cluster.empty()
    assert pusher.isdigit()
    for index, experiment in enumerate(long):
        assert "preempted, and queued again by Slurm" in log_of(cluster, f"{job.id}_{index}")
        assert len(attempts(experiment)) == 2
        assert_same_run(experiment, undisturbed[experiment.hash])


def test_a_task_whose_node_goes_down_comes_back(cluster, long, undisturbed):
    (job,) = cluster.jobs(cluster.submit(cluster.list, "--index", "0"))
    cluster.at_work(long[0])
    node = cluster.ask("sinfo", "-h", "-o", "%n").strip()
    cluster.ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    try:
        until(lambda: cluster.queue() == {f"{job.id}_0": "PENDING"})
        # The node is not really down: what ran there ends within the kill wait, and a second start before that would drain the node.
        cluster.ask("scontrol", "hold", f"{job.id}_0")
        assert cluster.restarts(f"{job.id}_0") == 1
        pid = attempts(long[0])[0]["pid"]
        until(lambda: not Path(f"/proc/{pid}").exists())
        time.sleep(1)
    finally:
        cluster.ask("scontrol", "update", f"NodeName={node}", "State=IDLE")
    cluster.pace(0)
    cluster.ask("scontrol", "release", f"{job.id}_0")
    cluster.empty()
    assert len(attempts(long[0])) == 2
    assert_same_run(long[0], undisturbed[long[0].hash])


def test_two_entries_of_one_task_run_side_by_side_and_stop_and_go_on_together(cluster, long, undisturbed):
    (job,) = cluster.jobs(cluster.submit(cluster.list, "--per-task", "2", "--", "--cpus-per-task=2"))
    assert job.contents == "2 entries (0-1) in 1 tasks"
    for experiment in long:
        cluster.at_work(experiment)
    task = f"{job.id}_0"
    assert cluster.queue() == {task: "RUNNING"}
    assert cluster.states() == ["running", "running"]
    assert "nothing to submit" in cluster.submit(cluster.list).stdout
    warn(cluster, task)
    until(lambda: cluster.queue() == {task: "PENDING"})
    assert cluster.states() == ["stopped", "stopped"]
    assert [line.split()[1] for line in cluster.listed()[:2]] == ["queued", "queued"]
    cluster.pace(0)
    cluster.empty()
    for experiment in long:
        assert len(attempts(experiment)) == 2
        assert_same_run(experiment, undisturbed[experiment.hash])


def elsewhere(experiment):
    """Makes a lock say that its holder is on another host, where nobody here can look."""
    path = experiment.directory / "lock"
    owner = json.loads(path.read_text())
    changed = time.time()
    path.write_text(json.dumps(owner | {"host": "elsewhere", "space": "elsewhere pid:[1]"}))
    os.utime(path, (changed, changed))


def here(cluster, index):
    """Starts an entry on this machine, outside Slurm."""
    words = [sys.executable, "-m", "tests.slurm.paced", str(cluster.list), "--index", str(index)]
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=120)


def test_on_another_host_the_queue_says_whether_the_holder_of_a_run_lives(cluster, long, undisturbed):
    (job,) = cluster.jobs(cluster.submit(cluster.list))
    for experiment in long:
        cluster.at_work(experiment)
        elsewhere(experiment)
    # One of the two tasks has the array's own id.
    assert job.id in {int(attempts(experiment)[0]["job"]) for experiment in long}
    for index in range(2):
        refused = here(cluster, index)
        assert refused.returncode == 2
        assert "held by" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    # No goodbye, as on a node that dies. First the one with the array's id, whose name in the queue then stands for the other alone.
    leader, other = sorted(long, key=lambda experiment: int(attempts(experiment)[0]["job"]) != job.id)
    os.kill(attempts(leader)[0]["pid"], signal.SIGKILL)
    until(lambda: len(cluster.queue()) == 1)
    until(lambda: (state(leader).name, state(other).name) == ("lost", "running"), 5)
    os.kill(attempts(other)[0]["pid"], signal.SIGKILL)
    cluster.empty()
    cluster.pace(0)
    until(lambda: cluster.states() == ["lost", "lost"], 5)
    begin = time.time()
    cluster.submit(cluster.list)
    cluster.empty()
    # Without the queue's word it would take ten missing beats, of ten seconds each.
    assert time.time() - begin < 60
    for experiment in long:
        assert len(attempts(experiment)) == 2
        assert_same_run(experiment, undisturbed[experiment.hash])
