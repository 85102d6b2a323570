"""What the fork owes to the project that it comes from: its tests, and a pull request.

Each command takes a git checkout of that project, which stays as it is.
"""
