# SPDX-License-Identifier: Apache-2.0
"""The tabletop world: scenes with true masks, depth and sentences, for the demo, for training and for tests.

Two painters share one vocabulary: `flat` draws cheap 2D scenes with OpenCV, `simulator` renders a MuJoCo table.
Everything is a function of its seed. Imported as `sa2va_sim`; knows neither the model nor ROS.
"""
