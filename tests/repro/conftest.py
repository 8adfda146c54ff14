"""The scripts are run by test_faults.py, each in a process of its own; nothing in them is to be collected."""

collect_ignore_glob = ["fault_*.py"]
