"""Who started a process, what is checked before anything is loaded, and what a restarted job goes on with."""

import json

import pytest
import torch
import yaml
from helpers import empty_checkpoint

from lightning_gen.cluster import preflight, restart
from lightning_gen.cluster.launch import Launch, detect_launch, tasks_per_node
from lightning_gen.cluster.launcher import exit_reason
from lightning_gen.cluster.lost_ranks import is_connection_error
from lightning_gen.cluster.slurm import SlurmEnvironment, is_preempted, requeue
from lightning_gen.cluster.strategies import cluster_environment, select_strategy
from lightning_gen.datamodules.errors import UserError

STEP = {
    "SLURM_JOB_ID": "12",
    "SLURM_STEP_ID": "0",
    "SLURM_CLUSTER_NAME": "c",
    "SLURM_JOB_NAME": "train",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
    "SLURM_NTASKS": "4",
}
SHARED_STORE = {"TORCHELASTIC_MAX_RESTARTS": "3", "TORCHELASTIC_USE_AGENT_STORE": "True"}
ELASTIC = {"TORCHELASTIC_RUN_ID": "run", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4", "TORCHELASTIC_RESTART_COUNT": "1"}


def launch(kind="slurm", processes_per_node=(2, 2), job="slurm c 12", may_be_restart=False):
    return Launch(kind, processes_per_node, job, may_be_restart)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, Launch("alone")),
        ({"LOCAL_RANK": "1"}, Launch("child")),
        (STEP, Launch("slurm", (2, 2), "slurm c 12", False)),
        ({**STEP, "SLURM_RESTART_COUNT": "2"}, Launch("slurm", (2, 2), "slurm c 12", True)),
        (
            {**STEP, "SLURM_ARRAY_JOB_ID": "10", "SLURM_ARRAY_TASK_ID": "3"},
            Launch("slurm", (2, 2), "slurm c 10_3", False),
        ),
        ({**STEP, "SLURM_PTY_PORT": "1234"}, Launch("alone", (), "slurm c 12", False)),  # typed into a shell on a node
        ({"SLURM_JOB_ID": "12", "SLURM_NTASKS": "1"}, Launch("alone", (), "slurm  12", False)),
        (ELASTIC, Launch("torchrun", (2, 2), "torchrun run", True)),
        ({**STEP, **ELASTIC}, Launch("torchrun", (2, 2), "torchrun run", True)),  # torchrun under srun
        # only the host whose process died counts a restart
        ({**ELASTIC, "TORCHELASTIC_RESTART_COUNT": "0"}, Launch("torchrun", (2, 2), "torchrun run", True)),
        ({**ELASTIC, "TORCHELASTIC_RUN_ID": "none"}, Launch("torchrun", (2, 2), "", False)),
    ],
)
def test_who_started_it(environ, expected):
    assert detect_launch(environ) == expected


def test_tasks_per_node():
    assert tasks_per_node("4(x2),1") == (4, 4, 1)
    assert tasks_per_node("3") == (3,)


def test_the_launcher_gives_the_numbers():
    settled = preflight.resolve_trainer_options(
        {"devices": "auto", "accelerator": "cpu"}, launch(processes_per_node=(2,)), STEP
    )
    assert (settled["devices"], settled["num_nodes"]) == (2, 1)
    assert (
        preflight.resolve_trainer_options(
            {"devices": "0,1", "accelerator": "cpu"}, launch(processes_per_node=(2,)), STEP
        )["devices"]
        == "0,1"
    )
    assert preflight.world_size(settled, launch(processes_per_node=(2,))) == 2


@pytest.mark.parametrize(
    ("devices", "nodes", "expected"), [(3, 1, 3), ("3", 2, 6), ([0, 1], None, 2), ("0,1,", 1, 2), (None, None, 1)]
)
def test_the_size_of_the_world(devices, nodes, expected):
    assert (
        preflight.world_size({"devices": devices, "num_nodes": nodes, "accelerator": "cpu"}, Launch("alone"))
        == expected
    )


@pytest.mark.parametrize(
    ("options", "where", "environ", "message"),
    [
        (
            {"devices": 2},
            launch(processes_per_node=(1,)),
            STEP,
            "--trainer.devices 2, but srun started 1 processes on each node",
        ),
        ({"devices": [0]}, launch(processes_per_node=(2,)), STEP, "--trainer.devices 1, but srun started 2"),
        ({"num_nodes": 2}, launch(processes_per_node=(2,)), STEP, "--trainer.num_nodes 2, but srun started 1 nodes"),
        ({"devices": 4}, launch("torchrun", (2,)), ELASTIC, "give torchrun --nproc-per-node=4"),
        ({}, launch(), {**STEP, "SLURM_JOB_NAME": "bash"}, "named 'bash', which Lightning takes for a shell"),
        ({}, launch(), {**STEP, "SLURM_JOB_NAME": "interactive"}, "named 'interactive'"),
        ({}, launch(processes_per_node=(2, 1)), STEP, "2, 1 processes on the nodes"),
        ({}, Launch("alone"), {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2"}, "start it with srun"),
        ({"num_nodes": 4}, Launch("alone"), {}, "started alone: start it on all nodes"),
        ({}, launch(), {**STEP, "MASTER_ADDR": "no-such-name.invalid"}, "'no-such-name.invalid' is unknown"),
        ({}, launch("torchrun"), {**ELASTIC, "MASTER_ADDR": "127.0.0.1"}, "each would wait for itself"),
        ({}, launch("torchrun"), {**ELASTIC, **SHARED_STORE}, "export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"),
        ({"devices": "x"}, Launch("alone"), {}, "devices 'x' is no number"),
        ({"accelerator": "gpu"}, launch(processes_per_node=(1000,)), STEP, "1000 processes on .* but each sees"),
    ],
)
def test_mistakes_of_a_start(options, where, environ, message):
    with pytest.raises(UserError, match=message):
        preflight.world_size(
            preflight.resolve_trainer_options({"accelerator": "cpu", **options}, where, environ), where
        )


def test_a_name_that_no_other_node_reaches(monkeypatch):
    """As in /etc/hosts of Debian, where the own name stands for 127.0.1.1."""
    monkeypatch.setattr(preflight, "_address", lambda name: "10.0.0.1" if name == "n1" else "127.0.1.1")
    monkeypatch.setattr(preflight.torch.cuda, "is_available", lambda: False)
    environ = {**STEP, "MASTER_ADDR": "n1"}
    with pytest.raises(UserError, match=r"stands for 127.0.1.1.*GLOO_SOCKET_IFNAME") as error:
        preflight.resolve_trainer_options({"accelerator": "cpu"}, launch(), environ)
    assert error.value.rank_local
    preflight.resolve_trainer_options({"accelerator": "cpu"}, launch(), {**environ, "GLOO_SOCKET_IFNAME": "eth0"})


@pytest.mark.parametrize(
    ("seen", "options", "environ", "message"),
    [
        (8, {}, STEP, "2 processes on .* which has 8 GPUs: start one for each"),
        (8, {"devices": 2}, STEP, None),
        (0, {}, {**STEP, "SLURM_GPUS_ON_NODE": "2"}, "torch sees none there"),
        (0, {"accelerator": "cpu"}, {**STEP, "SLURM_GPUS_ON_NODE": "2"}, None),
        (1, {}, STEP, "2 processes on .* but each sees 1 GPUs"),
    ],
)
def test_no_gpu_is_left_out_without_a_word(monkeypatch, seen, options, environ, message):
    monkeypatch.setattr(preflight.torch.cuda, "device_count", lambda: seen)
    where = launch(processes_per_node=(2,))
    if message is None:
        preflight.resolve_trainer_options(options, where, environ)
        return
    with pytest.raises(UserError, match=message):
        preflight.resolve_trainer_options(options, where, environ)


def test_a_foreign_requeue_file(tmp_path):
    preflight.refuse_requeue_checkpoints(tmp_path)
    (tmp_path / "hpc_ckpt_3.ckpt").touch()
    with pytest.raises(UserError, match=r"hpc_ckpt_3.ckpt is a checkpoint of Lightning's requeue"):
        preflight.refuse_requeue_checkpoints(tmp_path)


def test_two_steps_of_a_job_have_two_ports(monkeypatch):
    ports = set()
    for step in ("0", "1"):
        for name, value in {"SLURM_JOB_ID": "77", "SLURM_STEP_ID": step, "SLURM_NTASKS": "2"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("MASTER_PORT", raising=False)
        ports.add(SlurmEnvironment().main_port)
        monkeypatch.delenv("MASTER_PORT")
    assert len(ports) == 2 and all(15_000 <= port < 25_000 for port in ports)


def test_requeue_says_why_it_could_not(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "No such file" in requeue()
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho 'not allowed' >&2\nexit 1\n")
    (tmp_path / "scontrol").chmod(0o755)
    assert requeue() == "not allowed"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ("Requeue=1 Restarts=0\\n PreemptEligibleTime=2026-01-01T00:00:00 PreemptTime=2026-01-01T01:00:00", True),
        ("Requeue=1 Restarts=0\\n PreemptEligibleTime=2026-01-01T00:00:00 PreemptTime=None", False),
        ("Requeue=0 Restarts=0\\n PreemptEligibleTime=2026-01-01T00:00:00 PreemptTime=2026-01-01T01:00:00", False),
        ("", False),
    ],
)
def test_preemption_is_told_from_scancel(monkeypatch, tmp_path, shown, expected):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not is_preempted(), "no scontrol"
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\nprintf '{shown}'\n")
    (tmp_path / "scontrol").chmod(0o755)
    assert is_preempted() is expected


def test_the_strategy_follows_from_the_players():
    assert select_strategy(None, 2, None).strategy_name == "flat"
    assert select_strategy("ddp", 2, 60)._ddp_kwargs == {"find_unused_parameters": True}
    assert select_strategy("ddp", 1, 60)._timeout.total_seconds() == 60
    assert select_strategy("ddp_spawn", 1, None) == "ddp_spawn"


def test_the_environment(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert cluster_environment(Launch("alone"), {}) is None
    assert type(cluster_environment(launch(), {})).__name__ == "SlurmEnvironment"
    assert cluster_environment(launch(), {"plugins": ["lightning.fabric.plugins.environments.MPIEnvironment"]}) is None
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert type(cluster_environment(Launch("alone"), {})).__name__ == "LightningEnvironment"


def run_folder(root, version, job, **config):
    folder = root / "vae-digits" / f"version_{version}"
    folder.mkdir(parents=True)
    whole = {"preset": "vae", "dataset": "digits", "model": {}, "data": {}, "seed": 0, "trainer": {}, **config}
    (folder / "config.yaml").write_text(yaml.safe_dump(whole))
    restart.write_job_file(folder, launch(job=job))
    return folder, whole


def test_a_restarted_job_finds_its_run(tmp_path):
    run_folder(tmp_path, 0, "slurm c 12", seed=1)  # another experiment of the same job
    mine, config = run_folder(tmp_path, 1, "slurm c 12")
    run_folder(tmp_path, 2, "slurm c 13")  # the same experiment of another job
    (tmp_path / "vae-digits" / "version_3").mkdir()
    (tmp_path / "vae-digits" / "version_3" / "job.json").write_text("{")  # half-written
    assert restart.find_previous_attempt(config, launch(may_be_restart=True), tmp_path) == mine
    assert (
        restart.find_previous_attempt({**config, "trainer": {"devices": 2}}, launch(may_be_restart=True), tmp_path)
        == mine
    )
    chosen = {**config, "threads": 1, "val_examples": 100}  # that a run stores, and its command does not name
    (mine / "config.yaml").write_text(yaml.safe_dump(chosen))
    assert restart.find_previous_attempt(config, launch(may_be_restart=True), tmp_path) == mine
    assert restart.find_previous_attempt(config, launch(), tmp_path) is None, "not restarted"
    assert restart.find_previous_attempt({**config, "seed": 2}, launch(may_be_restart=True), tmp_path) is None
    assert restart.find_previous_attempt(config, launch(job="slurm c 99", may_be_restart=True), tmp_path) is None


def test_what_goes_on_unasked_takes_a_good_checkpoint(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    assert restart.last_valid_checkpoint(tmp_path) == (None, "")
    for name in ("last.ckpt", "previous.ckpt"):
        torch.save(empty_checkpoint(1), folder / name)
    assert restart.last_valid_checkpoint(tmp_path) == (folder / "last.ckpt", "")
    (folder / "last.ckpt").write_bytes(b"half")
    path, said = restart.last_valid_checkpoint(tmp_path)
    assert path == folder / "previous.ckpt"
    assert "last.ckpt is" in said and "going on from" in said
    (folder / "previous.ckpt").write_bytes(b"half")
    with pytest.raises(UserError, match="no other is good"):
        restart.last_valid_checkpoint(tmp_path)


def test_the_note_of_the_job(tmp_path):
    restart.write_job_file(tmp_path, Launch("alone"))
    assert not list(tmp_path.iterdir())
    restart.write_job_file(tmp_path, launch())
    assert json.loads((tmp_path / "job.json").read_text(encoding="utf-8")) == {"job": "slurm c 12"}


def test_how_a_process_ended():
    assert exit_reason(-9) == "was killed by SIGKILL"
    assert exit_reason(1) == "ended with status 1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[../gloo/transport/tcp/pair.cc:545] Connection closed by peer [127.0.0.1]:5", True),
        ("Timed out waiting 5000ms for recv operation to complete", True),
        ("NCCL communicator was aborted on rank 1", True),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_a_broken_connection_is_told_from_a_fault_of_the_model(text, expected):
    assert is_connection_error(RuntimeError(text)) is expected
    assert not is_connection_error(ValueError(text))
