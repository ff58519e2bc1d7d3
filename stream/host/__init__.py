"""Services of the machine that every command needs: program, settings files, progress, systemd, checks."""
