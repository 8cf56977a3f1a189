"""Turn a folder of measurements into a self-contained page: see `seqjax.report.page.render`."""
