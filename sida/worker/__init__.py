"""The processes of a job: what launchers start (``main``), a process's view of its job, and how processes talk to one another."""
