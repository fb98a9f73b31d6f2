#!/usr/bin/env bash
# All the set-up on a fresh Debian 12 machine, then every check and test. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
EXTRAS='[test]'
. tests/setup.sh
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# Horovod takes minutes to build, once a machine: in the cache of environments, which lasts.
(cd examples/digits && ../../.venv/bin/python -m launcher env build dist=mpi procs_per_node=2 \
  'environment.pip_packages=[scikit-learn]')
# Most tests wait for Slurm or for ssh most of the time: three at once, on two cores.
exec .venv/bin/python -m pytest -n 3 --no-loadscope-reorder "$@"
