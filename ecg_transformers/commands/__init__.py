"""The commands of `ecg-transformers`, one file each: `add_command(commands)` adds its options and what it runs."""
