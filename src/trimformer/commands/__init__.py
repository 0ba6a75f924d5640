"""The commands of `trimformer`, one file each."""
