"""Measure a study: settings, presets, and what runs and stores the measurements. See `seqjax.study.runner.run`."""
