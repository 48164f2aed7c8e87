#!/usr/bin/env bash
# Installs SLURM and munge from Debian's packages, for the tests that start their own daemons.
set -euo pipefail
PATH=$PATH:/usr/sbin
missing=
for program in munged slurmctld slurmd sbatch; do
  command -v "$program" >/dev/null || missing="$missing $program"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "no$missing here; as root on Debian or Ubuntu this script installs them, or ask for" \
    "the packages slurmctld, slurmd, slurm-client and munge" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
timeout 300 apt-get update -qq
timeout 300 apt-get install -y -qq --no-install-recommends slurmctld slurmd slurm-client munge >/dev/null
