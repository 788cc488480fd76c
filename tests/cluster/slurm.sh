#!/usr/bin/env bash
# A real Slurm of two nodes on this one machine, for the tests: slurm.sh up | down. Root, Debian; no systemd, no database.
# Each node is a network namespace with its own address and host name, so it is also a second host for torchrun.
set -euo pipefail
nodes=2 net=10.213.77 port=17000 base=${SLURM_BASE:-/var/tmp/lightning-gen-slurm} host=$(hostname -s)
mark='# lightning-gen tests'
export SLURM_CONF=$base/slurm.conf # not /etc/slurm, which may be that of a real cluster

alive() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }

stop() { # pid file
    [ -s "$1" ] || return 0
    local pid
    pid=$(cat "$1")
    kill "$pid" 2>/dev/null || return 0
    for _ in $(seq 100); do
        case "$(sed -n 's/^State:[[:space:]]*//p' "/proc/$pid/status" 2>/dev/null)" in '' | Z* | X*) return 0 ;; esac
        sleep 0.05
    done
    kill -9 "$pid" 2>/dev/null || true
}

rewrite_hosts() { # in place: a container's /etc/hosts may not be renamed over
    local kept
    kept=$(grep -v "$mark\$" /etc/hosts || true)
    printf '%s\n' "$kept" "$@" >/etc/hosts
}

down() {
    [ ! -s "$base/run/slurmctld.pid" ] || timeout 10 scancel --user=root --quiet 2>/dev/null || true
    for file in "$base"/run/slurmd.*.pid "$base"/run/slurmctld.pid; do stop "$file"; done
    [ ! -e "$base/run/munged-is-ours" ] || stop /run/munge/munged.pid
    for i in $(seq "$nodes"); do [ ! -e "/run/netns/n$i" ] || ip netns del "n$i" || true; done
    ip link del slurmbr0 2>/dev/null || true
    rewrite_hosts
    rm -rf "$base"/run "$base"/ctld "$base"/spool.*
}

packages() {
    local missing=0
    for program in slurmctld slurmd srun munged ip; do command -v "$program" >/dev/null || missing=1; done
    [ "$missing" = 1 ] || return 0
    apt-get update -qq || true
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        slurmctld slurmd slurm-client munge iproute2 >/dev/null 2>&1
}

configuration() {
    cat <<CONF
ClusterName=lightninggen
SlurmctldHost=$host($net.254)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
SlurmctldPort=$port
SlurmctldPidFile=$base/run/slurmctld.pid
SlurmdPidFile=$base/run/slurmd.%n.pid
SlurmctldLogFile=$base/log/slurmctld.log
SlurmdLogFile=$base/log/slurmd.%n.log
StateSaveLocation=$base/ctld
SlurmdSpoolDir=$base/spool.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
KillWait=60
ReturnToService=2
JobRequeue=1
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=DEFAULT CPUs=4 RealMemory=4000 State=UNKNOWN
$(for i in $(seq "$nodes"); do echo "NodeName=n$i NodeHostname=n$i NodeAddr=$net.$i Port=$((port + i))"; done)
PartitionName=DEFAULT Nodes=ALL MaxTime=60 DefaultTime=10 OverTimeLimit=0 State=UP
PartitionName=debug Default=YES PriorityTier=1 GraceTime=90
PartitionName=urgent PriorityTier=10 PreemptMode=OFF
CONF
}

network() {
    ip link show slurmbr0 >/dev/null 2>&1 || {
        ip link add slurmbr0 type bridge
        ip addr add "$net.254/24" dev slurmbr0
        ip link set slurmbr0 up
    }
    for i in $(seq "$nodes"); do
        [ ! -e "/run/netns/n$i" ] || continue
        ip netns add "n$i"
        ip link add "sv$i" type veth peer name eth0 netns "n$i"
        ip link set "sv$i" master slurmbr0 up
        ip -n "n$i" addr add "$net.$i/24" dev eth0
        ip -n "n$i" link set eth0 up
        ip -n "n$i" link set lo up
    done
}

daemons() {
    install -d "$base" "$base/ctld" "$base/log" "$base/run"
    install -d -o munge -g munge -m 0755 /run/munge
    if ! munge -n >/dev/null 2>&1; then
        touch "$base/run/munged-is-ours"
        rm -f /run/munge/munge.socket.2*
        setpriv --reuid=munge --regid=munge --clear-groups munged
        for _ in $(seq 50); do munge -n >/dev/null 2>&1 && break || sleep 0.1; done
    fi
    alive "$base/run/slurmctld.pid" || slurmctld
    for i in $(seq "$nodes"); do
        install -d "$base/spool.n$i"
        alive "$base/run/slurmd.n$i.pid" ||
            nsenter --net="/run/netns/n$i" unshare --uts sh -c 'hostname "$0"; exec slurmd -N "$0"' "n$i"
    done
}

up() {
    packages
    down
    install -d "$base"
    configuration >"$SLURM_CONF"
    local names=()
    for i in $(seq "$nodes"); do names+=("$net.$i n$i $mark"); done
    getent hosts "$host" >/dev/null || names+=("127.0.0.1 $host $mark")
    rewrite_hosts "${names[@]}"
    network
    daemons
    for _ in $(seq 60); do # ready only when a job over all nodes has run
        timeout 10 srun --immediate=5 -N "$nodes" -n "$nodes" true >/dev/null 2>&1 && return 0
        sleep 0.5
    done
    echo "the nodes did not come up" >&2
    tail -n 15 "$base"/log/*.log >&2
    return 1
}

"$1"
