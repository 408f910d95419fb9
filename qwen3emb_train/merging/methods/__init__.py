"""The mathematics of merging on single tensors, one method a file; names, files and dtypes are merge.py's business."""
