#!/usr/bin/env bash
# All the set-up on a fresh Debian 12 machine, then the main job: a convolutional net learns
# handwritten digits on two Horovod ranks. The first time, Horovod is built (some minutes).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tests/setup.sh
cd examples/digits
exec ../../.venv/bin/launcher entry_script=train_horovod.py dist=mpi procs_per_node=2 \
  environment.pip_packages=[scikit-learn] "$@"
