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
if [ ${#need[@]} -gt 0 ]; then
  as_root=()
  [ "$(id -u)" = 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get update -q
  DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -q --no-install-recommends "${need[@]}"
fi
[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/python -m pip install -q -e ".${EXTRAS:-}"
