"""Images as pure array functions: boxes, resampling, views and patches."""
