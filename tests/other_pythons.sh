#!/usr/bin/env bash
# Router and fakes, as pip installs them, on every other Python that we support and that is here.
#
#   tests/other_pythons.sh [FOLDER]     fails with the first one that does; FOLDER (build) gets their environments
#   tests/other_pythons.sh --missing    the versions that are not here, one a line
set -euo pipefail
cd "$(dirname "$0")/.."
versions=(3.12 3.13)

find_python() { # VERSION
  local candidate
  for candidate in "python$1" "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/"$1"*/bin/python; do
    if "$candidate" -c "import sys; sys.exit(sys.version_info[:2] != (${1/./, }))" 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
}

if [ "${1:-}" = --missing ]; then
  for version in "${versions[@]}"; do
    [ -n "$(find_python "$version")" ] || echo "$version"
  done
  exit
fi

folder=${1:-build}
for version in "${versions[@]}"; do
  python=$(find_python "$version")
  if [ -z "$python" ]; then
    echo "== Python $version: not found, skipped"
    continue
  fi
  echo "== $("$python" --version)"
  rm -rf "$folder/python$version" build/lib # pip would install what an earlier build left there too
  "$python" -m venv "$folder/python$version"
  "$folder/python$version/bin/python" -m pip install --quiet --disable-pip-version-check .
  (cd "$folder" && PYTHONPATH= "python$version/bin/python" -m deploy.demo.run --once --fake)
done
