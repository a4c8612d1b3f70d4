"""Lightning callbacks, plugins and loggers."""
