"""Submitting a list: waves of arrays, blocks, throttles, what waits for what, and the same command again."""

import itertools
import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.slurm.conftest import BASE, assert_same_run, jsonl, run_here, until
from train.lists import plan, read
from train.run import state

pytestmark = pytest.mark.slurm

# Three waves: a backbone and an unrelated entry; two modules, of which one stands in no list; their system.
STUDY = f"""
- &base {{{BASE}, seed: 5, epochs: 2, method: Identity, lr: 0.05}}
- {{<<: *base, method: Module, corruption: Invert, level: 1, weight: 0.1, backbone: {{lr: 0.05}}}}
- {{{BASE}, seed: 5, epochs: 2, method: ModularSystem, corruptions: [Contrast, Invert], backbone: {{lr: 0.05}}, module: {{level: 1, lr: 0.05, weight: 0.1}}}}
- {{<<: *base, method: CrossEntropy, corruptions: [Contrast]}}
"""
QUICK = "- {{{base}, seed: {seed}, epochs: 1, method: Identity, lr: {lr}}}\n".format


def quick(seeds, lr=0.05):
    return "".join(QUICK(base=BASE, seed=seed, lr=lr) for seed in seeds)


def module(seed, lr=0.05):
    """A module on the network that `quick` makes for the same seed and rate."""
    fields = f"{BASE}, seed: {seed}, epochs: 1, method: Module, corruption: Invert, level: 1, lr: 0.05, weight: 0.1"
    return f"- {{{fields}, backbone: {{lr: {lr}}}}}\n"


def frozen(cluster):
    return list((cluster.runs / "slurm").glob("*.json"))


def test_a_list_runs_in_waves_and_ends_as_it_does_without_slurm(cluster, tmp_path_factory):
    cluster.list.write_text(STUDY)
    before = cluster.next_id()
    dry = cluster.submit(cluster.list, "--dry-run")
    assert dry.stdout.count("would submit") == 3
    assert (cluster.next_id(), frozen(cluster)) == (before, [])
    # From another folder, by a name that means something only there.
    submitted = cluster.submit(cluster.list.name, cwd=cluster.folder)
    first, second, third = cluster.jobs(submitted)
    assert [job.wave for job in (first, second, third)] == [1, 2, 3]
    assert first.contents == "2 entries (0,3)"
    assert second.contents == "1 entry (1) and 1 of their prerequisites (as 4)"
    assert third.contents == "1 entry (2)"
    # In the queue: the name says which frozen list, the dependency which tasks.
    names = set(cluster.queue("%j").values())
    assert len(names) == 1
    assert re.fullmatch(r"study-[0-9a-f]{12}", names.pop())
    assert cluster.queue("%E")[f"{third.id}_2"].count(f"{second.id}_") == 2
    listed = cluster.listed()
    assert re.search(rf" 2  queued .*{third.id}_2, Dependency", listed[2])
    assert listed[-1].endswith("would submit nothing")
    again = cluster.submit(cluster.list)
    assert "nothing to submit" in again.stdout
    assert cluster.jobs(again) == []
    # The next job's id does not tell: a task that starts takes one, too.
    assert {task.partition("_")[0] for task in cluster.queue("%j")} <= {str(job.id) for job in (first, second, third)}
    cluster.empty(150)
    assert cluster.states() == ["done"] * 4
    experiments = {entry.experiment.hash: entry.experiment for entry in plan(read(cluster.list))}
    ends = {key: (run.directory / "done.json").stat().st_mtime for key, run in experiments.items()}
    starts = {key: jsonl(run.directory / "attempts.jsonl")[0]["start"] for key, run in experiments.items()}
    for key, experiment in experiments.items():
        assert all(ends[part.hash] < starts[key] for part in experiment.requires())
    # Each task in one log, named by job and index; the experiment says which.
    logs = {jsonl(run.directory / "attempts.jsonl")[0]["log"] for run in experiments.values()}
    assert logs == {str(cluster.runs / "slurm" / f"{job.id}_{index}.out") for job, indices in [(first, (0, 3)), (second, (1, 4)), (third, (2,))] for index in indices}  # fmt: skip
    assert logs == {str(log) for log in (cluster.runs / "slurm").glob("*.out")}
    assert (cluster.folder / "setup.txt").read_text() == "commas, and spaces\n" * 5
    again = cluster.submit(cluster.list, "--wait")
    assert again.stdout.startswith("nothing to submit: 5 finished, 0 queued, 0 running")
    assert "test split: mean accuracy in %" in again.stdout
    whole = run_here(tmp_path_factory.mktemp("here"), cluster.list)
    assert whole.keys() == experiments.keys()
    for key, experiment in experiments.items():
        if key in {e.hash for e in cluster.experiments()}:
            assert_same_run(experiment, whole[key])


def test_a_failure_fails_its_dependents_and_the_same_command_runs_those_again(cluster):
    cluster.list.write_text(quick([5, 6]) + module(6) + quick([7], lr="1e30"))
    good, blocked, dependent, diverging = cluster.experiments()
    # A cause outside the list: a file stands where the run belongs.
    blocked.directory.parent.mkdir(parents=True)
    blocked.directory.write_text("")
    ended = cluster.submit(cluster.list, "--wait", code=1)
    assert cluster.queue() == {}
    assert cluster.states() == ["done", "new", "new", "failed"]
    assert "not finite" in state(diverging).detail
    assert not dependent.directory.exists()
    assert "1 of 4" in ended.stdout or "3 of 4" in ended.stderr
    listed = cluster.listed()
    first = cluster.jobs(ended)[0]
    assert re.search(rf" 3  failed .*the loss is not finite.*{first.id}_3\.out", listed[3])
    assert listed[-1].endswith("would submit 3: 1-3")
    blocked.directory.unlink()
    again = cluster.submit(cluster.list, "--index", "1,2", "--wait")
    assert [job.contents for job in cluster.jobs(again)] == ["1 entry (1)", "1 entry (2)"]
    assert cluster.states() == ["done", "done", "done", "failed"]
    assert [job.contents for job in cluster.jobs(cluster.submit(cluster.list))] == ["1 entry (3)"]
    assert len(jsonl(good.directory / "attempts.jsonl")) == 1


def test_what_waits_is_not_touched_by_an_edited_or_deleted_list(cluster):
    cluster.list.write_text(quick([5, 6]))
    experiments = cluster.experiments()
    with cluster.halted():
        cluster.submit(cluster.list)
        cluster.list.write_text(quick([5, 6], lr=0.1))
        other = cluster.submit(cluster.list)
        assert [job.contents for job in cluster.jobs(other)] == ["2 entries (0-1)"]
        assert len(frozen(cluster)) == 2
        assert len(cluster.queue()) == 4
        cluster.ask("scancel", cluster.jobs(other)[0].id)
        cluster.list.unlink()
    cluster.empty()
    assert [state(experiment).name for experiment in experiments] == ["done", "done"]
    assert len(list(cluster.runs.glob("FashionMNIST-mini/*"))) == 2


def test_at_most_so_many_at_once(cluster):
    cluster.list.write_text(quick([5, 6, 7]))
    cluster.submit(cluster.list, "--max-parallel", "1")
    deadline, most = time.time() + 90, 0
    while cluster.queue():
        most = max(most, sum(task in ("RUNNING", "CONFIGURING") for task in cluster.queue().values()))
        assert time.time() < deadline
        time.sleep(0.2)
    assert most == 1
    assert cluster.states() == ["done"] * 3
    spans = sorted(
        (jsonl(run.directory / "attempts.jsonl")[0]["start"], (run.directory / "done.json").stat().st_mtime)
        for run in cluster.experiments()
    )
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(spans))


def test_a_list_longer_than_slurms_arrays_is_submitted_in_blocks(cluster):
    cluster.list.write_text(quick(range(10)))
    with cluster.halted():
        first, second = cluster.jobs(cluster.submit(cluster.list))
        assert (first.contents, second.contents.partition(",")[0]) == ("8 entries (0-7)", "2 entries (8-9)")
        names = cluster.queue("%j")
        assert set(names) == {f"{first.id}_{index}" for index in range(8)} | {f"{second.id}_{index}" for index in range(2)}
        assert names[f"{second.id}_1"] == names[f"{first.id}_0"] + "+8"
        assert re.search(rf" 9  queued .*{second.id}_1, ", cluster.listed()[9])
        assert "nothing to submit" in cluster.submit(cluster.list).stdout
        cluster.ask("scancel", f"{first.id}_[0-6]")
    cluster.empty()
    assert cluster.states() == ["new"] * 7 + ["done"] * 3


def test_dependencies_are_on_what_is_queued_and_on_nothing_that_slurm_forgot(cluster):
    cluster.list.write_text(quick([5, 6]) + module(5) + module(6))
    (made,) = cluster.jobs(cluster.submit(cluster.list, "--index", "0"))
    cluster.empty()
    refused = cluster.submit(cluster.list, "--index", "3", code=2)
    assert len(refused.stderr.splitlines()) == 1
    assert "--index 3 --with-prerequisites" in refused.stderr
    # Slurm takes a dependency on a job that it has forgotten for fulfilled, whatever became of it: nobody may name one.
    until(lambda: not cluster.show(made.id))
    with cluster.halted():
        other = cluster.folder / "other.yaml"
        other.write_text(quick([6]))
        (queued,) = cluster.jobs(cluster.submit(other))
        (dependents,) = cluster.jobs(cluster.submit(cluster.list, "--index", "2,3"))
        dependencies = cluster.queue("%E")
    assert dependencies[f"{dependents.id}_2"] == "(null)"
    assert dependencies[f"{dependents.id}_3"] == f"afterok:{queued.id}_0(unfulfilled)"
    cluster.empty()
    assert cluster.states() == ["done"] * 4
    assert len(list(cluster.runs.glob("FashionMNIST-mini/*"))) == 4


def test_of_tasks_with_several_prerequisites_each_waits_for_its_own(cluster):
    cluster.list.write_text(quick([5, 6, 7], lr="1e30") + module(5, lr="1e30") + module(6, lr="1e30") + module(8))
    ended = cluster.submit(cluster.list, "--wait", code=1)
    wave, dependents = cluster.jobs(ended)
    assert wave.contents == "3 entries (0-2) and 1 of their prerequisites (as 6)"
    assert dependents.contents == "3 entries (3-5)"
    # Two are cancelled with the failures that are their own; the third is nobody's victim.
    assert cluster.states() == ["failed"] * 3 + ["new"] * 2 + ["done"]


def test_a_controller_that_does_not_answer_is_no_empty_queue(cluster, slurm, monkeypatch):
    cluster.list.write_text(quick([5]))
    with cluster.halted():
        cluster.submit(cluster.list)
        before = cluster.next_id()
        dead = cluster.folder / "slurm.conf"
        dead.write_text(re.sub(r"SlurmctldPort=\d+", "SlurmctldPort=1", slurm.read_text()))
        monkeypatch.setenv("SLURM_CONF", str(dead))
        refused = cluster.submit(cluster.list, code=2)
        assert refused.stdout == ""
        assert len(refused.stderr.splitlines()) == 1
        assert refused.stderr.startswith("error: squeue: ")
        monkeypatch.setenv("SLURM_CONF", str(slurm))
        assert cluster.next_id() == before
        assert len(cluster.queue()) == 1


def test_two_submissions_at_once_submit_a_list_once(cluster):
    cluster.list.write_text(quick([5]))
    with cluster.halted(), ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda _: cluster.submit(cluster.list).stdout, range(2)))
        assert len(cluster.queue()) == 1
    assert sorted(text.startswith("nothing to submit") for text in both) == [False, True]


def test_waiting_lasts_as_long_as_something_is_queued(cluster):
    with cluster.halted(), ThreadPoolExecutor() as pool:
        waiting = []
        for seed in range(4):
            path = cluster.folder / f"list{seed}.yaml"
            path.write_text(quick([seed]))
            waiting.append(pool.submit(cluster.submit, path, "--wait", code=1))
            # Not all at the same moment of the clock's second.
            time.sleep(0.3)
        until(lambda: len(cluster.queue()) == 4)
        time.sleep(2)
        ended = [future for future in waiting if future.done()]
        cluster.ask("scancel", "--user=root")
        assert ended == []
        for future in waiting:
            assert "1 of 1 did not finish; the same command submits them again" in future.result().stderr


def test_what_slurm_refuses_is_one_line_and_what_may_never_start_is_told(cluster):
    cluster.list.write_text(quick([5]))
    for option, words in [
        ("--partition=nowhere", "invalid partition"),
        ("--gres=gpu:9", "node configuration is not available"),
        ("--array=0-3", "set by the submission itself"),
        ("--time=1", "leaves nothing to work in"),
    ]:
        refused = cluster.submit(cluster.list, "--", option, code=2)
        assert len(refused.stderr.splitlines()) == 1
        assert words in refused.stderr.lower()
    assert cluster.queue() == {}
    # The partition allows a day and has four cores; Slurm accepts more, and waits for ever.
    for option in ("--time=2-00:00:00", "--cpus-per-task=5"):
        waiting = cluster.submit(cluster.list, "--", option)
        (job,) = cluster.jobs(waiting)
        assert re.search(
            rf"^job {job.id} waits: Partition(Config|TimeLimit); if that does not pass by itself: scancel {job.id}, and ask for less$",
            waiting.stdout,
            re.MULTILINE,
        )
        cluster.ask("scancel", job.id)


def test_a_task_sees_its_gpu_and_its_cores(cluster):
    cluster.list.write_text(quick([5]))
    cluster.site.write_text(cluster.site.read_text() + 'setup() { env >"$PALIMPSEST_RUNS/../environment.txt"; }\n')
    cluster.submit(cluster.list, "--epochs=2", "--", "--gres=gpu:1", "--cpus-per-task=2")
    cluster.empty()
    assert cluster.states() == ["new"]
    (overridden,) = read(cluster.list, {"epochs": 2})
    assert state(overridden.experiment).name == "done"
    words = dict(line.partition("=")[::2] for line in (cluster.folder / "environment.txt").read_text().splitlines())
    assert words["CUDA_VISIBLE_DEVICES"] in ("0", "1")
    assert words["OMP_NUM_THREADS"] == words["SLURM_CPUS_PER_TASK"] == "2"
    assert words["WORDS"] == "commas, and spaces"


def test_a_task_that_dies_before_its_run_begins_is_failed_with_its_log(cluster):
    """Everyone's first day on a cluster: the environment is not what the site file says."""
    cluster.list.write_text(quick([5]) + module(5) + quick([6], lr="1e30"))
    diverging = cluster.experiments()[2]
    cluster.submit(cluster.list, "--index", "2", "--wait", code=1)
    assert "not finite" in cluster.listed()[2]
    cluster.site.write_text(cluster.site.read_text() + "\nsetup() { no_such_module load python; }\n")
    ended = cluster.submit(cluster.list, "--wait", code=1)
    first = cluster.jobs(ended)[0]
    listed = cluster.listed()
    for index in (0, 2):
        # Also where the run failed of something else before.
        assert re.search(rf" {index}  failed .*the site file's setup failed \(log: .*/{first.id}_{index}\.out\)", listed[index])
        assert f"{first.id}_{index}.out" in ended.stdout
    assert re.search(r" 1  cancelled .*never started; needs Identity-lr0\.05-s5-\w+, which is failed", listed[1])
    assert listed[-1].endswith("would submit 3: 0-2")
    assert "not finite" in state(diverging).detail


def test_of_a_submission_that_slurm_refuses_nothing_stays(cluster):
    cluster.list.write_text(quick([5]) + module(5) + quick([6]) + module(6))
    ended = cluster.submit(cluster.list, "--", "--cpus-per-task=64", code=2)
    assert len(ended.stderr.splitlines()) == 1
    assert "nothing of this submission stays in the queue" in ended.stderr
    until(lambda: not cluster.queue())
    assert cluster.listed()[-1].endswith("would submit 4: 0-3")
