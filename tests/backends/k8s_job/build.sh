#!/usr/bin/env bash
# Build Kubernetes 1.20.2 from Debian's source package into the folder given: minutes of every core, 3 GB while it lasts.
set -euo pipefail
target=$(realpath -m "$1")
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
mkdir -p "$target/bin" "$target/build/lists/partial"
cd "$target/build"
export DEBIAN_FRONTEND=noninteractive
apt-get install -qq -y --no-install-recommends rsync jq golang-go etcd-server containerd runc >/dev/null
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bookworm main" > sources.list
options=(-o "Dir::Etc::sourcelist=$PWD/sources.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$PWD/lists")
apt-get "${options[@]}" update -qq
apt-get "${options[@]}" source --download-only kubernetes
rm -rf src && mkdir src
tar xzf ./*.orig.tar.gz -C src --strip-components=1
tar xJf ./*.debian.tar.xz -C src
cd src
grep -v '^#' debian/patches/series | while read -r patch; do patch -p1 -s < "debian/patches/$patch"; done
mkdir -p .go/src/k8s.io
ln -sfn ../../.. .go/src/k8s.io/kubernetes
export GOPATH=$PWD/.go GOCACHE=$target/build/cache HOME=$target/build
export CGO_ENABLED=0 GOFLAGS=-mod=vendor GOPROXY=off
export KUBE_GIT_VERSION=v1.20.2 KUBE_GIT_COMMIT=deb KUBE_GIT_TREE_STATE=archive KUBE_GIT_MAJOR=1 KUBE_GIT_MINOR=20
programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet)
cd .go/src/k8s.io/kubernetes
nice -n 19 make WHAT="${programs[*]/#/cmd/}" GOLDFLAGS="-s -w"
cp "${programs[@]/#/_output/bin/}" "$target/bin"
cd "$target" && chmod -R u+w build && rm -rf build
