#!/bin/sh
# Fetches Haraka, Nodemailer's smtp-server and axe-core into .cache/npm for the tests, without installing them. Needs npm; no root.
set -eu
cache="$(cd "$(dirname "$0")/../.." && pwd)/.cache"
mkdir -p "$cache/npm"
echo '*' > "$cache/.gitignore"
cd "$cache/npm"
echo '{"private": true}' > package.json
npm install --no-audit --no-fund --no-package-lock --ignore-scripts Haraka@3 smtp-server@3 axe-core@4
