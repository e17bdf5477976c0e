"""Side by side with stock torch, on the same programs, in the same run."""
