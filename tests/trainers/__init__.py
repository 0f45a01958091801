"""The adapters inside the trainers' own code, which `make test-trainers` installs."""
