#!/usr/bin/env bash
# Install the clients that pip does not bring: pgjdbc and psqlODBC from Debian, node-postgres and postgres.js from npm.
# Best effort: what cannot be installed (no apt, no root, no network, no node) is named and left out, its tests are skipped, and the exit
# status is 0.  Nothing that is already installed is upgraded.  THANOPROXY_TEST_CLIENTS names the folder for the npm packages.
set -uo pipefail

patience=120 # seconds for each step
folder="${THANOPROXY_TEST_CLIENTS:-${XDG_CACHE_HOME:-$HOME/.cache}/thanoproxy/test-clients}"
packages=(libpostgresql-jdbc-java odbc-postgresql unixodbc)

left_out() { echo "tests/clients: left out: $1" >&2; }

installed() { dpkg --status "$1" 2>/dev/null | grep --quiet '^Status: install ok installed'; }

from_debian() {
  local missing=() package
  for package in "${packages[@]}"; do installed "$package" || missing+=("$package"); done
  ((${#missing[@]})) || return 0
  [[ $(id --user) == 0 ]] || { left_out "${missing[*]} (installing needs root)"; return; }
  local install=(apt-get install --yes --quiet=2 --no-install-recommends --no-upgrade "${missing[@]}")
  export DEBIAN_FRONTEND=noninteractive
  timeout "$patience" "${install[@]}" >/dev/null 2>&1 && return
  timeout "$patience" apt-get update --quiet=2 >/dev/null 2>&1 # lists may be absent or old
  timeout "$patience" "${install[@]}" >/dev/null 2>&1 || left_out "${missing[*]} (apt-get install failed)"
}

from_npm() {
  [[ -d $folder/node_modules/pg && -d $folder/node_modules/pg-cursor && -d $folder/node_modules/postgres ]] && return
  command -v npm >/dev/null || { left_out "pg, postgres (no npm)"; return; }
  mkdir -p "$folder"
  local quiet=(--silent --no-audit --no-fund --no-save --fetch-retries=1 --fetch-timeout=20000 --fetch-retry-mintimeout=1000)
  timeout "$patience" npm install --prefix "$folder" "${quiet[@]}" pg@8 pg-cursor@2 postgres@3 >/dev/null 2>&1 ||
    left_out "pg, postgres (npm install failed)"
}

if command -v apt-get >/dev/null; then from_debian; else left_out "${packages[*]} (no apt-get)"; fi
from_npm
exit 0
