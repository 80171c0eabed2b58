#!/bin/bash
# up.sh : a single-node Kubernetes cluster from binaries in $B, without systemd and without an image registry.
#
#   up.sh [STEP ...]     steps: pki etcd api cm containerd cni images kubelet proxy dns netpol volumes dapr keda
#   (no step = all of them, in that order).  Each step does nothing where its part already runs.
#   down.sh stops it again.
#
# Needs: etcd, containerd, runc, containernetworking-plugins, iptables, nftables, conntrack, socat, openssl, busybox, curl, redis, postgresql
# (Debian packages)
# and, in $B, what build.sh made.
set -euo pipefail
HERE=$(cd "$(dirname "$0")" && pwd)
T=${K8S_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/test-cluster}; B=$T/bin; R=$T/run; L=$T/logs; P=$R/pki; I=$T/img
DAPR_BIN=${DAPR_BIN:-$B/dapr}
NODE=ci NODE_IP=10.200.0.1 PODS=10.244.0.0/24 SVCS=10.96.0.0/16 DNS=10.96.0.10 REG=ci.local
export KUBECONFIG=$R/admin.conf
mkdir -p "$R" "$L" "$P" "$I"
K="$B/kubectl"; [ -x "$K" ] || K=kubectl

say() { printf '%s %-11s %s\n' "$(date +%T)" "$1" "$2"; }
# start NAME COMMAND... : in the background, with a pid file; nothing where it runs already
start() {
  local n=$1; shift
  if [ -f "$R/$n.pid" ] && kill -0 "$(cat "$R/$n.pid")" 2>/dev/null; then return 0; fi
  setsid nohup "$@" >>"$L/$n.log" 2>&1 </dev/null & echo $! >"$R/$n.pid"
}
# put FILE : the standard input into the file, which stays untouched where it holds that already
# (kube-proxy ends itself when its configuration file is written again)
put() { cat >"$1.new"; if cmp -s "$1" "$1.new"; then rm "$1.new"; else mv "$1.new" "$1"; fi; }
# wait_for SECONDS WHAT COMMAND... : until the command succeeds
wait_for() {
  local s=$1 w=$2 end; shift 2; end=$((SECONDS + s))
  while [ $SECONDS -lt $end ]; do timeout $((s + 5)) "$@" >/dev/null 2>&1 && return 0; sleep 0.2; done
  echo "timed out after ${s}s waiting for $w" >&2; return 1
}

# ---- certificates: one CA, client certificates whose CN/O are the user and its groups --------------------------
cert() { # NAME SUBJECT [SAN]
  local n=$1 s=$2 san=${3:-}
  [ -s "$P/$n.crt" ] && return 0
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$P/$n.key" -subj "$s" -out "$P/$n.csr" 2>/dev/null
  { echo "keyUsage=digitalSignature,keyEncipherment"; echo "extendedKeyUsage=serverAuth,clientAuth"
    [ -z "$san" ] || echo "subjectAltName=$san"; } >"$P/$n.ext"
  openssl x509 -req -in "$P/$n.csr" -CA "$P/ca.crt" -CAkey "$P/ca.key" -CAcreateserial -days 30 -extfile "$P/$n.ext" -out "$P/$n.crt" 2>/dev/null
}
conf() { # NAME : a kubeconfig with that certificate
  put "$R/$1.conf" <<Y
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "https://$NODE_IP:6443", certificate-authority: $P/ca.crt}}]
users: [{name: u, user: {client-certificate: $P/$1.crt, client-key: $P/$1.key}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
Y
}
step_pki() {
  # An address of our own on a bridge without ports: no dependence on what the machine's network looks like.
  ip link show k8s0 >/dev/null 2>&1 || ip link add k8s0 type bridge
  ip addr replace $NODE_IP/32 dev k8s0; ip link set k8s0 up
  # Service addresses that kube-proxy has not (yet) set up must lead nowhere. By the default route they would reach
  # the machine's gateway, which takes any connection to port 443 and answers 404: kube-apiserver then keeps that
  # connection as its way to an aggregated API.
  ip route replace $SVCS dev k8s0 src $NODE_IP
  [ -s "$P/ca.crt" ] || openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
    -subj /CN=ci-ca -keyout "$P/ca.key" -out "$P/ca.crt" 2>/dev/null
  [ -s "$P/sa.key" ] || { openssl genrsa -out "$P/sa.key" 2048 2>/dev/null; openssl rsa -in "$P/sa.key" -pubout -out "$P/sa.pub" 2>/dev/null; }
  cert apiserver /CN=kube-apiserver "IP:$NODE_IP,IP:127.0.0.1,IP:10.96.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
  cert admin /O=system:masters/CN=admin
  cert apiserver-kubelet /O=system:masters/CN=apiserver-kubelet
  cert cm /CN=system:kube-controller-manager
  cert scheduler /CN=system:kube-scheduler
  cert proxy /CN=system:kube-proxy
  cert kubelet "/O=system:nodes/CN=system:node:$NODE"
  cert front-proxy /CN=front-proxy
  cert netpol /O=system:masters/CN=netpol
  for c in admin cm scheduler proxy kubelet netpol; do conf $c; done
  say pki ok
}

# ---- control plane ----------------------------------------------------------------------------------------------
step_etcd() {
  # --unsafe-no-fsync: the data need not outlive the machine
  start etcd etcd --data-dir "$R/etcd" --listen-client-urls http://127.0.0.1:12379 --advertise-client-urls http://127.0.0.1:12379 \
    --listen-peer-urls http://127.0.0.1:12380 --initial-advertise-peer-urls http://127.0.0.1:12380 --initial-cluster default=http://127.0.0.1:12380 \
    $(etcd --help 2>&1 | grep -q unsafe-no-fsync && echo --unsafe-no-fsync)
  wait_for 20 etcd curl -sf http://127.0.0.1:12379/health; say etcd ok
}
step_api() {
  start apiserver "$B/kube-apiserver" --etcd-servers=http://127.0.0.1:12379 --advertise-address=$NODE_IP --secure-port=6443 \
    --service-cluster-ip-range=$SVCS --allow-privileged=true --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
    --client-ca-file="$P/ca.crt" --tls-cert-file="$P/apiserver.crt" --tls-private-key-file="$P/apiserver.key" \
    --kubelet-client-certificate="$P/apiserver-kubelet.crt" --kubelet-client-key="$P/apiserver-kubelet.key" \
    --kubelet-preferred-address-types=InternalIP \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local --service-account-key-file="$P/sa.pub" --service-account-signing-key-file="$P/sa.key" \
    --requestheader-client-ca-file="$P/ca.crt" --requestheader-allowed-names=front-proxy --requestheader-username-headers=X-Remote-User \
    --requestheader-group-headers=X-Remote-Group --requestheader-extra-headers-prefix=X-Remote-Extra- \
    --proxy-client-cert-file="$P/front-proxy.crt" --proxy-client-key-file="$P/front-proxy.key"
  wait_for 60 kube-apiserver "$K" get --raw /readyz
  wait_for 30 namespaces "$K" get ns kube-system; say apiserver "$("$K" version -o json 2>/dev/null | sed -n 's/.*"gitVersion": "\(.*\)",/\1/p' | tail -1)"
}
step_cm() {
  start cm "$B/kube-controller-manager" --kubeconfig="$R/cm.conf" --authentication-kubeconfig="$R/cm.conf" --authorization-kubeconfig="$R/cm.conf" \
    --use-service-account-credentials=true --service-account-private-key-file="$P/sa.key" --root-ca-file="$P/ca.crt" \
    --cluster-signing-cert-file="$P/ca.crt" --cluster-signing-key-file="$P/ca.key" --leader-elect=false --bind-address=127.0.0.1 \
    --horizontal-pod-autoscaler-sync-period=5s
  start scheduler "$B/kube-scheduler" --kubeconfig="$R/scheduler.conf" --authentication-kubeconfig="$R/scheduler.conf" \
    --authorization-kubeconfig="$R/scheduler.conf" --leader-elect=false --bind-address=127.0.0.1
  wait_for 60 "the default service account" "$K" -n default get sa default; say cm+sched ok
}

# ---- node -------------------------------------------------------------------------------------------------------
step_cni() {
  mkdir -p "$R/cni"
  # ptp (a route per pod) and not bridge: all pod traffic is then forwarded by IP and passes netfilter, so that
  # network policies and service addresses work without br_netfilter and hairpin settings.
  put "$R/cni/10-ptp.conflist" <<J
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
 {"type": "ptp", "ipMasq": false, "mtu": 1500,
  "ipam": {"type": "host-local", "dataDir": "$R/cni-ipam", "ranges": [[{"subnet": "$PODS"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
 {"type": "portmap", "capabilities": {"portMappings": true}}]}
J
  sysctl -qw net.ipv4.ip_forward=1
  # Docker sets the policy of FORWARD to DROP
  for d in -s -d; do iptables -C FORWARD $d $PODS -j ACCEPT 2>/dev/null || iptables -I FORWARD $d $PODS -j ACCEPT; done
  say cni ok
}
step_containerd() {
  put "$R/containerd.toml" <<C
version = 2
root = "$R/containerd"
state = "$R/containerd-state"
[grpc]
  address = "$R/containerd.sock"
[ttrpc]
  address = "$R/containerd.ttrpc.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$REG/pause:1"
  disable_apparmor = true
  # the machine grants no CAP_SYS_RESOURCE: runc may not lower oom_score_adj to -998
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$R/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
C
  start containerd containerd --config "$R/containerd.toml"
  wait_for 30 containerd ctr -a "$R/containerd.sock" version; say containerd ok
}
# load NAME:TAG MKIMAGE-ARGUMENTS... : build an image from local files and import it, once
load() {
  local n=$1 f; shift; f=$I/$(echo "$n" | tr /: __).tar
  ctr -a "$R/containerd.sock" -n k8s.io images ls -q | grep -qx "$n" && return 0
  [ -s "$f" ] || python3 "$HERE/mkimage.py" "$n" "$f" "$@" >/dev/null
  ctr -a "$R/containerd.sock" -n k8s.io images import "$f" >/dev/null
}
# load_postgres FOLDER : Debian's PostgreSQL with an entry point that understands what the official image does
load_postgres() {
  local v=${1##*/} x bins= libs= links=
  for x in initdb postgres pg_isready; do bins="$bins --bin $1/bin/$x:$1/bin/$x"; done
  for x in "$1"/lib/*.so; do bins="$bins --bin $x:$x"; done
  for x in sh cat ls id; do links="$links --link /bin/$x:busybox"; done
  sed "s#/15/#/$v/#" "$HERE/images/postgres.sh" | put "$I/postgres.sh"; chmod 755 "$I/postgres.sh"
  printf 'root:x:0:0::/root:/bin/sh\npostgres:x:999:999::/tmp:/bin/sh\n' | put "$I/postgres.passwd"
  load docker.io/library/postgres:17 $bins $links --bin /usr/bin/busybox:/bin/busybox --tree "/usr/share/postgresql/$v:/usr/share/postgresql/$v" \
    --file "$I/postgres.passwd:/etc/passwd" --file "$I/postgres.sh:/entry.sh" --link /usr/local/bin/pg_isready:"$1/bin/pg_isready" \
    --link /etc/localtime:/usr/share/zoneinfo/UTC --tree /usr/share/zoneinfo/Etc:/usr/share/zoneinfo/Etc --user 999 --stop SIGINT --entry /entry.sh
}
# Folders that bind to the claims of k8s/trial/ and the registry, in place of a provisioner. One whose claim is gone is emptied.
step_volumes() {
  local n; for n in 1 2 3 4 5 6; do
    case $("$K" get pv "folder-$n" --ignore-not-found -o jsonpath='{.status.phase}') in
      Bound | Available) continue ;;
      Released) "$K" delete pv "folder-$n" >/dev/null ;;
    esac
    rm -rf "$R/volumes/$n"; mkdir -p "$R/volumes/$n"; chmod 777 "$R/volumes/$n"
    "$K" apply -f - >/dev/null <<Y
{"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "folder-$n"}, "spec": {"capacity": {"storage": "20Gi"},
 "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "$R/volumes/$n"}}}
Y
  done; say volumes "$n folders"
}
step_images() {
  load $REG/pause:1 --bin "$B/pause:/pause" --user 65535 --entry /pause
  # Debian's static busybox crashes in name resolution without the C library's files: curl and getent for those
  local a; a=$(for x in sh cat ls sleep nc echo date env id grep httpd hostname sed; do echo "--link /bin/$x:busybox"; done)
  load $REG/tools:1 --bin /usr/bin/busybox:/bin/busybox --bin /usr/bin/curl:/bin/curl --bin /usr/bin/getent:/bin/getent $a --user 0 --entry /bin/sh
  load $REG/redis:7 --bin /usr/bin/redis-server:/usr/bin/redis-server --bin /usr/bin/redis-cli:/usr/bin/redis-cli --user 65532 --entry /usr/bin/redis-server --save '' --protected-mode no --dir /tmp
  [ ! -x "$B/app" ] || load $REG/app:1 --bin "$B/app:/app" --entry /app
  [ ! -x "$B/coredns" ] || load $REG/coredns:1 --bin "$B/coredns:/coredns" --user 0 --entry /coredns
  for x in operator sentry injector placement scheduler daprd; do
    [ ! -x "$DAPR_BIN/$x" ] || load $REG/dapr/$x:1.18.2 --bin "$DAPR_BIN/$x:/$x" --file /etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt --entry "/$x"
  done
  for x in keda:keda keda-adapter:keda-adapter keda-webhooks:keda-admission-webhooks; do
    [ ! -x "$B/${x%:*}" ] || load $REG/${x%:*}:2 --bin "$B/${x%:*}:/${x#*:}" --file /etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt --entry "/${x#*:}"
  done
  # What k8s/trial/ names, from Debian's packages: the same programs, perhaps of another version.
  load docker.io/library/redis:7 --bin /usr/bin/redis-server:/usr/local/bin/redis-server --bin /usr/bin/redis-cli:/usr/local/bin/redis-cli \
    --bin /usr/bin/busybox:/bin/busybox --link /bin/sh:busybox --link /bin/cat:busybox --user 999 --entry redis-server
  local pg; pg=$(ls -d /usr/lib/postgresql/* | sort -V | tail -1)
  [ ! -x "$pg/bin/postgres" ] || load_postgres "$pg"
  say images "$(ctr -a "$R/containerd.sock" -n k8s.io images ls -q | grep -vc sha256)"
}
step_kubelet() {
  echo "nameserver 127.0.0.1" | put "$R/resolv.conf"
  put "$R/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
containerRuntimeEndpoint: unix://$R/containerd.sock
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $P/ca.crt}}
authorization: {mode: Webhook}
clusterDNS: [$DNS]
clusterDomain: cluster.local
resolvConf: $R/resolv.conf
failSwapOn: false
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, nodefs.inodesFree: 1%, imagefs.available: 1%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
serializeImagePulls: false
registerNode: true
# parts that start before what they need end themselves: try again after 2 s, not after 10, 20, 40 ... s
featureGates: {KubeletCrashLoopBackOffMax: true}
crashLoopBackOff: {maxContainerRestartPeriod: 2s}
Y
  start kubelet "$B/kubelet" --config="$R/kubelet.yaml" --kubeconfig="$R/kubelet.conf" --hostname-override=$NODE --node-ip=$NODE_IP \
    --root-dir="$R/kubelet" --cert-dir="$R/kubelet-pki" --v=2
  wait_for 60 "the node to be Ready" sh -c "$K get node $NODE -o jsonpath='{.status.conditions[?(@.type==\"Ready\")].status}' | grep -q True"
  say kubelet "node $NODE is Ready"
}
step_proxy() {
  put "$R/proxy.yaml" <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: ${PROXY_MODE:-iptables}
clusterCIDR: $PODS
hostnameOverride: $NODE
clientConnection: {kubeconfig: $R/proxy.conf}
conntrack: {maxPerCore: 0}
metricsBindAddress: 127.0.0.1:10249
Y
  start proxy "$B/kube-proxy" --config="$R/proxy.yaml"
  wait_for 30 kube-proxy curl -sf http://127.0.0.1:10249/healthz; say kube-proxy ok
}
step_dns() { "$K" apply -f "$HERE/manifests/coredns.yaml" >/dev/null; "$K" -n kube-system rollout status deploy/coredns --timeout=90s >/dev/null; say coredns ok; }
# The agent marks a connection that it has allowed with a label, by which the answers pass. Where the kernel lacks
# CONFIG_NETFILTER_NETLINK_GLUE_CT the label is dropped without a word, and each answer is judged as a connection of its own:
# a pod whose ingress and egress are both denied then gets none. So what the agent has let through is labelled here, behind it.
step_netpol() {
  start netpol "$B/netpol" --kubeconfig="$R/netpol.conf" --hostname-override=$NODE --disable-nri --netfilter-bug-1766-fix=false --nfqueue-id=98 --metrics-bind-address=127.0.0.1:19080 --v=2
  wait_for 20 "the agent's rules" nft list chain inet kube-network-policies postrouting
  local l; l=$(nft list chain inet kube-network-policies postrouting 2>/dev/null | sed -n 's/.*ct label set //p')
  nft -f - <<N
table inet test-cluster-answers
delete table inet test-cluster-answers
table inet test-cluster-answers {
  chain postrouting {
    type filter hook postrouting priority srcnat - 4; policy accept;
    ct state new ct label set $l
  }
}
N
  sleep 1; kill -0 "$(cat "$R/netpol.pid")"; say netpol ok
}
step_dapr() {
  local C; C=$(go mod download -json github.com/dapr/dapr@v1.18.2 | sed -n 's/.*"Dir": "\(.*\)",/\1/p')/charts/dapr
  # dapr-sentry ends itself where it starts before the Configuration type is there
  "$K" apply --server-side -f "$C/crds" >/dev/null 2>&1; "$K" wait --for=condition=Established crd/configurations.dapr.io crd/components.dapr.io --timeout=30s >/dev/null
  "$B/helm" status dapr -n dapr-system >/dev/null 2>&1 || "$B/helm" install dapr "$C" -n dapr-system --create-namespace --set global.registry=$REG/dapr,global.tag=1.18.2 \
    --set dapr_scheduler.cluster.inMemoryStorage=true,dapr_placement.cluster.forceInMemoryLog=true \
    --set dapr_sidecar_injector.sidecarDropALLCapabilities=true >/dev/null
  wait_for 120 dapr-system sh -c "$K -n dapr-system rollout status deploy/dapr-operator --timeout=90s && $K -n dapr-system rollout status deploy/dapr-sentry --timeout=90s && $K -n dapr-system rollout status deploy/dapr-sidecar-injector --timeout=90s && $K -n dapr-system rollout status sts/dapr-placement-server --timeout=90s && $K -n dapr-system rollout status sts/dapr-scheduler-server --timeout=90s"
  say dapr ok
}
step_keda() { "$HERE/keda.sh"; say keda ok; }

[ $# -gt 0 ] || set -- pki etcd api cm containerd cni images kubelet proxy dns netpol volumes dapr keda
t0=$(date +%s)
for s; do "step_$s"; done
say done "$(($(date +%s) - t0)) s"
