"""What every command needs from its machine: settings files, signals, progress, systemd, checks."""
