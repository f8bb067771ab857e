"""A cron expression in a time zone: is it one, and when does it come up? Pure but for tzdata."""
