"""One training on several machines: a TrainJob of Kubeflow Trainer, made, followed, cleaned up."""
