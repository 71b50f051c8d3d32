"""Plain network modules, built from a plan's configuration."""
