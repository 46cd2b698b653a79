# SPDX-License-Identifier: Apache-2.0
"""One GPU for many robots: sentences are understood on a server, objects are followed on board.

wire/    what goes over the network, versioned, and its codec
server/  queue, engine, the service that every transport wraps, gRPC, Ray Serve
client/  the robot's side: a link that comes and goes, and what takes the language model's place
"""
