#!/usr/bin/env bash
# Sets a Debian machine up for the launcher: programs, then a virtual environment in .venv with
# this checkout installed. Sourced from the checkout's root; EXTRAS names extras, such as [test].
need=()
for program in git:git g++:g++ make:make python3:python3; do
  command -v "${program%%:*}" >/dev/null || need+=("${program#*:}")
done
python3 -c 'import ensurepip, venv' 2>/dev/null || need+=(python3-venv)
python3 - <<'P' 2>/dev/null || need+=(python3-dev)
import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))
P
if [[ "${EXTRAS:-}" == *test* ]]; then # and the Slurm cluster and ssh hosts of tests/cluster
  slurm=(slurmctld slurmd slurm-client slurmdbd munge libpmix-dev mariadb-server)
  for package in "${slurm[@]}" iproute2 openssh-server openssh-client rsync; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || need+=("$package")
  done
fi
if [ ${#need[@]} -gt 0 ]; then
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  "${as_root[@]}" bash -s -- "${need[@]}" <<'AS_ROOT'
set -euo pipefail
policy=/usr/sbin/policy-rc.d # no daemon starts by being installed: the tests start their own
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -y -q --no-install-recommends "$@" </dev/null
for package in "$@"; do # nor with the machine
  case $package in
    slurmctld | slurmd | slurmdbd | munge) unit=$package ;;
    mariadb-server) unit=mariadb ;;
    openssh-server) unit=ssh ;;
    *) continue ;;
  esac
  ! command -v systemctl >/dev/null || systemctl disable -q "$unit" || true
done
AS_ROOT
fi
[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/python -m pip install -q -e ".${EXTRAS:-}"
