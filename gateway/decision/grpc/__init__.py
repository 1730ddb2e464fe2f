"""Decisions by gRPC: Envoy's `envoy.service.auth.v3.Authorization`, the extra `gateway[grpc]`.

Only this room imports grpcio and protobuf. They are not there without the extra, and cost
memory and time to start: so `gateway.builders` imports this room only where `decision.grpc_listen` is set.
"""
