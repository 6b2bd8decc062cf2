# SPDX-License-Identifier: CC0-1.0
"""The parts of tools/train_video.py: shapes (the data), detector and score (the ruler), nets (the models)."""
