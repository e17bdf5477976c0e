"""What makes files of the repository, such as the list of operators."""
