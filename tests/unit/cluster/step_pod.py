"""The pod of a pipeline's step as Kubeflow Pipelines, Argo and the cluster make it."""

from __future__ import annotations

from typing import Any

CLAIM = "team-cache"
_SCRATCH = ("kfp-launcher", "gcs-scratch", "s3-scratch", "minio-scratch", "dot-local-scratch")
_TOKEN = {"name": "kube-api-access-x7k2p", "readOnly": True,
          "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}  # fmt: skip


def step_pod(name: str, home: str, mounted: str) -> dict[str, Any]:
    """A pod whose claim team-cache is mounted at `mounted`, with YTRAINER_HOME=`home`."""
    field = {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}
    secret = {"secretKeyRef": {"name": "ytrainer-s3", "key": "AWS_SECRET_ACCESS_KEY",
                               "optional": True}}  # fmt: skip
    return {
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "labels": {"pipeline/runid": "7f3c", "workflows.argoproj.io/workflow": "finetune-zx8"},
            "annotations": {
                "kubectl.kubernetes.io/default-container": "main",
                "sidecar.istio.io/inject": "false",
            },
        },
        "spec": {
            "serviceAccountName": "pipeline-runner",
            "imagePullSecrets": [{"name": "registry"}],
            "nodeSelector": {"pool": "idle"},
            "tolerations": [
                {"key": "idle", "operator": "Exists", "effect": "NoSchedule"},
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists",
                 "effect": "NoExecute", "tolerationSeconds": 300},
            ],
            "securityContext": {"fsGroup": 100, "runAsUser": 0},
            "initContainers": [
                {"name": "init", "image": "quay.io/argoproj/argoexec:v3.7"},
                {"name": "kfp-launcher", "image": "ghcr.io/kubeflow/kfp-launcher:2.17.0"},
            ],
            "containers": [
                {
                    "name": "wait",
                    "image": "quay.io/argoproj/argoexec:v3.7",
                    "env": [{"name": "AWS_REGION", "value": "of-the-wrong-container"}],
                },
                {
                    "name": "main",
                    "image": "registry/ytrainer@sha256:0a1b",
                    "securityContext": {"runAsUser": 1000, "allowPrivilegeEscalation": False},
                    "envFrom": [{"configMapRef": {"name": "metadata-grpc-configmap"}}],
                    "env": [
                        {"name": "KFP_POD_NAME", "valueFrom": field},
                        {"name": "NAMESPACE", "value": "team"},
                        {"name": "ARGO_CONTAINER_NAME", "value": "main"},
                        {"name": "YTRAINER_HOME", "value": home},
                        {"name": "HF_HOME", "value": f"{mounted}/hub"},
                        {"name": "HF_ENDPOINT", "value": ""},
                        {"name": "AWS_ENDPOINT_URL", "value": "http://first"},
                        {"name": "AWS_ENDPOINT_URL", "value": "http://minio:9000"},
                        {"name": "AWS_SECRET_ACCESS_KEY", "valueFrom": secret},
                        {"name": "AWS_CA_BUNDLE", "value": "/kfp/certs/ca.crt"},
                        {"name": "MLFLOW_TRACKING_URI", "value": "http://mlflow"},
                        {"name": "https_proxy", "value": "http://proxy:3128"},
                        {"name": "NO_PROXY", "value": "10.0.0.0/8"},
                    ],
                    "volumeMounts": [
                        *({"name": each, "mountPath": f"/{each}"} for each in _SCRATCH),
                        {"name": "ca-bundle", "mountPath": "/kfp/certs"},
                        {"name": "cache", "mountPath": mounted, "subPath": "ytrainer"},
                        {"name": "corpora", "mountPath": "/corpora", "readOnly": True},
                        _TOKEN,
                    ],
                },
            ],
            "volumes": [
                *({"name": each, "emptyDir": {}} for each in _SCRATCH),
                {"name": "ca-bundle", "configMap": {"name": "ca-bundle"}},
                {"name": "cache", "persistentVolumeClaim": {"claimName": CLAIM}},
                {"name": "corpora", "persistentVolumeClaim": {"claimName": "corpora"}},
                {"name": _TOKEN["name"], "projected": {"sources": []}},
            ],
        },
        "status": {"phase": "Running"},
    }  # fmt: skip
