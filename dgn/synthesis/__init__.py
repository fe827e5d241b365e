"""The main job: units x seeds through a prior."""
