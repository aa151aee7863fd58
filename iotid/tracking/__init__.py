"""MLflow: runs, model versions, the champion and its lock, and models that answer outside of iotid."""
