"""Files to batches on the device: readers, transforms, mixing, loaders and the embedded data.

`preprocessing` and `decode` need Pillow and torch only; timm is imported by the first training transform that uses
one of its policies, never before.
"""
