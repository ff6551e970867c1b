#!/bin/sh
# Build the agent service into build/agent. Nothing is downloaded: Go, protoc and gRPC are Debian's.
#   apt-get install golang-go golang-google-grpc-dev golang-google-protobuf-dev protoc-gen-go
#   pip install flyteidl
set -eu
cd "$(dirname "$0")"
build=${BUILD:-$PWD/build}
python=${PYTHON:-python3}
mkdir -p "$build/src"

files=$("$python" descriptors.py "$build/flyte.binpb")
# shellcheck disable=SC2086 # several names
protoc --descriptor_set_in="$build/flyte.binpb" --go_out="$build/src" $files

# Debian's libraries are a GOPATH, not modules.
export GO111MODULE=off GOFLAGS=-buildvcs=false GOPATH="$build:/usr/share/gocode"
go vet ./*.go
go build -o "$build/agent" ./*.go
