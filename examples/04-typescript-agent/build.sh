#!/bin/sh
# Build the agent service into build/main.js. It needs Node 20 or newer, npm, and the Python package flyteidl.
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-python3}
npm ci --no-audit --no-fund --silent
npx --no-install tsc
"$python" descriptors.py build/flyte.binpb
