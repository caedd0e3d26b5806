"""start.sh and stop.sh: on loopback alone, twice is once, nothing of others is touched, nothing is left."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slurm
HERE = Path(__file__).parent


def script(name, **environment):
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "PALIMPSEST_SLURM"))}
    return subprocess.run(
        ["bash", HERE / name],
        capture_output=True,
        text=True,
        env=clean | {key: str(value) for key, value in environment.items()},
        timeout=60,
    )


def listening():
    """Local addresses that listen, by port: hexadecimal, as /proc/net/tcp has them."""
    found: dict[int, list[str]] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for row in Path(table).read_text().splitlines()[1:]:
            address, port = row.split()[1].split(":")
            if row.split()[3] == "0A":
                found.setdefault(int(port, 16), []).append(address)
    return found


def processes_of(folder):
    """Command lines of the processes whose environment or command line names a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes()
            if os.fsencode(folder) in words + (process / "environ").read_bytes() and int(process.name) != os.getpid():
                found.append(words)
        except OSError:
            continue
    return found


def test_it_listens_on_loopback_alone_and_starts_once(slurm):
    ports = listening()
    assert ports[26817] == ports[26818] == ["0100007F"]
    record = slurm.parent / "run" / "slurmctld.pid"
    before = record.read_text()
    again = script("start.sh")
    assert (again.returncode, again.stdout.strip()) == (0, str(slurm))
    assert record.read_text() == before


def test_what_others_wrote_is_left_alone(slurm, tmp_path):
    (tmp_path / "slurm.conf").write_text("ClusterName=theirs\n")
    for name in ("start.sh", "stop.sh"):
        refused = script(name, PALIMPSEST_SLURM_DIR=tmp_path)
        assert refused.returncode == 3
        assert len(refused.stderr.splitlines()) == 1
        assert "not written by" in refused.stderr
    refused = script("start.sh", SLURM_CONF=tmp_path / "slurm.conf")
    assert refused.returncode == 3
    assert "names another Slurm, which is left alone" in refused.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["slurm.conf"]
    refused = script("start.sh", PALIMPSEST_SLURM_DIR=tmp_path / "second", PALIMPSEST_SLURM_PORT=26817)
    assert refused.returncode == 3
    assert "port 26817 of 127.0.0.1 is taken" in refused.stderr
    assert not (tmp_path / "second").exists()


def test_stopping_ends_every_process_of_a_job(slurm, tmp_path):
    folder = tmp_path / "second"
    knobs = {"PALIMPSEST_SLURM_DIR": folder, "PALIMPSEST_SLURM_PORT": 26827}
    started = script("start.sh", **knobs)
    try:
        assert started.returncode == 0, started.stderr
        # One ignores SIGTERM, one leaves the session.
        words = f"trap '' TERM; setsid sleep 98765 & touch {tmp_path}/up; sleep 98764"
        environment = os.environ | {"SLURM_CONF": started.stdout.strip()}
        subprocess.run(["sbatch", "--output=/dev/null", "--wrap", words], env=environment, check=True, capture_output=True, timeout=30)
        deadline = time.time() + 30
        while not (tmp_path / "up").exists():
            assert time.time() < deadline
            time.sleep(0.1)
        assert len(processes_of(folder)) >= 6
    finally:
        stopped = script("stop.sh", **knobs)
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert processes_of(folder) == []
    assert not folder.exists()
    assert not {26827, 26828} & listening().keys()
    # The other one was not its business.
    assert subprocess.run(["scontrol", "ping"], capture_output=True, text=True, timeout=30).stdout.strip().endswith("UP")


@pytest.mark.parametrize("looks", [1, 2])
def test_stopping_is_quiet_about_a_process_that_ends_by_itself(tmp_path, looks):
    """It is gone after so many looks at its environment: a grep that ends it stands in the path."""
    folder, tools = tmp_path / "dying", tmp_path / "tools"
    folder.mkdir()
    tools.mkdir()
    (folder / "slurm.conf").write_text("# written by Palimpsest's tests/slurm/start.sh\n")
    carried = f"SLURM_CONF={folder}/slurm.conf SLURM_CLUSTER_NAME=palimpsest"
    with subprocess.Popen(
        ["bash", "-c", f"{carried} sleep 98763 & echo $!; wait"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        (tools / "grep").write_text(f"""#!/bin/bash
{shutil.which("grep")} "$@"
code=$?
if [ "${{@: -1}}" = /proc/{pid}/environ ]; then
  echo >>{tmp_path}/looks
  if [ "$(wc -l <{tmp_path}/looks)" = {looks} ]; then
    kill -KILL {pid}
    while [ -e /proc/{pid} ]; do sleep 0.01; done
  fi
fi
exit $code
""")
        (tools / "grep").chmod(0o755)
        stopped = script("stop.sh", PALIMPSEST_SLURM_DIR=folder, PATH=f"{tools}:{os.environ['PATH']}")
        assert (stopped.returncode, stopped.stderr) == (0, "")
        assert len((tmp_path / "looks").read_text().splitlines()) >= looks
    assert not folder.exists()
