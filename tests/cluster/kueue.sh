#!/usr/bin/env bash
# Kueue for tests/cluster/test_queues.py, on the cluster that KUBECONFIG names: built from its Go module, pushed to CLUSTER_REGISTRY
# (localhost:5001), deployed into kueue-system. It takes Go 1.26, buildah, kubectl and PyYAML; `kueue.sh remove` takes it away again,
# with all queues. Cold: 28 minutes on two cores that were busy with other things, and 2 GB of Go's cache. With the program in
# CLUSTER_STATE/bin (/var/tmp/cluster): half a minute.
set -euo pipefail
version=v0.19.0  # made for Kubernetes 1.34 to 1.36, JobSet 0.12, Trainer 2.2 and newer
bin=${CLUSTER_STATE:-/var/tmp/cluster}/bin
registry=${CLUSTER_REGISTRY:-localhost:5001}
export PATH="$PATH:/usr/local/go/bin:$bin" GOFLAGS="-mod=mod -p=2 -trimpath" CGO_ENABLED=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ "${1:-}" = remove ]; then
  kubectl delete mutatingwebhookconfiguration,validatingwebhookconfiguration -l app.kubernetes.io/name=kueue --ignore-not-found
  kubectl delete workloads.kueue.x-k8s.io --all --all-namespaces --wait=false 2>/dev/null || true  # their finalizers need Kueue
  for kind in localqueues clusterqueues resourceflavors workloadpriorityclasses; do
    kubectl delete "$kind.kueue.x-k8s.io" --all --all-namespaces --timeout=60s 2>/dev/null || true
  done
  kubectl delete crd,clusterrole,clusterrolebinding,namespace -l app.kubernetes.io/name=kueue --ignore-not-found
  exit
fi

printf 'module kueue\n\ngo 1.26.0\n\nrequire sigs.k8s.io/kueue %s\n' "$version" >"$work/go.mod"
cd "$work"
module=$(go mod download -json "sigs.k8s.io/kueue@$version" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
if [ "$(cat "$bin/.kueue" 2>/dev/null)" != "$version kueue" ]; then
  cp "$module/go.sum" . && chmod u+w go.sum
  nice -n 5 go build -ldflags "-s -w" -o kueue sigs.k8s.io/kueue/cmd/kueue
  mkdir -p "$bin" && mv kueue "$bin/kueue" && echo "$version kueue" >"$bin/.kueue"
fi

mkdir image && cp "$bin/kueue" image/manager
printf 'FROM scratch\nCOPY manager /manager\nUSER 65532:65532\nENTRYPOINT ["/manager"]\n' >image/Dockerfile
buildah bud --quiet --tag "localhost/kueue:$version" image >/dev/null
buildah push --quiet --tls-verify=false --digestfile digest "localhost/kueue:$version" "docker://$registry/kueue:$version"

# Its own manifests, without what TrainJobs and Jobs do not need: no hook may stand in the way of others' pods and deployments, and
# an aggregated API that is away would keep namespaces from being deleted.
kubectl kustomize "$module/config/default" | python3 -c '
import sys, yaml
image, out = sys.argv[1], []
config = {"apiVersion": "config.kueue.x-k8s.io/v1beta2", "kind": "Configuration", "health": {"healthProbeBindAddress": ":8081"},
    "metrics": {"bindAddress": ":8443"}, "webhook": {"port": 9443}, "leaderElection": {"leaderElect": False},
    "featureGates": {"VisibilityOnDemand": False},
    "integrations": {"frameworks": ["batch/job", "trainer.kubeflow.org/trainjob"]}}
kept = {prefix + kind for prefix in "mv" for kind in ("workload.kb.io", "clusterqueue.kb.io", "cohort.kb.io", "resourceflavor.kb.io")}
jobs = {prefix + kind for prefix in "mv" for kind in ("job.kb.io", "trainjob.kb.io")}
for item in yaml.safe_load_all(sys.stdin):
    if item["kind"] == "APIService" or item["metadata"].get("namespace") == "kube-system":
        continue
    if item["kind"].endswith("WebhookConfiguration"):
        item["webhooks"] = [hook for hook in item["webhooks"] if hook["name"] in kept | jobs]
        for hook in item["webhooks"]:
            if hook["name"] in jobs:
                hook["objectSelector"] = {"matchExpressions": [{"key": "kueue.x-k8s.io/queue-name", "operator": "Exists"}]}
    if item["kind"] == "ConfigMap":
        item["data"] = {name: yaml.safe_dump(config) for name in item["data"]}
    if item["kind"] == "Deployment":
        (container,) = item["spec"]["template"]["spec"]["containers"]
        container |= {"image": image, "imagePullPolicy": "IfNotPresent", "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}}}
    out.append(item)
yaml.safe_dump_all(out, sys.stdout)' "$registry/kueue@$(cat digest)" >kueue.yaml
kubectl apply --server-side --force-conflicts -f kueue.yaml >/dev/null
kubectl -n kueue-system rollout status deployment/kueue-controller-manager --timeout=180s
