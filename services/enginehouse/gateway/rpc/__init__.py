"""The Open Inference Protocol over gRPC, in front of every engine."""
