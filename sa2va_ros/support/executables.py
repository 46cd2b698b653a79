# SPDX-License-Identifier: Apache-2.0
"""The nodes by the names that `ros2 run sa2va_ros NAME` knows, and the modules behind them."""

from __future__ import annotations

EXECUTABLES = {
    "tracker_node": "sa2va_ros.tracker_node",
    "cameras_node": "sa2va_ros.cameras_node",
    "bag_player": "sa2va_ros.bags.player",
    "collision_object": "sa2va_ros.clients.collision_object",
    "follow_tree": "sa2va_ros.clients.follow_tree",
    "follower": "sa2va_ros.clients.follower",
    "picker": "sa2va_ros.clients.picker",
    "semantic_grid": "sa2va_ros.clients.semantic_grid",
    "sim_camera": "sa2va_ros.sim.camera",
    "sim_following": "sa2va_ros.sim.following",
    "sim_gantry": "sa2va_ros.sim.gantry",
    "sim_rover": "sa2va_ros.sim.rover",
    "truth_tracker": "sa2va_ros.sim.truth_tracker",
}
