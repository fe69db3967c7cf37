"""One suite for all backends: what each must do, named after the code or race it is about."""
