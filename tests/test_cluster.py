"""On a real Slurm and on two hosts: the same weights by every launcher, requeues, and each mistake provoked for real.

Needs root on Debian; brings up a Slurm of two nodes by itself (tests/cluster/slurm.sh) and takes it down again.
"""

import contextlib
import fcntl
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from processes import ROOT
from test_resume import same

from lightning_gen.storage.checkpoints import read_checkpoint

pytestmark = pytest.mark.cluster
SLURM = ROOT / "tests/cluster/slurm.sh"
FIT = [sys.executable, str(ROOT / "scripts/fit.py")]
CONF = "/var/tmp/lightning-gen-slurm/slurm.conf"
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "MASTER"))}
ENVIRONMENT |= {"OMP_NUM_THREADS": "1", "SLURM_CONF": CONF}
ENVIRONMENT |= {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # as docs/cluster.md says: else torchrun's restarts may hang
USERS = Path(tempfile.gettempdir()) / "lightning-gen-slurm.users"  # processes of pytest that share the cluster
OPTIONS = {
    "vae": ["--model", "vae", "--steps", 40],
    "dcgan": ["--model", "dcgan", "--steps", 8, "--val_every", 8, "--watch", "none"],
}


@contextlib.contextmanager
def sharing():
    """The numbers of the processes that use the cluster, locked."""
    with USERS.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        alive = {pid for pid in file.read().split() if os.path.exists(f"/proc/{pid}")}
        yield alive
        file.seek(0)
        file.truncate()
        file.write(" ".join(alive))


@pytest.fixture(scope="module")
def slurm():
    """A cluster of the nodes n1 and n2, shared with the other processes of a parallel test run."""
    if os.geteuid() != 0 or not os.path.exists("/etc/debian_version"):
        pytest.skip("a Slurm of our own needs root on Debian")
    with sharing() as users:
        if not users:
            try:
                up = subprocess.run([SLURM, "up"], capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
            except subprocess.TimeoutExpired:
                pytest.skip("Slurm did not come up in 5 minutes")
            if up.returncode:
                subprocess.run([SLURM, "down"], capture_output=True, timeout=60)
                pytest.skip(f"Slurm did not come up: {up.stderr[-300:] or 'its packages could not be installed'}")
        users.add(str(os.getpid()))
    yield
    with sharing() as users:
        users.discard(str(os.getpid()))
        if not users:
            subprocess.run([SLURM, "down"], capture_output=True, timeout=60)


def run(folder, *command, ok=True, **environment):
    command = [str(part) for part in command]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=200, env={**ENVIRONMENT, **environment}
    )
    assert not ok or done.returncode == 0, done.stdout + done.stderr
    return done


def srun(folder, layout, *arguments, name="train", ok=True, **environment):
    return run(folder, "srun", f"--job-name={name}", *layout, *FIT, *arguments, ok=ok, **environment)


def on_host(number, *command):
    """A command on a host of its own: another network, address and name."""
    line = shlex.join(map(str, command))
    enter = ["nsenter", f"--net=/run/netns/n{number}", "unshare", "--uts", "--mount", "sh", "-c"]
    return [*enter, f"hostname n{number} && exec {line}"]


def torchrun(port):
    program = [sys.executable, "-m", "torch.distributed.run", "--nnodes", 2, "--nproc-per-node", 1]
    return [*program, "--rdzv-backend", "c10d", "--rdzv-endpoint", f"n1:{port}", "--rdzv-id", f"test{port}"]


def last(folder, name):
    (path,) = folder.glob(f"tb_logs/*-{name}/version_0/checkpoints/last.ckpt")
    return read_checkpoint(path)


def wait_for(condition, seconds=240):
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.1)


@pytest.mark.parametrize("model", OPTIONS)
def test_the_same_weights_by_every_launcher(tmp_path, slurm, model):
    """Two ranks: started by the first one, by srun on one and on two nodes, by torchrun on two hosts."""
    options = [*OPTIONS[model], "--trainer.accelerator", "cpu", "--name"]
    run(tmp_path, *FIT, *options, "local", "--trainer.devices", 2)
    srun(tmp_path, ["-N1", "--ntasks-per-node=2"], *options, "one-node")
    srun(tmp_path, ["-N2", "-n2"], *options, "two-nodes")
    port = 29_400 + os.getpid() % 500
    second = subprocess.Popen(
        on_host(2, *torchrun(port), FIT[1], *options, "hosts"),
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    run(tmp_path, *on_host(1, *torchrun(port), FIT[1], *options, "hosts"))
    assert second.wait(60) == 0
    local = last(tmp_path, "local")
    for name in ("one-node", "two-nodes", "hosts"):
        for part in ("state_dict", "optimizer_states", "lightning_gen"):
            same(local[part], last(tmp_path, name)[part], name)


JOB = """#!/bin/bash
#SBATCH --job-name=train --nodes=1 --ntasks-per-node=2 --requeue --open-mode=append --output=job.out
srun --kill-on-bad-exit=1 {command}
"""


def submit(folder, command):
    (folder / "job.sh").write_text(JOB.format(command=shlex.join(map(str, command))))
    return run(folder, "sbatch", "--parsable", "job.sh").stdout.strip()


def test_a_job_requeued_twice_ends_as_if_nothing_had_happened(tmp_path, slurm):
    options = ["--model", "wgan-gp", "--steps", 250, "--val_every", 50, "--save_every", 10, "--watch", "none"]
    job = submit(tmp_path, [*FIT, *options, "--name", "job"])
    output, folder = tmp_path / "job.out", tmp_path / "tb_logs/wgan-gp-digits-job/version_0"
    for attempt in (1, 2):
        saved = folder / "checkpoints" / ("previous.ckpt" if attempt == 1 else "last.ckpt")
        before = saved.stat().st_mtime if saved.exists() else 0
        wait_for(lambda saved=saved, before=before: saved.exists() and saved.stat().st_mtime > before)
        run(tmp_path, "scancel", "--signal=USR1", job)
        wait_for(lambda attempt=attempt: output.read_text().count("the queue again and goes on by itself") == attempt)
        start_again(tmp_path, job)
        wait_for(lambda attempt=attempt: output.read_text().count("job started again") == attempt)
    wait_for(lambda: not run(tmp_path, "squeue", "-h").stdout.strip())
    text = output.read_text()
    assert "started again: going on with tb_logs/wgan-gp-digits-job/version_0" in text and "Traceback" not in text, text
    run(tmp_path, *FIT, *options, "--name", "whole", "--trainer.devices", 2)
    for part in ("state_dict", "optimizer_states", "lightning_gen"):
        same(last(tmp_path, "whole")[part], last(tmp_path, "job")[part])


def start_again(folder, job):
    """Slurm lets a requeued job wait for two minutes; this one need not."""
    wait_for(lambda: run(folder, "squeue", "-h", "--states=PENDING", "-j", job, ok=False).stdout.strip())
    time.sleep(2)  # within the second of its end, its nodes take the new job for the old one, and refuse it
    run(folder, "scontrol", "update", f"JobId={job}", "StartTime=now")


def test_the_template_for_sbatch(tmp_path, slurm):
    """As it is in the repository, but for the GPUs and the numbers, which this cluster does not have."""
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    lines = (ROOT / "scripts/slurm/fit.sbatch").read_text().splitlines()
    assert "#SBATCH --gpus-per-node=8" in lines
    (tmp_path / "fit.sbatch").write_text("\n".join(line for line in lines if "gpus-per-node=" not in line))
    small = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--time=5"]
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    run(tmp_path, "sbatch", "--wait", *small, "fit.sbatch", *OPTIONS["vae"], "--name", "template", **path)
    (output,) = tmp_path.glob("slurm-*.out")
    assert "batch 128 = 2 devices x 64" in output.read_text() and "done: 40 iterations" in output.read_text()
    assert last(tmp_path, "template")["lightning_gen"]["iteration"] == 40


def test_preempted_by_an_urgent_job_and_cancelled(tmp_path, slurm):
    """Slurm takes a job that ends in time for a finished one: the run puts itself back. scancel saves and ends it."""
    options = ["--model", "vae", "--steps", 100_000, "--val_every", 100_000, "--save_every", 50]
    job = submit(tmp_path, [*FIT, *options])
    output, saved = tmp_path / "job.out", tmp_path / "tb_logs/vae-digits/version_0/checkpoints/previous.ckpt"
    wait_for(saved.exists)
    run(tmp_path, "srun", "--partition=urgent", "--exclusive", "-N2", "true")
    wait_for(lambda: "SIGTERM; everything is saved. The job is in the queue again" in output.read_text())
    done = read_checkpoint(saved.with_name("last.ckpt"))["lightning_gen"]["iteration"]
    start_again(tmp_path, job)
    wait_for(lambda: output.read_text().count("job started again") == 1)
    wait_for(lambda: f"going on from iteration {done:,}" in output.read_text())
    wait_for(lambda: read_checkpoint(saved.with_name("last.ckpt"))["lightning_gen"]["iteration"] > done)
    run(tmp_path, "scancel", job)
    wait_for(lambda: "SIGTERM; everything is saved. Go on with:" in output.read_text())
    wait_for(lambda: not run(tmp_path, "squeue", "-h").stdout.strip())
    assert "Traceback" not in output.read_text()


ONE_NODE, TWO_NODES = ["-N1", "--ntasks-per-node=2"], ["-N2", "-n2"]
MISTAKES = {
    "devices": (["-n1"], ["--trainer.devices", 2], {}, "--trainer.devices 2, but srun started 1 processes"),
    "nodes": (TWO_NODES, ["--trainer.num_nodes", 3], {}, "--trainer.num_nodes 3, but srun started 2 nodes"),
    "shell": (ONE_NODE, [], {"name": "bash"}, "the job is named 'bash'"),
    "uneven": (["-N2", "-n3"], [], {}, "all nodes need equally many"),
    "batch": (["-N1", "--ntasks-per-node=3"], [], {}, "devices 3 does not divide --data.batch_size 128"),
    "name": (TWO_NODES, [], {"MASTER_ADDR": "no-such-node"}, "first node's name 'no-such-node' is unknown on n1"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_under_srun_is_one_line_and_status_2(tmp_path, slurm, mistake):
    layout, options, how, message = MISTAKES[mistake]
    done = srun(tmp_path, layout, "--model", "vae", "--steps", 20, *options, ok=False, **how)
    said = [line for line in done.stderr.splitlines() if not line.startswith(("srun:", "slurmstepd"))]
    assert done.returncode == 2, done.stderr
    assert message in next(line for line in said if line.startswith("error: "))
    assert len(said) == (2 if mistake == "name" else 1), "each host says what is wrong on it, else the first rank alone"
    assert not list(tmp_path.glob("tb_logs/*/*")), "a mistake leaves no run behind"


def test_a_job_without_srun(tmp_path, slurm):
    (tmp_path / "job.sh").write_text(
        "#!/bin/bash\n#SBATCH -N1 -n2 --job-name=train --output=job.out\n" + shlex.join([*FIT, "--model", "vae"])
    )
    assert run(tmp_path, "sbatch", "--wait", "job.sh", ok=False).returncode == 2
    (line,) = (tmp_path / "job.out").read_text().splitlines()
    assert line.startswith("error: the job has 2 tasks, but this is a single process: start it with srun")


def test_a_host_whose_name_is_a_loopback_address(tmp_path, slurm):
    """As Debian writes it into /etc/hosts; torchrun's workers then wait for each other for ever."""
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n127.0.1.1 n1\n10.213.77.2 n2\n")
    environment = {"TORCHELASTIC_RUN_ID": "a", "LOCAL_WORLD_SIZE": 1, "WORLD_SIZE": 2, "RANK": 0, "LOCAL_RANK": 0}
    environment |= {"GROUP_RANK": 0, "MASTER_ADDR": "10.213.77.1", "MASTER_PORT": 29_999}
    variables = [f"{name}={value}" for name, value in environment.items()]
    inner = shlex.join(["env", *variables, *FIT, "--model", "vae"])
    done = run(tmp_path, *on_host(1, "sh", "-c", f"mount --bind hosts /etc/hosts && exec {inner}"), ok=False)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "'n1' of this node stands for 127.0.1.1" in line and "export GLOO_SOCKET_IFNAME" in line and "eth0" in line


def test_two_hosts_go_on_together_after_a_worker_was_killed(tmp_path, slurm):
    """Only the agent whose worker died counts a restart; both hosts must go on from the same iteration."""
    options = ["--model", "vae", "--steps", 1000, "--val_every", 1000, "--save_every", 40, "--name"]
    port = 28_800 + os.getpid() % 500
    program = [*torchrun(port), "--max-restarts", 2, FIT[1], *options, "hosts"]
    with (tmp_path / "out").open("w") as file:
        agents = [
            subprocess.Popen(on_host(n, *program), cwd=tmp_path, env=ENVIRONMENT, stdout=file, stderr=file)
            for n in (1, 2)
        ]
    wait_for((tmp_path / "tb_logs/vae-digits-hosts/version_0/checkpoints/previous.ckpt").exists)
    worker = subprocess.run(["pgrep", "-P", str(agents[1].pid)], capture_output=True, text=True).stdout.split()[-1]
    os.kill(int(worker), 9)
    assert [agent.wait(120) for agent in agents] == [0, 0], (tmp_path / "out").read_text()
    assert "job started again: going on with" in (tmp_path / "out").read_text()
    run(tmp_path, *FIT, *options, "whole", "--trainer.devices", 2)
    same(last(tmp_path, "whole")["state_dict"], last(tmp_path, "hosts")["state_dict"])


def test_torchrun_starts_again_after_a_worker_was_killed(tmp_path, slurm):
    """Elastic restart on one machine: the next attempt goes on from last.ckpt by itself."""
    options = ["--model", "vae", "--steps", 1000, "--val_every", 1000, "--save_every", 40, "--name"]
    program = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        2,
        "--max-restarts",
        2,
    ]
    with (tmp_path / "out").open("w") as file:
        command = [str(part) for part in [*program, FIT[1], *options, "elastic"]]
        agent = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=file, stderr=file)
    saved = tmp_path / "tb_logs/vae-digits-elastic/version_0/checkpoints/previous.ckpt"
    wait_for(saved.exists)
    worker = subprocess.run(["pgrep", "-P", str(agent.pid)], capture_output=True, text=True).stdout.split()[-1]
    os.kill(int(worker), 9)
    assert agent.wait(120) == 0, (tmp_path / "out").read_text()
    assert "job started again: going on with" in (tmp_path / "out").read_text()
    run(tmp_path, *FIT, *options, "whole", "--trainer.devices", 2)
    same(last(tmp_path, "whole")["state_dict"], last(tmp_path, "elastic")["state_dict"])
