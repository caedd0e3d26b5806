"""ImgSpaceJoint: the chain of ImgSpaceIdentity before a classifier that was trained on what the autoencoders make of single corruptions."""

from train.img_space_identity import ImgSpaceIdentity


class ImgSpaceJoint(ImgSpaceIdentity):
    """The classifier's experiment makes the difference."""
